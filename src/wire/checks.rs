//! What holds for any bytes at all: one check for each fuzz target, which `cargo test` replays over the corpus.

use crate::wire::engine_io::{HandshakeReader, LONGEST_SID, LONGEST_SILENCE, Progress, RequestInfo, error_code};
use crate::wire::flash::{self, AllowRule, Policy, PolicyRequest};
use crate::wire::sniff::{self, Verdict, sniff};
use crate::wire::websocket::{FrameTracker, Seen, Violation};

/// A verdict stays, comes by the limit at the latest, and agrees with the reader of Flash policy requests.
pub fn sniffing(bytes: &[u8]) {
    let whole = sniff(bytes);
    assert!(whole != Verdict::Incomplete || bytes.len() < sniff::LIMIT);
    assert_eq!(whole == Verdict::FlashPolicy, flash::read(bytes) == PolicyRequest::Complete);
    for end in 0..bytes.len().min(128) {
        let early = sniff(&bytes[..end]);
        assert!(early == Verdict::Incomplete || early == whole, "{early:?} after {end} bytes, then {whole:?}");
    }
}

/// Frames are the same in one piece and in many, and a boundary is a place where a tracker is at one.
pub fn websocket_frames(bytes: &[u8]) {
    let follow = |piece: usize| {
        let (mut tracker, mut seen, mut last, mut at) = (FrameTracker::new(), Seen::default(), Some(0), 0);
        let result: Result<(), Violation> = bytes.chunks(piece).try_for_each(|part| {
            last = tracker.advance(part, &mut seen)?.map(|offset| at + offset).or(last);
            at += part.len();
            assert_eq!(tracker.at_boundary(), last == Some(at));
            Ok(())
        });
        (result, seen, result.ok().and(last), tracker.at_boundary(), tracker.in_message())
    };
    let whole = follow(bytes.len().max(1));
    assert_eq!(follow(1), whole);
    assert_eq!(follow(7), whole);
    assert!(whole.1.messages <= whole.1.frames);
}

/// An answer is the same in one piece and in many, and what it says can be kept and added up.
pub fn engine_io_handshake(bytes: &[u8]) {
    let read = |piece: usize| {
        let mut reader = HandshakeReader::new();
        let mut answers = bytes.chunks(piece).map(|part| reader.push(part));
        answers.find(|answer| *answer != Progress::NeedMore).unwrap_or(Progress::NeedMore)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(1), whole);
    assert_eq!(read(7), whole);
    if let Progress::Found(handshake) = whole {
        let query = format!("sid={}", handshake.sid);
        assert_eq!(RequestInfo::read("/", Some(&query)).sid, Some(&*handshake.sid));
        assert!(handshake.ping_interval + handshake.ping_timeout <= 2 * LONGEST_SILENCE);
    }
    assert!(error_code(bytes).is_none_or(|code| code <= 5));
}

/// What is read from a target stands in it and is short.
pub fn engine_io_request(bytes: &[u8]) {
    let target = String::from_utf8_lossy(bytes);
    let info = match target.split_once('?') {
        Some((path, query)) => RequestInfo::read(path, Some(query)),
        None => RequestInfo::read(&target, None),
    };
    if let Some(sid) = info.sid {
        assert!(target.contains(sid) && (1..=LONGEST_SID).contains(&sid.len()));
    }
    assert!(info.jsonp.is_none_or(|index| target.contains(&index.to_string())));
}

/// Every policy that is accepted has one NUL, at its end.
pub fn flash_policies(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (domain, ports) = text.split_once('\n').unwrap_or((&text, "*"));
    let rule = AllowRule { domain: domain.into(), ports: ports.into() };
    for policy in [Policy::from_xml(bytes), Policy::from_rules(&[rule])].into_iter().flatten() {
        let answer = policy.answer();
        assert_eq!(answer.iter().position(|&byte| byte == 0), Some(answer.len() - 1));
        assert_eq!(Policy::from_xml(answer), Ok(policy));
    }
}
