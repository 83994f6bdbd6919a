//! What can be guessed of a request before anybody has decided where it goes.

/// Whether a request may be a poll of a session, by its HTTP/1 head alone; false only where it is none.
pub(crate) fn may_be_poll(head: &[u8]) -> bool {
    let Some(rest) = head.strip_prefix(b"GET ") else { return false };
    let target = rest.iter().position(|&byte| byte == b' ').map_or(rest, |end| &rest[..end]);
    target.windows(4).any(|window| matches!(window, b"sid=" | b"/1/x" | b"/1/j"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::engine_io::{RequestInfo, Transport};

    #[test]
    fn every_poll_is_guessed_to_be_one() {
        let token = format!("token={}&EIO=4&transport=polling&sid=abc", "x".repeat(4000));
        for (path, query) in [
            ("/socket.io/", Some("EIO=4&transport=polling&sid=abc")),
            ("/socket.io/", Some("sid=abc&EIO=3&transport=polling&j=0")),
            ("/socket.io/", Some(token.as_str())),
            ("/socket.io/1/xhr-polling/abc", Some("t=1")),
            ("/socket.io/1/jsonp-polling/abc", Some("t=1&i=0")),
        ] {
            let info = RequestInfo::read(path, query);
            assert!(info.sid.is_some() && info.transport.is_some_and(Transport::is_polling), "{path}");
            let target = query.map_or(path.to_owned(), |query| format!("{path}?{query}"));
            assert!(may_be_poll(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()), "{target}");
        }
        assert!(!may_be_poll(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!may_be_poll(b"POST /socket.io/?sid=a&transport=polling HTTP/1.1\r\n\r\n"));
    }
}
