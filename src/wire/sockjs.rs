//! Where requests of SockJS say their session, and its close frame in the framing of each transport.

use std::borrow::Cow;

/// How a session travels, or what else is done at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Long polls.
    Xhr,
    /// An answer that goes on, one frame a line.
    XhrStreaming,
    /// Server-sent events.
    EventSource,
    /// A page that goes on, one frame a script.
    HtmlFile,
    /// Long polls by scripts.
    Jsonp,
    /// A WebSocket, which is all of its session.
    WebSocket,
    /// What the client says beside the polls or the stream that it listens to.
    XhrSend,
    /// The same beside polls by scripts.
    JsonpSend,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Xhr,
        Self::XhrStreaming,
        Self::EventSource,
        Self::HtmlFile,
        Self::Jsonp,
        Self::WebSocket,
        Self::XhrSend,
        Self::JsonpSend,
    ];

    /// The last segment of its path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xhr => "xhr",
            Self::XhrStreaming => "xhr_streaming",
            Self::EventSource => "eventsource",
            Self::HtmlFile => "htmlfile",
            Self::Jsonp => "jsonp",
            Self::WebSocket => "websocket",
            Self::XhrSend => "xhr_send",
            Self::JsonpSend => "jsonp_send",
        }
    }

    /// The method of its requests.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Xhr | Self::XhrStreaming | Self::XhrSend | Self::JsonpSend => "POST",
            Self::EventSource | Self::HtmlFile | Self::Jsonp | Self::WebSocket => "GET",
        }
    }

    /// Whether its requests only say something: they open no session.
    pub const fn sends(self) -> bool {
        matches!(self, Self::XhrSend | Self::JsonpSend)
    }

    /// Whether its answers go on, frame by frame.
    pub const fn streams(self) -> bool {
        matches!(self, Self::XhrStreaming | Self::EventSource | Self::HtmlFile)
    }

    /// What ends a frame in an answer that goes on.
    pub const fn ends_of_frames(self) -> &'static [&'static [u8]] {
        match self {
            Self::XhrStreaming => &[b"\n"],
            Self::EventSource => &[b"\r\n\r\n", b"\n\n"],
            Self::HtmlFile => &[b"</script>\r\n", b"</script>\n"],
            Self::Xhr | Self::Jsonp | Self::WebSocket | Self::XhrSend | Self::JsonpSend => &[],
        }
    }
}

/// The path of a request of a session: `PREFIX/SERVER/SESSION/TRANSPORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'p> {
    /// All that is before the session, with a slash at its end.
    pub before: &'p str,
    /// The session. The segment before it is no part of its name.
    pub session: &'p str,
    /// How it travels.
    pub transport: Transport,
}

/// The longest session that is one; clients make up 8 letters, and apps of their own may choose more.
pub const LONGEST_ID: usize = 1024;

impl<'p> Address<'p> {
    /// What such a path names; `None` for any other.
    pub fn read(path: &'p str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let (rest, last) = path.rsplit_once('/')?;
        let transport = Transport::ALL.into_iter().find(|transport| transport.as_str() == last)?;
        let (rest, session) = rest.rsplit_once('/')?;
        let (_, server) = rest.rsplit_once('/')?;
        let is_segment = |text: &str| !text.is_empty() && text.len() <= LONGEST_ID && !text.contains('.');
        // Raw WebSockets have no session, and their prefix may have several segments.
        let is_raw =
            transport == Transport::WebSocket && !(server.len() == 3 && server.bytes().all(|b| b.is_ascii_digit()));
        if !is_segment(server) || !is_segment(session) || is_raw {
            return None;
        }
        Some(Self { before: &path[..rest.len() + 1], session, transport })
    }

    /// The path of another session, or of another transport of it.
    pub fn with(self, session: &str, transport: Transport) -> String {
        format!("{}{session}/{}", self.before, transport.as_str())
    }
}

/// The name of the function that a poll by scripts calls, or a page that goes on: `c` in the query.
pub fn callback(query: &str) -> Option<&str> {
    let named =
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == "c" || *name == "callback");
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    named.map(|(_, name)| name).filter(|name| (1..=128).contains(&name.len()) && name.bytes().all(is_name))
}

