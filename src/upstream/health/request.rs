//! The request of a health check: what `health` says of it, and what it says by itself.

use std::borrow::Cow;

use crate::http::write::HeadWriter;
use crate::request::is_token;
use crate::text::Text;
use crate::upstream::config::{self, frames_a_body};

/// The request, with `Host` and a name for the log of the server unless `headers` bring their own.
pub(crate) fn request(
    method: &str,
    target: &str,
    host: &str,
    health: &config::Health,
    fields: &[(Cow<'static, str>, Vec<u8>)],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let mut head = HeadWriter::request(method, target, 1);
    let said = |name: &str| health.headers.keys().any(|said| said.eq_ignore_ascii_case(name));
    for (name, value) in [("host", host), ("user-agent", AGENT), ("accept", "*/*")] {
        if !said(name) {
            head.field(name, value);
        }
    }
    for (name, value) in &health.headers {
        head.field(name, value);
    }
    for (name, value) in fields {
        head.field(name, value);
    }
    if let Some(body) = body {
        head.field("content-length", Text::number(body.len() as u64).as_bytes());
    }
    head.end_with(body.unwrap_or_default())
}

const AGENT: &str = concat!("sockgate/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Refuses what would not make one well-formed request.
pub(crate) fn check(health: &config::Health) -> Result<(), String> {
    if !is_token(&health.method) {
        return Err(format!("health.method `{}` is not an HTTP method", health.method));
    }
    if let Some(path) = &health.path
        && !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'))
    {
        return Err(format!("health.path `{path}` is not a path: expected one such as /health?full=1"));
    }
    for (name, value) in &health.headers {
        if !is_token(name) {
            return Err(format!("health.headers: `{name}` is not a header name"));
        }
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(format!("health.headers: the value of `{name}` holds a control character"));
        }
        if frames_a_body(name) {
            return Err(format!("health.headers: `{name}` can't be set: a check says itself how long it is"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_brings_what_was_said_and_what_was_not() {
        let mut health = config::Health::default();
        let plain = String::from_utf8(request("GET", "/x", "a:1", &health, &[], None)).unwrap();
        assert_eq!(plain, format!("GET /x HTTP/1.1\r\nhost: a:1\r\nuser-agent: {AGENT}\r\naccept: */*\r\n\r\n"));
        for (name, value) in [("HOST", "b"), ("User-Agent", "c"), ("Accept", "d")] {
            health.headers.insert(name.to_owned(), value.to_owned());
        }
        let fields = [("content-type".into(), b"text/plain".to_vec())];
        let said = String::from_utf8(request("POST", "/", "a:1", &health, &fields, Some(b"1"))).unwrap();
        let expected = "POST / HTTP/1.1\r\nAccept: d\r\nHOST: b\r\nUser-Agent: c\r\n\
                        content-type: text/plain\r\ncontent-length: 1\r\n\r\n1";
        assert_eq!(said, expected);
    }

    #[test]
    fn what_would_break_a_request_is_refused() {
        let fault = |change: fn(&mut config::Health)| {
            let mut health = config::Health::default();
            change(&mut health);
            check(&health).unwrap_err()
        };
        assert!(fault(|health| health.method = "GET /".to_owned()).contains("not an HTTP method"));
        assert!(fault(|health| health.path = Some("x".to_owned())).contains("not a path"));
        assert!(fault(|health| health.path = Some("/ HTTP/1.1\r\n".to_owned())).contains("not a path"));
        let header = |name: &str| std::iter::once((name.to_owned(), "1".to_owned())).collect();
        let mut health = config::Health::default();
        for (name, fault) in [("a b", "not a header name"), ("Content-Length", "can't be set")] {
            health.headers = header(name);
            assert!(check(&health).unwrap_err().contains(fault));
        }
        health.headers = header("X-Probe");
        assert_eq!(check(&health), Ok(()));
    }
}
