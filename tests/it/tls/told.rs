//! What a listener tells its clients beside a certificate: that they should come by TLS alone, and that the certificate
//! still holds.

use std::path::Path;

use super::{certificates, over};
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::peers::run;
use crate::support::tls::{Authority, Issued};
use crate::support::websocket::upgrade;
use crate::support::{Client, Scripted};

for_each_engine! {
    browsers_are_told_in_every_answer_to_come_by_tls_alone,
}

async fn browsers_are_told_in_every_answer_to_come_by_tls_alone() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let server = Scripted::start(|mut client, _| async move {
        while client.request().await.is_some() {
            let says = "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 0\r\n\r\n";
            client.send(says).await;
        }
    })
    .await;
    let gateway = over(&format!("{listed}, hsts: {{ include_subdomains: true }}"), server.address())
        .another_listener("name: plain")
        .another_listener(format!("name: silent, tls: {{ {listed} }}"))
        .more("limits: { headers: 3 }")
        .start()
        .await;
    let tls = authority.client(&[]);
    let values = |answer: &crate::support::client::Answer| {
        let fields = answer.headers.iter().filter(|(name, _)| name == "strict-transport-security");
        fields.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let expected = ["max-age=31536000; includeSubDomains"];
    let secure = async || tls.open(gateway.address("web"), "a.test").await;
    let answer = secure().await.get("/").await;
    assert_eq!(
        (answer.status, values(&answer)),
        (200, expected.map(str::to_owned).to_vec()),
        "in place of the server's"
    );
    // Refused before it is a request, and before it has a route; an upgrade that the server refuses; a bad path.
    for (bytes, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n".to_owned(), 431),
        ("GET /../.. HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
    ] {
        let mut client = secure().await;
        client.send(&bytes).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, values(&answer)), (status, expected.map(str::to_owned).to_vec()), "{bytes}");
    }
    let http2 = authority.client(&["h2"]).connect(gateway.address("web"), "a.test").await.unwrap();
    let http2 = Http2::over(http2).await;
    for path in ["/", "/../.."] {
        let answer = http2.get(&format!("https://a.test{path}")).await;
        let told: Vec<_> = answer.headers().get_all("strict-transport-security").iter().collect();
        assert_eq!(told, expected, "{path}");
    }
    let plain = Client::connect(gateway.address("plain")).await.get("/").await;
    assert_eq!(values(&plain), ["max-age=1"], "what a server says is its own business where nothing is said here");
    let silent = tls.open(gateway.address("silent"), "a.test").await.get("/").await;
    assert_eq!(values(&silent), ["max-age=1"]);
}

#[tokio::test]
async fn a_websocket_is_opened_with_the_same_field() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let web = crate::support::Echo::start("web").await;
    let gateway = over(&format!("{listed}, hsts: {{ max_age: 1h }}"), web.address()).start().await;
    let mut socket = authority.client(&[]).open(gateway.address("web"), "a.test").await;
    socket.send(upgrade("/")).await;
    let answer = socket.answer().await;
    assert_eq!((answer.status, answer.header("strict-transport-security")), (101, Some("max-age=3600")));
    socket.send(b"\x81\x02hi").await;
    assert_eq!(socket.read(4).await, b"\x81\x02hi");
}

/// Makes an OCSP response about a certificate, good for `days`; false where `openssl` is not installed.
async fn answered(authority: &Authority, of: &Issued, status: &str, days: &str, to: &str) -> bool {
    let index = authority.file("index.txt");
    let line = match status {
        "good" => "V\t900101000000Z\t\t0102\tunknown\t/CN=a\n",
        _ => "R\t900101000000Z\t200101000000Z\t0102\tunknown\t/CN=a\n",
    };
    std::fs::write(&index, line).unwrap();
    std::fs::write(format!("{index}.attr"), "unique_subject = no\n").unwrap();
    let (ca, ca_key, asked) = (authority.ca(), authority.file("ca.key"), authority.file("asked.der"));
    let ask = ["ocsp", "-issuer", &ca, "-cert", &of.cert, "-reqout", &asked, "-no_nonce"];
    if run("openssl", &ask, "").await.is_none() {
        return false;
    }
    let answer = [
        "ocsp", "-index", &index, "-CA", &ca, "-rsigner", &ca, "-rkey", &ca_key, "-reqin", &asked, "-respout", to,
        "-ndays", days,
    ];
    let said = run("openssl", &answer, "").await.unwrap();
    assert!(Path::new(to).exists(), "{}", said.text);
    true
}

#[tokio::test]
async fn a_response_that_holds_is_stapled_and_others_are_told_of_and_not_sent() {
    let authority = Authority::new();
    let issued = authority.sign_with(&["a.test"], |params| params.serial_number = Some(0x0102.into()));
    let other = authority.sign_with(&["b.test"], |params| params.serial_number = Some(0x0103.into()));
    let web = crate::support::Echo::start("web").await;
    let staple = authority.file("staple.der");
    if !answered(&authority, &issued, "good", "3", &staple).await {
        return;
    }
    let listed =
        |issued: &Issued| format!("certificates: [{{ cert: {}, key: {}, ocsp: {staple} }}]", issued.cert, issued.key);
    let gateway = over(&listed(&issued), web.address()).start().await;
    let ca = authority.ca();
    let shown = async |gateway: &crate::support::Gateway| {
        let at = gateway.address("web").to_string();
        let ask = ["s_client", "-connect", &at, "-servername", "a.test", "-CAfile", &ca, "-status"];
        run("openssl", &ask, "").await.unwrap().text
    };
    let text = shown(&gateway).await;
    assert!(text.contains("OCSP Response Status: successful") && text.contains("Cert Status: good"), "{text}");
    let ends = gateway.metric(&format!("sockgate_certificate_ends_seconds{{file=\"{staple}\"}}")).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((ends - now - 3.0 * 24.0 * 3600.0).abs() < 120.0, "{ends}");
    // A new file is taken up; one that says nothing good is not shown, and neither is one that can't be read.
    for (replaced, reason) in [("revoked", "has been taken back"), ("garbage", "expected an OCSP response in DER")] {
        let new = authority.file("new.der");
        match replaced {
            "garbage" => std::fs::write(&new, "nonsense").unwrap(),
            status => assert!(answered(&authority, &issued, status, "3", &new).await),
        }
        std::fs::rename(&new, &staple).unwrap();
        gateway.log_line(reason).await;
        crate::support::eventually("nothing is stapled", async || shown(&gateway).await.contains("no response sent"))
            .await;
    }
    assert!(answered(&authority, &issued, "good", "3", &staple).await);
    let of_another = over(&listed(&other), web.address()).start().await;
    of_another.log_line("it says nothing of this certificate: nothing is stapled").await;
    assert!(shown(&of_another).await.contains("no response sent"));
}
