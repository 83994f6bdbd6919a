//! Certificates that are renewed while sockets live: how their files may come, and that nobody is disturbed.

use std::os::unix::fs::symlink;
use std::path::Path;

use rustls_pki_types::CertificateDer;

use super::over;
use crate::support::tls::{Authority, Issued, shown};
use crate::support::websocket::{echoes, opened};
use crate::support::{Client, Echo, Gateway, Setup, eventually, within};

const SOCKETS: usize = 100;

/// Live sockets from before the renewals.
async fn sockets(gateway: &Gateway, authority: &Authority) -> Vec<Client> {
    let tls = authority.client(&[]);
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let client = tls.open(gateway.address("web"), "a.test").await;
        sockets.push(opened(client, "/").await);
    }
    sockets
}

/// Waits until new clients are shown this one.
async fn shows(gateway: &Gateway, authority: &Authority, certificate: &CertificateDer<'_>) {
    eventually("the new certificate is shown", async || {
        // A client each time: one that is resumed is shown nothing.
        let stream = authority.client(&[]).connect(gateway.address("web"), "a.test").await.unwrap();
        let now = shown(&stream);
        assert_eq!(Client::over(stream).get("/").await.status, 200);
        now == *certificate
    })
    .await;
}

#[tokio::test]
async fn the_link_that_cert_manager_turns_renews_under_a_hundred_sockets_and_none_is_lost() {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    // As Kubernetes mounts a secret: `tls.crt` is a link to `..data/tls.crt`, and `..data` one to a folder by date.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mount = |version: &str, issued: &Issued| {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::copy(&issued.cert, at(version).join("tls.crt")).unwrap();
        std::fs::copy(&issued.key, at(version).join("tls.key")).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    mount("..2026_01", &authority.sign(&["a.test"]));
    symlink("..data/tls.crt", at("tls.crt")).unwrap();
    symlink("..data/tls.key", at("tls.key")).unwrap();
    let listed = format!("certificates: [{{ cert: {0}/tls.crt, key: {0}/tls.key }}]", folder.path().display());
    let gateway = over(&listed, web.address()).start().await;
    let mut sockets = sockets(&gateway, &authority).await;
    for version in ["..2026_02", "..2026_03", "..2026_04"] {
        let renewed = authority.sign(&["a.test"]);
        mount(version, &renewed);
        shows(&gateway, &authority, &renewed.der).await;
        for socket in &mut sockets {
            echoes(socket).await;
        }
    }
    assert_eq!(gateway.metric("sockgate_tunnels_open{upstream=\"app\"}").await, SOCKETS as f64);
    assert_eq!(gateway.metric("sockgate_reloads_total{result=\"failed\"}").await, 0.0);
}

#[tokio::test]
async fn halves_of_files_and_pairs_that_do_not_match_change_nothing_until_they_are_whole() {
    let authority = Authority::new();
    let first = authority.sign(&["a.test"]);
    let web = Echo::start("web").await;
    let gateway = over(&format!("certificates: [{}]", first.yaml()), web.address()).start().await;
    let mut socket = opened(authority.client(&[]).open(gateway.address("web"), "a.test").await, "/").await;
    let kept = |name: &str| std::fs::read(name).unwrap();
    let (old_cert, old_key) = (kept(&first.cert), kept(&first.key));
    let renewed = authority.sign(&["a.test"]);
    let (new_cert, new_key) = (kept(&renewed.cert), kept(&renewed.key));
    // They lie in the same files; back to how it was before anybody noticed, or soon after.
    std::fs::write(&first.key, &old_key).unwrap();
    std::fs::write(&first.cert, &old_cert).unwrap();
    shows(&gateway, &authority, &first.der).await;
    let failures = async || gateway.metric("sockgate_reloads_total{result=\"failed\"}").await;
    let half = new_cert.len() / 2;
    for (file, bytes, fault) in [
        (&first.cert, &new_cert[..half], "expected PEM certificates"),
        (&first.cert, &new_cert[..], "does not belong to the certificate"),
        (&first.key, &new_key[..new_key.len() / 2], "expected a PEM private key"),
    ] {
        let before = failures().await;
        std::fs::write(file, bytes).unwrap();
        eventually("the attempt has failed", async || failures().await > before).await;
        gateway.log_line(fault).await;
        let tls = authority.client(&[]);
        let stream = tls.connect(gateway.address("web"), "a.test").await.unwrap();
        assert!(shown(&stream) == first.der, "the old pair is shown after: {fault}");
        echoes(&mut socket).await;
    }
    assert_eq!(gateway.metric("sockgate_reload_last_good").await, 0.0);
    std::fs::write(&first.key, &new_key).unwrap();
    shows(&gateway, &authority, &renewed.der).await;
    eventually("all is well again", async || gateway.metric("sockgate_reload_last_good").await == 1.0).await;
    echoes(&mut socket).await;
}

#[tokio::test]
async fn the_end_of_each_certificate_is_told_to_operators() {
    let authority = Authority::new();
    let soon = authority.sign_with(&["a.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let web = Echo::start("web").await;
    let setup: Setup = over(&format!("certificates: [{}]", soon.yaml()), web.address());
    let gateway = setup.start().await;
    gateway.log_line(&format!("{}: expired at 2021-01-01T00:00:00Z", soon.cert)).await;
    let metric = format!("sockgate_certificate_ends_seconds{{file=\"{}\"}}", soon.cert);
    assert_eq!(gateway.metric(&metric).await, 1_609_459_200.0);
    let status: serde_json::Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    let told = &status["certificates"][0];
    assert_eq!((told["file"].as_str(), told["ends"].as_str()), (Some(&*soon.cert), Some("2021-01-01T00:00:00Z")));
    assert!(told["ends_in_seconds"].as_i64().unwrap() < 0, "{told}");
    let mut check = tokio::process::Command::new(env!("CARGO_BIN_EXE_sockgate"));
    let file = Path::new(&authority.file("checked.yaml")).to_owned();
    std::fs::write(&file, setup.yaml()).unwrap();
    let output = within("check ends", check.args(["check", "-c"]).arg(&file).output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("warning: ") && said.contains("expired at 2021"), "{said}");
}
