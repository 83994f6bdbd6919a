//! What holds for the readers of what servers say of sessions.

use serde_json::Value;

use crate::wire::events::{self, FirstEvent};
use crate::wire::json::{self, PointerReader, Progress};
use crate::wire::mcp::{LONGEST_ID, id_of_endpoint, is_id};
use crate::wire::peer;
use crate::wire::signalr::{self, Negotiated, NegotiationReader, hub, ids, with_id};
use crate::wire::sockjs::{self, Address, Transport, callback, closing_answer, is_server_goodbye};

/// An event is the same however its stream is cut, and the session in it is one that may stand in a query.
pub fn first_events(bytes: &[u8]) {
    let read = |piece: usize| {
        let mut reader = FirstEvent::default();
        let mut answers = bytes.chunks(piece).map(|part| reader.push(part));
        answers.find(|answer| *answer != events::Progress::NeedMore).unwrap_or(events::Progress::NeedMore)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(1), whole);
    assert_eq!(read(7), whole);
    if let events::Progress::Event { name, data } = whole {
        assert!(name.len() + data.len() <= events::MOST && !name.is_empty());
        if let Some(id) = id_of_endpoint(&data) {
            assert!(data.contains(id) && is_id(id) && id.len() <= LONGEST_ID && !id.contains(['&', '#']));
        }
    }
}

/// What is found behind a pointer, which is the first line, is what a parser of the whole document finds; it is the same however
/// the document is cut.
pub fn json_pointers(bytes: &[u8]) {
    let Some(at) = bytes.iter().position(|&byte| byte == b'\n') else { return };
    let (pointer, document) = (&bytes[..at], &bytes[at + 1..]);
    let Ok(pointer) = std::str::from_utf8(pointer) else { return };
    let Some(new) = PointerReader::new(pointer) else { return };
    let read = |piece: usize| {
        let mut reader = new.clone();
        let mut answers = document.chunks(piece).map(|part| reader.push(part));
        answers.find(|answer| *answer != Progress::NeedMore).unwrap_or(Progress::NeedMore)
    };
    let whole = read(document.len().max(1));
    assert_eq!(read(1), whole);
    assert_eq!(read(7), whole);
    if let Progress::Found(text) = &whole {
        assert!(text.len() <= json::LONGEST);
    }
    // A name that stands twice has its first value here, and its last one there.
    let (Ok(parsed), Progress::Found(found)) = (serde_json::from_slice::<Value>(document), whole) else { return };
    if serde_json::to_vec(&parsed).is_ok_and(|written| written == document) {
        let there = parsed.pointer(pointer);
        assert!(there.is_some_and(|there| there.as_str() == Some(&*found) || there.is_number()), "{there:?}");
    }
}

/// A negotiation is the same however it is cut, and what it names can stand in a query, where it is read as the same.
pub fn signalr_negotiations(bytes: &[u8]) {
    let read = |piece: usize| {
        let mut reader = NegotiationReader::default();
        let mut answers = bytes.chunks(piece).map(|part| reader.push(part));
        answers.find(|answer| *answer != signalr::Progress::NeedMore).unwrap_or(signalr::Progress::NeedMore)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(1), whole);
    assert_eq!(read(7), whole);
    if let signalr::Progress::Found(Negotiated { id, .. }) = whole {
        assert!(signalr::is_id(&id));
        assert_eq!(ids(&format!("a=b&id={id}")).collect::<Vec<_>>(), [&*id]);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert_eq!(ids(&with_id(text, "x")).count(), ids(text).count());
        assert!(hub(text).len() <= text.len().max(1));
    }
}

/// A path is written back as it was read, whose session is a segment of it; a callback is a name; and nothing that ends an answer
/// makes two frames of one.
pub fn sockjs_paths(bytes: &[u8]) {
    for transport in Transport::ALL {
        let _ = is_server_goodbye(bytes, true, transport);
        assert!(!is_server_goodbye(bytes, false, transport) || is_server_goodbye(bytes, true, transport));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(address) = Address::read(text) {
        assert_eq!(address.with(address.session, address.transport), text.strip_suffix('/').unwrap_or(text));
        assert!(!address.session.contains(['/', '.']) && address.session.len() <= sockjs::LONGEST_ID);
        assert_eq!(Address::read(&address.with("x", Transport::XhrSend)).map(|other| other.session), Some("x"));
    }
    if let Some((_, body)) = callback(text).and_then(|name| closing_answer(Transport::Jsonp, 1012, Some(name))) {
        assert_eq!(body.iter().filter(|&&byte| byte == b'(').count(), 1);
    }
}

/// What is read of a mark is what it says, in the one way that it can be said, and nothing in it ends a field.
pub fn peer_marks(bytes: &[u8]) {
    let Some(sealed) = peer::Sealed::read(bytes) else { return };
    assert_eq!(sealed.mark.write(), sealed.text);
    assert!(sealed.text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
    let again = format!("{} {}", sealed.text, sealed.seal);
    assert_eq!(peer::Sealed::read(again.as_bytes()), Some(sealed));
}
