//! Files of a folder, by whatever speaks HTTP, and as curl sees them.

use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, peers};

for_each_engine! {
    a_front_end_is_served_with_ranges_and_conditions,
    curl_resumes_a_download,
    what_lies_there_compressed_goes_so_with_ranges_and_conditions_of_its_own,
}

async fn start() -> (tempfile::TempDir, Gateway) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("assets")).unwrap();
    std::fs::write(folder.path().join("index.html"), "<p>app</p>").unwrap();
    std::fs::write(folder.path().join(".env"), "secret").unwrap();
    let large: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    std::fs::write(folder.path().join("assets/app.js"), large).unwrap();
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ path: /static }}
    files: {{ root: {root} }}
    rewrite: {{ strip_prefix: /static }}
    response_headers: {{ set: {{ Cache-Control: immutable }} }}
  - files: {{ root: {root}, fallback: index.html }}
",
        root = folder.path().display()
    ))
    .await;
    (folder, gateway)
}

async fn a_front_end_is_served_with_ranges_and_conditions() {
    let (_folder, gateway) = start().await;
    let mut client = gateway.client().await;
    let page = client.get("/users/7").await;
    assert_eq!((page.status, page.text().as_str()), (200, "<p>app</p>"));
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let whole = client.get("/static/assets/app.js").await;
    assert_eq!((whole.status, whole.body.len()), (200, 300_000));
    assert_eq!(whole.header("cache-control"), Some("immutable"));
    let etag = whole.header("etag").unwrap().to_owned();
    let part = client.get_with("/static/assets/app.js", "Range: bytes=10-13\r\n").await;
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 10-13/300000")));
    assert_eq!(part.body, [10, 11, 12, 13]);
    let beyond = client.get_with("/static/assets/app.js", "Range: bytes=300000-\r\n").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */300000")));
    for path in ["/.env", "/static/.env", "/none.js", "/static/assets/", "/static/assets", "/static/../.env"] {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
    assert_eq!(client.post("/index.html", b"x").await.status, 405);
    let http2 = Http2::over(tcp(gateway.address("web")).await).await;
    let request = http::Request::get("http://a.test/static/assets/app.js").header("if-none-match", &etag);
    let kept = http2.ask(request.body(()).unwrap(), "").await;
    assert_eq!((kept.status().as_u16(), kept.body().len()), (304, 0));
    let whole = http2.get("http://a.test/static/assets/app.js").await;
    assert_eq!((whole.status().as_u16(), whole.body().len()), (200, 300_000));
    let mut socket = Client::connect(gateway.address("web")).await;
    socket.send(upgrade("/socket")).await;
    assert_eq!(socket.answer().await.status, 200, "there is no WebSocket, and a page");
}

async fn what_lies_there_compressed_goes_so_with_ranges_and_conditions_of_its_own() {
    let (folder, gateway) = start().await;
    std::fs::write(folder.path().join("assets/app.js.br"), "0123456789").unwrap();
    let mut client = gateway.client().await;
    let path = "/static/assets/app.js";
    let whole = client.get_with(path, "Accept-Encoding: gzip, br\r\n").await;
    assert_eq!((whole.header("content-encoding"), whole.text().as_str()), (Some("br"), "0123456789"));
    assert_eq!(
        (whole.header("vary"), whole.header("content-type")),
        (Some("Accept-Encoding"), Some("text/javascript; charset=utf-8"))
    );
    let etag = whole.header("etag").unwrap().to_owned();
    let part = client.get_with(path, &format!("Accept-Encoding: br\r\nRange: bytes=2-3\r\nIf-Range: {etag}\r\n")).await;
    assert_eq!((part.status, part.header("content-encoding"), part.text().as_str()), (206, Some("br"), "23"));
    let kept = client.get_with(path, &format!("Accept-Encoding: br\r\nIf-None-Match: {etag}\r\n")).await;
    assert_eq!((kept.status, kept.header("vary")), (304, Some("Accept-Encoding")));
    let plain = client.get_with(path, &format!("If-None-Match: {etag}\r\n")).await;
    assert_eq!((plain.status, plain.header("content-encoding"), plain.body.len()), (200, None, 300_000));
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));
    let http2 = Http2::over(tcp(gateway.address("web")).await).await;
    let request = http::Request::get(format!("http://a.test{path}")).header("accept-encoding", "br");
    let whole = http2.ask(request.body(()).unwrap(), "").await;
    assert_eq!(
        (&whole.headers()["content-encoding"], &whole.body()[..]),
        (&http::HeaderValue::from_static("br"), &b"0123456789"[..])
    );
}

async fn curl_resumes_a_download() {
    let (folder, gateway) = start().await;
    let file = folder.path().join("got");
    let whole = std::fs::read(folder.path().join("assets/app.js")).unwrap();
    std::fs::write(&file, &whole[..100_000]).unwrap();
    let url = format!("http://{}/static/assets/app.js", gateway.address("web"));
    let file = file.display().to_string();
    let arguments = ["-sS", "-C", "-", "-o", &file, "-w", "%{http_code}", &url];
    let Some(said) = peers::run("curl", &arguments, "").await else { return };
    assert_eq!(said.text, "206");
    assert!(std::fs::read(&file).unwrap() == whole);
    let head = peers::run("curl", &["-sSI", &url], "").await.unwrap().text.to_ascii_lowercase();
    assert!(head.contains("content-length: 300000") && head.contains("accept-ranges: bytes"), "{head}");
}