/// The frame that ends a session with this code. Clients of the gateway know by it that they may come back.
pub fn close_frame(code: u16) -> String {
    format!("c[{code},\"Service restart\"]")
}

/// The close frame as it stands in an answer that goes on; `None` where there is none.
pub fn close_in_stream(transport: Transport, code: u16) -> Option<String> {
    let frame = close_frame(code);
    match transport {
        Transport::XhrStreaming => Some(format!("{frame}\n")),
        Transport::EventSource => Some(format!("data: {frame}\r\n\r\n")),
        Transport::HtmlFile => Some(format!("<script>\np({});\n</script>\r\n", quoted(&frame))),
        Transport::Xhr | Transport::Jsonp | Transport::WebSocket | Transport::XhrSend | Transport::JsonpSend => None,
    }
}

/// The whole answer that has the close frame in it, and its media type; `None` where there is none. `callback` is that of polls by
/// scripts.
pub fn closing_answer(
    transport: Transport,
    code: u16,
    callback: Option<&str>,
) -> Option<(&'static str, Cow<'static, [u8]>)> {
    const SCRIPT: &str = "application/javascript; charset=UTF-8";
    /// Browsers show a page what they have of an answer only when it is so much.
    const PRELUDE: usize = 2048;
    let frame = close_frame(code);
    let (content_type, body) = match transport {
        Transport::Xhr => (SCRIPT, format!("{frame}\n")),
        Transport::XhrStreaming => (SCRIPT, format!("{}\n{frame}\n", "h".repeat(PRELUDE))),
        Transport::EventSource => ("text/event-stream; charset=UTF-8", format!("\r\ndata: {frame}\r\n\r\n")),
        Transport::Jsonp => (SCRIPT, format!("/**/{}({});\r\n", callback?, quoted(&frame))),
        Transport::HtmlFile | Transport::WebSocket | Transport::XhrSend | Transport::JsonpSend => return None,
    };
    Some((content_type, body.into_bytes().into()))
}

/// A frame as a string of JSON.
fn quoted(frame: &str) -> String {
    format!("\"{}\"", frame.replace('"', "\\\""))
}

/// Whether an answer that ends with these bytes ends its session: its last frame is a close frame, and not the one by which a
/// second listener is turned away. `whole` says that the bytes are all of it. What a message says is no frame.
pub fn is_server_goodbye(end: &[u8], whole: bool, transport: Transport) -> bool {
    let Ok(end) = std::str::from_utf8(end) else { return false };
    let end = match transport {
        Transport::HtmlFile => end.trim_end().strip_suffix("</script>").unwrap_or_default().trim_end(),
        _ => end.trim_end(),
    };
    let line = match end.rsplit_once(['\n', '\r']) {
        Some((_, line)) => line,
        None if whole => end,
        None => return false,
    };
    let frame = match transport {
        Transport::Xhr | Transport::XhrStreaming => Some(line),
        Transport::EventSource => line.strip_prefix("data: "),
        Transport::HtmlFile => line.strip_prefix("p(\""),
        Transport::Jsonp => line.split_once("(\"").map(|(_, frame)| frame),
        Transport::WebSocket | Transport::XhrSend | Transport::JsonpSend => None,
    };
    let code = frame.and_then(|frame| frame.strip_prefix("c[")).and_then(|rest| rest.split(',').next());
    code.and_then(|code| code.parse::<u16>().ok()).is_some_and(|code| code != ANOTHER_LISTENS)
}

