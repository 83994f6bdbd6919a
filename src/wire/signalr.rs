//! How SignalR's servers say which connection is negotiated, and how its clients name that.

use serde::Deserialize;

/// Reads the answer to a negotiation, which is one object of JSON, and comes in pieces.
#[derive(Clone, Debug, Default)]
pub struct NegotiationReader {
    read: Vec<u8>,
    depth: u32,
    in_string: bool,
    escaped: bool,
    over: bool,
}

/// What has come of it so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The object is not whole.
    NeedMore,
    /// A connection has been negotiated.
    Found(Negotiated),
    /// It is no such answer, or sends its client elsewhere.
    NotOne,
}

/// A connection that a server holds for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// What later requests name it by, as it stands in their query.
    pub id: String,
    /// Whether it may go on to a WebSocket.
    pub websocket: bool,
}

/// How much of an answer is looked at.
pub const MOST: usize = 64 * 1024;
/// The longest id that is one.
pub const LONGEST_ID: usize = 1024;
/// The shortest: whoever can guess one has its connection.
pub const SHORTEST_ID: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    connection_id: Option<String>,
    connection_token: Option<String>,
    #[serde(default)]
    negotiate_version: u32,
    url: Option<String>,
    #[serde(default)]
    available_transports: Vec<Offered>,
}

#[derive(Deserialize)]
struct Offered {
    #[serde(default)]
    transport: String,
}

impl NegotiationReader {
    /// Takes the next bytes. After anything but [`Progress::NeedMore`] nothing more is found.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        for &byte in bytes {
            if self.over || self.read.len() == MOST {
                self.over = true;
                return Progress::NotOne;
            }
            self.read.push(byte);
            match byte {
                _ if std::mem::take(&mut self.escaped) => {}
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth <= 1 => {
                    self.over = true;
                    return read(&std::mem::take(&mut self.read)).map_or(Progress::NotOne, Progress::Found);
                }
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
        }
        if self.over { Progress::NotOne } else { Progress::NeedMore }
    }
}

fn read(object: &[u8]) -> Option<Negotiated> {
    let said: Said = serde_json::from_slice(object).ok()?;
    if said.url.is_some() {
        return None;
    }
    // Version 1 has a token that the server alone knows beside the id that others may see.
    let id = if said.negotiate_version > 0 { said.connection_token? } else { said.connection_id? };
    let websocket = said.available_transports.iter().any(|offered| offered.transport == "WebSockets");
    let id = encoded(&id);
    is_id(&id).then_some(Negotiated { id, websocket })
}

/// As a client writes it into a query (`encodeURIComponent`).
fn encoded(id: &str) -> String {
    use std::fmt::Write;
    let mut written = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            written.push(char::from(byte));
        } else {
            // Writing to memory never fails.
            let _ = write!(written, "%{byte:02X}");
        }
    }
    written
}

/// Whether this, as it stands in a query, may name a connection.
pub fn is_id(text: &str) -> bool {
    let stands = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()%".contains(&byte);
    (SHORTEST_ID..=LONGEST_ID).contains(&text.len()) && text.bytes().all(stands)
}

/// The connections that a query names, one after the other.
pub fn ids(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter_map(|pair| pair.strip_prefix("id="))
}

/// The query with another connection.
pub fn with_id(query: &str, id: &str) -> String {
    let pairs = query.split('&').map(|pair| if pair.starts_with("id=") { format!("id={id}") } else { pair.to_owned() });
    pairs.collect::<Vec<_>>().join("&")
}

/// The path of the hub whose connections are negotiated, or kept alive, at this one.
pub fn hub(path: &str) -> &str {
    let path = path.strip_suffix('/').unwrap_or(path);
    let hub = path.strip_suffix("/negotiate").or_else(|| path.strip_suffix("/refresh"));
    hub.map_or(path, |hub| if hub.is_empty() { "/" } else { hub })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "05265228-1e2c-46c5-82a1-6a5bcc3f0143";

    fn pushed(text: &str, step: usize) -> Progress {
        let mut reader = NegotiationReader::default();
        let mut said = text.as_bytes().chunks(step).map(|part| reader.push(part));
        said.find(|said| *said != Progress::NeedMore).unwrap_or(Progress::NeedMore)
    }

    fn found(id: &str, websocket: bool) -> Progress {
        Progress::Found(Negotiated { id: id.to_owned(), websocket })
    }

    #[test]
    fn requests_name_the_token_of_version_1_and_the_id_of_version_0() {
        let transports = r#""availableTransports":[{"transport":"WebSockets","transferFormats":["Text","Binary"]}]"#;
        let one = format!(
            r#"{{"connectionToken":"{TOKEN}","connectionId":"807809a5-31bf-470d-9e23-afaee35d8a0d","negotiateVersion":1,{transports}}}"#
        );
        let none =
            format!(r#"{{"connectionId":"{TOKEN}","connectionToken":"not-this-one-though","availableTransports":[]}}"#);
        for step in [1, 7, 1000] {
            assert_eq!(pushed(&one, step), found(TOKEN, true));
            assert_eq!(pushed(&none, step), found(TOKEN, false));
        }
        assert_eq!(
            pushed(r#"{"connectionId":"abcdefgh+/ijklmnop=="}"#, 5),
            found("abcdefgh%2B%2Fijklmnop%3D%3D", false)
        );
    }

    #[test]
    fn what_sends_elsewhere_or_is_something_else_names_none() {
        for text in [
            r#"{"url":"https://other.example/hub","accessToken":"x","connectionId":"aaaaaaaaaaaaaaaaaaaaaa"}"#,
            r#"{"error":"no"}"#,
            r#"{"connectionId":"short"}"#,
            r#"{"connectionId":"aaaaaaaaaaaaaaaaaaaaaa","negotiateVersion":1}"#,
            r#"["connectionId"]"#,
            "}",
        ] {
            assert_eq!(pushed(text, 3), Progress::NotOne, "{text}");
        }
        assert_eq!(pushed(r#"{"connectionId":"}"#, 3), Progress::NeedMore);
        assert_eq!(pushed(&" ".repeat(MOST + 1), 1000), Progress::NotOne);
    }

    #[test]
    fn connections_stand_in_the_query() {
        assert_eq!(ids("id=a&x=y&id=b").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(ids("xid=a&_id=b").count(), 0);
        assert_eq!(with_id("id=a&access_token=t", "b"), "id=b&access_token=t");
        for (path, expected) in [
            ("/chat/negotiate", "/chat"),
            ("/chat/negotiate/", "/chat"),
            ("/a/chat/refresh", "/a/chat"),
            ("/chat", "/chat"),
            ("/negotiate", "/"),
        ] {
            assert_eq!(hub(path), expected);
        }
    }

    proptest! {
        #[test]
        fn it_is_the_same_however_it_is_cut(text in r#"[{}\[\]"\\a:, ]{0,40}"#, step in 1usize..8) {
            prop_assert_eq!(pushed(&text, step), pushed(&text, 1000));
        }
    }
}
