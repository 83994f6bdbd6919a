//! Files that a configuration includes: each is watched, and so is the folder that may get more of them.

use super::yaml;
use crate::support::{Echo, Gateway, eventually};

#[tokio::test]
async fn a_file_that_joins_a_folder_changes_or_leaves_is_taken_up() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let team = |name: &str, body: &str| {
        let file = folder.path().join(format!("{name}.yaml"));
        let text =
            format!("routes:\n  - {{ name: {name}, match: {{ path: /{name} }}, respond: {{ body: {body} }} }}\n");
        let new = folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, file).unwrap();
    };
    team("a", "first");
    // The route of the file itself takes what no team does, and would take all of it from first place.
    let main = yaml(web.address(), &format!("include: {}", folder.path().display()));
    let main = main.replace("{ name: web, upstream: web }", "{ name: web, match: { path: /web }, upstream: web }");
    let gateway = Gateway::start(&main.replace("watch: false", "watch: true")).await;
    let get = async |path: &str| gateway.client().await.get(path).await.text();
    assert_eq!(get("/a").await, "first");

    team("b", "joined");
    gateway.log_line("reloaded: route b added").await;
    assert_eq!(get("/b").await, "joined");
    team("a", "second");
    eventually("the changed file is taken up", async || get("/a").await == "second").await;

    std::fs::write(folder.path().join("c.yaml"), "routes:\n  - { upsteam: web }\n").unwrap();
    gateway.log_line("not reloaded").await;
    gateway.log_line("c.yaml:2:7: routes[0].upsteam: unknown key, did you mean `upstream`?").await;
    std::fs::remove_file(folder.path().join("c.yaml")).unwrap();
    std::fs::remove_file(folder.path().join("b.yaml")).unwrap();
    gateway.log_line("reloaded: route b removed").await;
    assert_eq!(get("/a").await, "second");
}
