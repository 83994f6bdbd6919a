use super::*;
use crate::request::testing::request;

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("site/index.html", "<p>home</p>");
        put("site/app.js", "start()");
        put("site/docs/index.html", "docs");
        put("site/empty/x.txt", "x");
        put("site/.env", "secret");
        put("outside.txt", "outside");
        std::os::unix::fs::symlink("../outside.txt", folder.path().join("site/link.txt")).unwrap();
        std::os::unix::fs::symlink("app.js", folder.path().join("site/inside.js")).unwrap();
        Self(folder)
    }

    async fn get(&self, target: &str, fallback: Option<&str>) -> (u16, String) {
        let said = Arc::new(Files {
            root: self.0.path().join("site"),
            index: "index.html".to_owned(),
            fallback: fallback.map(str::to_owned),
        });
        let request = request("GET", target, &[]);
        let answer = answer(&said, &request, &request.path.canonical, target, Vec::new()).await;
        let location = answer.headers.iter().find(|(name, _)| *name == LOCATION);
        let text = location.map_or_else(
            || String::from_utf8(answer.body.to_vec()).unwrap(),
            |(_, location)| location.to_str().unwrap().to_owned(),
        );
        (answer.status.as_u16(), text)
    }
}

#[tokio::test]
async fn files_are_served_and_folders_by_their_index() {
    let site = Site::new();
    for (target, status, text) in [
        ("/", 200, "<p>home</p>"),
        ("/app.js", 200, "start()"),
        ("/inside.js", 200, "start()"),
        ("/%61pp.js?v=1", 200, "start()"),
        ("/docs/", 200, "docs"),
        ("/docs?x", 308, "/docs/?x"),
        ("//docs", 308, "/docs/"),
    ] {
        assert_eq!(site.get(target, None).await, (status, text.to_owned()), "{target}");
    }
}

#[tokio::test]
async fn nothing_hidden_outside_or_listed_is_served() {
    let site = Site::new();
    for target in [
        "/.env",
        "/%2eenv",
        "/link.txt",
        "/docs/../.env",
        "/docs/..%2Findex.html",
        "/docs/..;/index.html",
        "/docs%5c..",
        "/empty/",
        "/empty",
        "/app.js/",
        "/app.js/x",
        "/none.js",
    ] {
        assert_eq!(site.get(target, None).await.0, 404, "{target}");
    }
}

#[tokio::test]
async fn pages_of_an_app_are_all_its_first_and_missing_files_are_missing() {
    let site = Site::new();
    for (target, status) in [("/users/7", 200), ("/users/", 200), ("/none.js", 404), ("/.env", 404), ("/a%2Fb", 404)] {
        let (got, text) = site.get(target, Some("index.html")).await;
        assert_eq!(got, status, "{target}: {text}");
        assert_eq!(text == "<p>home</p>", status == 200, "{target}: {text}");
    }
}

#[tokio::test]
async fn a_file_that_several_are_sent_is_in_memory_once() {
    let site = Site::new();
    let said = Arc::new(Files { root: site.0.path().join("site"), index: "index.html".to_owned(), fallback: None });
    let request = request("GET", "/app.js", &[]);
    let first = answer(&said, &request, "/app.js", "/app.js", Vec::new()).await;
    let second = answer(&said, &request, "/app.js", "/app.js", Vec::new()).await;
    assert_eq!(first.body.as_ptr(), second.body.as_ptr());
}

#[tokio::test]
async fn a_file_that_lies_there_compressed_goes_so_to_who_takes_it() {
    let site = Site::new();
    let root = site.0.path().join("site");
    fs::write(root.join("app.js.br"), "br of it").unwrap();
    fs::write(root.join("app.js.gz"), "gz of it").unwrap();
    std::os::unix::fs::symlink("../outside.txt", root.join("app.js.zst")).unwrap();
    let said = Arc::new(Files { root, index: "index.html".to_owned(), fallback: None });
    let request = request("GET", "/app.js", &[]);
    let mut tags = Vec::new();
    for (codings, coding, body) in [
        (&["zstd", "br", "gzip"][..], Some("br"), "br of it"),
        (&["gzip", "br"], Some("gzip"), "gz of it"),
        (&["zstd"], None, "start()"),
        (&[], None, "start()"),
    ] {
        let answer = answer(&said, &request, "/app.js", "/app.js", codings.to_vec()).await;
        let field = |name: http::HeaderName| {
            let field = answer.headers.iter().find(|(known, _)| *known == name);
            field.map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        assert_eq!((field(CONTENT_ENCODING).as_deref(), &answer.body[..]), (coding, body.as_bytes()), "{codings:?}");
        assert_eq!(field(VARY).as_deref(), Some("Accept-Encoding"));
        assert_eq!(field(CONTENT_TYPE).as_deref(), Some("text/javascript; charset=utf-8"));
        tags.push(field(ETAG).unwrap());
    }
    tags.dedup();
    assert_eq!(tags.len(), 3, "each form has its own tag: {tags:?}");
    let alone = answer(&said, &request, "/", "/", vec!["br"]).await;
    assert!(alone.headers.iter().all(|(name, _)| *name != VARY), "what is there once depends on nothing");
}