/// The code for a second listener of a session, which goes on.
const ANOTHER_LISTENS: u16 = 2010;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_session_is_named_by_the_segment_before_its_transport() {
        for (path, before, session, transport) in [
            ("/echo/000/kx2a5b1c/xhr", "/echo/000/", "kx2a5b1c", Transport::Xhr),
            ("/a/b/999/x/xhr_streaming/", "/a/b/999/", "x", Transport::XhrStreaming),
            ("/s/x/eventsource", "/s/", "x", Transport::EventSource),
            ("/echo/room/some-id/xhr_send", "/echo/room/", "some-id", Transport::XhrSend),
            ("/echo/123/abc/websocket", "/echo/123/", "abc", Transport::WebSocket),
        ] {
            assert_eq!(Address::read(path), Some(Address { before, session, transport }), "{path}");
        }
        for path in [
            "/echo/info",
            "/echo/websocket",
            "/api/echo/websocket",
            "/echo/000/a.b/xhr",
            "/echo//a/xhr",
            "/xhr",
            "/",
            "",
            "/echo/000/a/xhr2",
            "/a/xhr",
        ] {
            assert_eq!(Address::read(path), None, "{path}");
        }
        let address = Address::read("/echo/000/a/xhr").unwrap();
        assert_eq!(address.with("b", Transport::XhrSend), "/echo/000/b/xhr_send");
    }

    #[test]
    fn close_frames_are_what_clients_read() {
        assert_eq!(close_in_stream(Transport::XhrStreaming, 1012).unwrap(), "c[1012,\"Service restart\"]\n");
        assert_eq!(close_in_stream(Transport::EventSource, 1012).unwrap(), "data: c[1012,\"Service restart\"]\r\n\r\n");
        let page = "<script>\np(\"c[1012,\\\"Service restart\\\"]\");\n</script>\r\n";
        assert_eq!(close_in_stream(Transport::HtmlFile, 1012).unwrap(), page);
        let (_, script) = closing_answer(Transport::Jsonp, 1012, Some("_jp.a1")).unwrap();
        assert_eq!(&*script, b"/**/_jp.a1(\"c[1012,\\\"Service restart\\\"]\");\r\n");
        assert_eq!(closing_answer(Transport::Jsonp, 1012, None), None);
        assert_eq!(&*closing_answer(Transport::Xhr, 1012, None).unwrap().1, b"c[1012,\"Service restart\"]\n");
    }

    #[test]
    fn a_callback_is_a_name_and_nothing_else() {
        assert_eq!(callback("c=_jp.abc"), Some("_jp.abc"));
        assert_eq!(callback("t=1&callback=x"), Some("x"));
        for query in ["c=", "c=alert(1)", "c=%61", "d=a", ""] {
            assert_eq!(callback(query), None, "{query}");
        }
    }

    #[test]
    fn a_goodbye_is_a_close_frame_and_no_message_about_one() {
        for (end, whole, transport) in [
            ("c[3000,\"Go away!\"]\n", true, Transport::Xhr),
            ("a[\"x\"]\nc[3000,\"Go away!\"]\n", false, Transport::XhrStreaming),
            ("\r\ndata: c[3000,\"Go away!\"]\r\n\r\n", false, Transport::EventSource),
            ("<script>\np(\"c[3000,\\\"Go away!\\\"]\");\n</script>\r\n", false, Transport::HtmlFile),
            ("/**/cb(\"c[3000,\\\"Go away!\\\"]\");\r\n", true, Transport::Jsonp),
        ] {
            assert!(is_server_goodbye(end.as_bytes(), whole, transport), "{end}");
        }
        for (end, whole, transport) in [
            ("c[2010,\"Another connection still open\"]\n", true, Transport::Xhr),
            ("a[\"c[3000,1]\"]\n", true, Transport::Xhr),
            ("c[3000,\"the end of a long message\"]\n", false, Transport::Xhr),
            ("h\n", true, Transport::Xhr),
            ("o\n", true, Transport::XhrStreaming),
            ("/**/cb(\"a[\\\"c[3000,1]\\\"]\");\r\n", true, Transport::Jsonp),
        ] {
            assert!(!is_server_goodbye(end.as_bytes(), whole, transport), "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_and_written_back(path in "(/[a-z0-9.]{0,4}){0,5}(/(xhr|websocket|jsonp_send))?/?") {
            if let Some(address) = Address::read(&path) {
                let path = path.strip_suffix('/').unwrap_or(&path);
                prop_assert_eq!(address.with(address.session, address.transport), path);
            }
        }

        #[test]
        fn the_closing_answer_of_each_transport_ends_its_session(code in 1000u16..2000, at in 0usize..5) {
            let transport = Transport::ALL[at];
            if let Some((_, body)) = closing_answer(transport, code, Some("cb")) {
                prop_assert!(is_server_goodbye(&body, true, transport));
            }
            if let Some(stream) = close_in_stream(transport, code) {
                let said = format!("\n{stream}");
                prop_assert!(is_server_goodbye(said.as_bytes(), false, transport));
                prop_assert!(transport.ends_of_frames().iter().any(|end| stream.as_bytes().ends_with(end)));
            }
        }
    }
}
