//! Heads of HTTP/1: which fields pass, and how targets and names are spelt.

use crate::support::Gateway;
use crate::support::engine::for_each_engine;

for_each_engine! {
    a_whole_url_is_a_target_too,
    targets_and_fields_keep_their_spelling,
    fields_of_one_connection_stay_on_it,
    requests_are_the_same_wherever_they_are_cut,
}

async fn a_whole_url_is_a_target_too() {
    let (_server, gateway) = Gateway::before_echo("").await;
    let mut client = gateway.client().await;
    for (target, path, host) in [
        ("http://real.example/a%20b?c=d", "/a%20b?c=d", "real.example"),
        ("http://real.example:8080/", "/", "real.example:8080"),
        ("http://real.example", "/", "real.example"),
        ("http://real.example?x", "/?x", "real.example"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: other.example\r\n\r\n")).await;
        let text = client.answer().await.text();
        assert!(text.starts_with(&format!("a\nGET {path} HTTP/1.1\r\n")), "{target} became {text}");
        assert!(text.contains(&format!("Host: {host}\r\n")) && !text.contains("Host: other"), "{target}: {text}");
    }
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.answer().await.text().starts_with("a\nOPTIONS * HTTP/1.1\r\n"));
}

/// Old clients and servers mind both, and what looks odd here may be what an app was written for.
async fn targets_and_fields_keep_their_spelling() {
    let (server, gateway) = Gateway::before_puppet("forwarding: { underscores: true }").await;
    for sent in [
        "/a%2fb/./c/%7e//?x=%20+y&&=",
        "/;p=1/%E2%82%AC?",
        "/?q={\"a\":[1|2]}",
        "/?q=^`\\'<>",
        "/caf\u{e9}?q=\u{20ac}",
        "//double?//",
        "/?http://other/",
    ] {
        // Characters that are no part of any URL are escaped, the way browsers do it.
        let target = sent.replace('"', "%22").replace('<', "%3C").replace('>', "%3E").replace('`', "%60");
        let mut client = gateway.client().await;
        client
            .send(format!("GET {sent} HTTP/1.1\r\nhOST: a\r\nX-ODD_Case.name: one\r\nx-odd_case.NAME: two\r\n\r\n"))
            .await;
        let mut inside = tokio::select! {
            inside = server.accept() => inside,
            answer = client.answer() => panic!("{target}: {}", answer.head),
        };
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap();
        assert_eq!(head.lines().next().unwrap(), format!("GET {target} HTTP/1.1"));
        assert!(head.contains("X-ODD_Case.name: one\r\n") && head.contains("x-odd_case.NAME: two\r\n"), "{head}");
        inside
            .send("HTTP/1.1 200 Quite OK\r\nX-ODD: 1\r\nx-oDD: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        let head = client.answer().await.head;
        assert!(head.contains("X-ODD: 1\r\n") && head.contains("x-oDD: 2\r\n"), "{head}");
    }
}

async fn fields_of_one_connection_stay_on_it() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
             TE: trailers\r\nProxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nTrailer: X\r\n\
             Cookie: a=1\r\nX-Kept: 1\r\n\r\n",
        )
        .await;
    let mut inside = server.accept().await;
    let head = String::from_utf8(inside.request().await.unwrap().head).unwrap().to_ascii_lowercase();
    for gone in ["connection", "x-mine", "keep-alive", "te:", "proxy-", "trailer"] {
        assert!(!head.contains(&format!("\r\n{gone}")), "{gone} in {head}");
    }
    assert!(head.contains("\r\nx-kept: 1\r\n") && head.contains("\r\ncookie: a=1\r\n"));
    inside
        .send(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Theirs\r\nX-Theirs: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authenticate: Basic\r\nTrailer: X\r\nUpgrade: h2c\r\nX-Kept: 1\r\nSet-Cookie: a=1\r\n\
             Set-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
    let answer = client.answer().await;
    for gone in ["x-theirs", "keep-alive", "proxy-authenticate", "trailer", "upgrade"] {
        assert_eq!(answer.header(gone), None, "{}", answer.head);
    }
    assert_eq!(answer.header("x-kept"), Some("1"));
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
}

async fn requests_are_the_same_wherever_they_are_cut() {
    let (_server, gateway) = Gateway::before_echo("forwarding: { request_id: \"\" }").await;
    for request in [
        "GET /some/path?with=query HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n",
        "POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\nhello\r\n\r\nbye",
        "POST /chunks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n\
         00a\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
    ] {
        // The one behind it shows where it ends.
        let behind = "GET /behind HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let sent = request.to_owned() + behind;
        let mut clients = Vec::new();
        for at in 0..sent.len() {
            let mut client = gateway.client().await;
            client.send(&sent[..at]).await;
            clients.push(client);
        }
        let mut answers = Vec::new();
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(&sent[at..]).await;
        }
        for client in &mut clients {
            let (first, second) = (client.answer().await, client.answer().await);
            assert!(second.text().contains("GET /behind "), "{}", second.text());
            answers.push((first.status, joined(&first.text())));
        }
        assert_eq!(answers[0].0, 200);
        for (at, answer) in answers.iter().enumerate() {
            assert_eq!(answer, &answers[0], "{request:?} cut at {at}");
        }
    }
}

/// What was echoed, with the chunks of the body put together: how a body is cut into chunks is nobody's business.
fn joined(echoed: &str) -> String {
    let (head, body) = echoed.split_once("\r\n\r\n").unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return echoed.to_owned();
    }
    let pieces: Vec<&str> = body.split("\r\n").collect();
    head.to_owned() + &pieces.chunks(2).filter_map(|pair| pair.get(1).copied()).collect::<String>()
}
