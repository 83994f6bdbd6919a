//! Reads session, transport and revision from the target of a request; whether it is Socket.IO at all is the route's to know.

use super::Revision;

/// What the target of a Socket.IO request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo<'a> {
    /// The session, if one was opened before and its id is one that the gateway keeps: 1 to [`LONGEST_SID`]
    /// characters of `A-Z a-z 0-9 _ - . ~`, written as themselves.
    pub sid: Option<&'a str>,
    /// How the client wants to speak.
    pub transport: Option<Transport>,
    /// Which wire format the client speaks. A server reads a request of no `EIO` as revision 3.
    pub revision: Option<Revision>,
    /// The callback that a JSONP client asks for: `j=` in Engine.IO, `jsonp=` and `i=` in Socket.IO 0.9.
    pub jsonp: Option<u32>,
    /// Whether the request itself ends the session: `?disconnect=1`, by which a page of Socket.IO 0.9 says goodbye.
    pub goodbye: bool,
}

impl<'a> RequestInfo<'a> {
    /// Reads `path` and `query`, which comes without its `?`. A query with `EIO`, `transport` or `sid` is Engine.IO's;
    /// without one, a path that ends in `/1/`, or in `/1/<transport>/<sid>` (with no transport where the session is to end),
    /// is that of Socket.IO 0.9. Of a parameter that
    /// comes more than once the first counts.
    pub fn read(path: &'a str, query: Option<&'a str>) -> Self {
        let query = Query::read(query.unwrap_or_default());
        if let Query { sid: None, transport: None, eio: None, .. } = query {
            return Self::read_09(path, &query).unwrap_or_default();
        }
        let jsonp = query.j.and_then(index);
        Self {
            sid: query.sid.filter(|sid| is_sid(sid)),
            transport: match query.transport {
                Some("polling") if jsonp.is_some() => Some(Transport::JsonpPolling),
                Some("polling") => Some(Transport::Polling),
                Some("websocket") => Some(Transport::WebSocket),
                Some("flashsocket") => Some(Transport::FlashSocket),
                Some("webtransport") => Some(Transport::WebTransport),
                _ => None,
            },
            revision: query.eio.map(|eio| if eio == "4" { Revision::Eio4 } else { Revision::Eio3 }),
            jsonp,
            goodbye: false,
        }
    }

    fn read_09(path: &'a str, query: &Query<'a>) -> Option<Self> {
        let mut segments = path.strip_suffix('/').unwrap_or(path).rsplit('/');
        let (sid, transport) = match (segments.next()?, segments.next()?, segments.next()) {
            // Canonical paths have lost the empty name of the transport.
            (sid, "1", _) | (sid, "", Some("1")) if query.disconnect.is_some() && is_sid(sid) => (Some(sid), None),
            ("1", ..) => (None, None),
            (sid, name, Some("1")) if is_sid(sid) => (Some(sid), Some(transport_09(name)?)),
            _ => return None,
        };
        let jsonp = query.jsonp.or(query.i).and_then(index);
        let goodbye = sid.is_some() && query.disconnect.is_some();
        Some(Self { sid, transport, revision: Some(Revision::SocketIo09), jsonp, goodbye })
    }
}

/// How a client speaks, or asks to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::enum_variant_names, reason = "that is what it is called")]
pub enum Transport {
    /// XHR long polling.
    Polling,
    /// Long polling by `<script>`.
    JsonpPolling,
    /// WebSocket.
    WebSocket,
    /// WebTransport over HTTP/3.
    WebTransport,
    /// WebSocket spoken by a Flash player.
    FlashSocket,
    /// An endless chunked page in an iframe (Socket.IO 0.9).
    HtmlFile,
}

impl Transport {
    /// The name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::JsonpPolling => "jsonp_polling",
            Self::WebSocket => "websocket",
            Self::WebTransport => "webtransport",
            Self::FlashSocket => "flashsocket",
            Self::HtmlFile => "htmlfile",
        }
    }

    /// Whether each answer ends, so that a pending one can carry a [`super::goodbye`].
    pub fn is_polling(self) -> bool {
        matches!(self, Self::Polling | Self::JsonpPolling)
    }
}

/// The longest session id that is looked at, in bytes; the generators of all versions make 20 or fewer.
pub const LONGEST_SID: usize = 128;

pub(super) fn is_sid(text: &str) -> bool {
    (1..=LONGEST_SID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'~'))
}

fn transport_09(name: &str) -> Option<Transport> {
    match name {
        "websocket" => Some(Transport::WebSocket),
        "flashsocket" => Some(Transport::FlashSocket),
        "htmlfile" => Some(Transport::HtmlFile),
        "xhr-polling" => Some(Transport::Polling),
        "jsonp-polling" => Some(Transport::JsonpPolling),
        _ => None,
    }
}

fn index(digits: &str) -> Option<u32> {
    digits.parse().ok().filter(|_| !digits.starts_with('+'))
}

/// The first value of each parameter that matters.
#[derive(Default)]
struct Query<'a> {
    sid: Option<&'a str>,
    transport: Option<&'a str>,
    eio: Option<&'a str>,
    j: Option<&'a str>,
    jsonp: Option<&'a str>,
    i: Option<&'a str>,
    disconnect: Option<&'a str>,
}

impl<'a> Query<'a> {
    fn read(query: &'a str) -> Self {
        let mut this = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let place = match name {
                "sid" => &mut this.sid,
                "transport" => &mut this.transport,
                "EIO" => &mut this.eio,
                "j" => &mut this.j,
                "jsonp" => &mut this.jsonp,
                "i" => &mut this.i,
                "disconnect" => &mut this.disconnect,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SID: &str = "lv_VI97HAXpY6yYWAAAC";

    fn sid_of<'a>(path: &'a str, query: Option<&'a str>) -> Option<&'a str> {
        RequestInfo::read(path, query).sid
    }

    fn read(target: &str) -> RequestInfo<'_> {
        match target.split_once('?') {
            Some((path, query)) => RequestInfo::read(path, Some(query)),
            None => RequestInfo::read(target, None),
        }
    }

    #[test]
    fn every_generation_of_clients_is_understood() {
        use Revision::{Eio3, Eio4, SocketIo09};
        use Transport::{FlashSocket, HtmlFile, JsonpPolling, Polling, WebSocket, WebTransport};
        for (target, sid, transport, revision, jsonp) in [
            ("/socket.io/?EIO=4&transport=polling&t=N8hyd6w", None, Polling, Eio4, None),
            ("/socket.io/?EIO=4&transport=polling&t=N8hyd7H&sid={}", Some(SID), Polling, Eio4, None),
            ("/socket.io/?EIO=4&transport=websocket&sid={}", Some(SID), WebSocket, Eio4, None),
            ("/socket.io/?EIO=4&transport=webtransport", None, WebTransport, Eio4, None),
            ("/socket.io/?EIO=3&transport=polling&j=2&b64=1&sid={}", Some(SID), JsonpPolling, Eio3, Some(2)),
            ("/socket.io/?transport=polling&EIO=2&sid={}", Some(SID), Polling, Eio3, None),
            ("/tenant/1/?EIO=4&transport=polling&sid={}", Some(SID), Polling, Eio4, None),
            ("/socket.io/1/websocket/{}", Some(SID), WebSocket, SocketIo09, None),
            ("/socket.io/1/flashsocket/{}", Some(SID), FlashSocket, SocketIo09, None),
            ("/socket.io/1/htmlfile/{}", Some(SID), HtmlFile, SocketIo09, None),
            ("/socket.io/1/xhr-polling/{}?t=1385", Some(SID), Polling, SocketIo09, None),
            ("/deep/er/1/jsonp-polling/{}/?t=1385&i=0", Some(SID), JsonpPolling, SocketIo09, Some(0)),
        ] {
            let target = target.replace("{}", SID);
            let expected =
                RequestInfo { sid, transport: Some(transport), revision: Some(revision), jsonp, goodbye: false };
            assert_eq!(read(&target), expected, "{target}");
        }
    }

    #[test]
    fn a_handshake_of_0_9_has_a_revision_and_no_session() {
        for (target, jsonp) in
            [("/socket.io/1/?t=1385", None), ("/socket.io/1", None), ("/socket.io/1/?t=1385&jsonp=4", Some(4))]
        {
            let expected = RequestInfo { revision: Some(Revision::SocketIo09), jsonp, ..RequestInfo::default() };
            assert_eq!(read(target), expected, "{target}");
        }
    }

    #[test]
    fn a_goodbye_of_0_9_names_its_session_and_no_transport() {
        let path = |path: &str| path.replace("{}", SID);
        for target in
            ["/socket.io/1//{}/?disconnect=1", "/socket.io/1/{}/?disconnect=1", "/socket.io/1/{}?disconnect=1"]
        {
            let target = path(target);
            let (sid, revision) = (Some(SID), Some(Revision::SocketIo09));
            let expected = RequestInfo { sid, revision, goodbye: true, ..RequestInfo::default() };
            assert_eq!(read(&target), expected, "{target}");
        }
        assert!(read(&path("/socket.io/1/xhr-polling/{}?disconnect=1")).goodbye);
        assert!(!read(&path("/socket.io/1/xhr-polling/{}?t=1")).goodbye);
        assert_eq!(read(&path("/socket.io/1/{}/?t=1")).sid, None, "no transport and no goodbye is nothing");
    }

    #[test]
    fn sessions_that_cannot_be_kept_are_not_seen() {
        for sid in ["", "a b", "a%2Fb", "a/b", "a:b", "ä", &"a".repeat(LONGEST_SID + 1)] {
            assert_eq!(sid_of("/socket.io/", Some(&format!("EIO=4&sid={sid}"))), None, "{sid}");
            assert_eq!(sid_of(&format!("/socket.io/1/websocket/{sid}"), None), None, "{sid}");
        }
        let longest = "a".repeat(LONGEST_SID);
        assert_eq!(sid_of("/", Some(&format!("sid={longest}"))), Some(&*longest));
        assert_eq!(sid_of("/", Some("sid=a/b&sid=c")), None, "the first one counts");
        assert_eq!(sid_of("/", Some("asid=a&SID=b&sid")), None);
    }

    #[test]
    fn other_paths_are_not_socket_io_0_9() {
        for path in ["", "/", "/1/x", "/users/1/posts/7", "/socket.io/1/websocket", "/socket.io/2/websocket/abc", "1"] {
            assert_eq!(RequestInfo::read(path, None), RequestInfo::default(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_session_is_found_wherever_it_stands_in_the_query(
            before in "([a-zA-Z]{4,8}=[^&]{0,8}&){0,3}",
            sid in "[A-Za-z0-9_.~-]{1,128}",
            after in "(&[^&]{0,8}){0,3}",
        ) {
            let query = format!("{before}sid={sid}{after}");
            prop_assert_eq!(RequestInfo::read("/socket.io/", Some(&query)).sid, Some(&*sid));
        }

        #[test]
        fn whatever_is_read_can_be_kept(path in "(/|1|websocket|[a-z~%]|\\PC){0,20}", query in "(sid=|EIO=|&|[a-z0-9%/]|\\PC){0,20}") {
            let info = RequestInfo::read(&path, Some(&query));
            prop_assert!(info.sid.is_none_or(is_sid));
        }
    }
}
