//! Finds the handshake in an answer while it streams by, whatever the dialect and wherever the bytes are split.

use super::request::{LONGEST_SID, is_sid};
use serde::Deserialize;
use std::time::Duration;

/// How a session opens: what the server tells its client, and now the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The session's id, one that [`super::RequestInfo::sid`] will recognise.
    pub sid: String,
    /// How often the server and client make sure of each other; in Socket.IO 0.9 the heartbeat timeout. At most
    /// [`LONGEST_SILENCE`], which also stands for "never".
    pub ping_interval: Duration,
    /// How long an answer may take; in Socket.IO 0.9 the close timeout. At most [`LONGEST_SILENCE`].
    pub ping_timeout: Duration,
    /// Whether the client may go on to a WebSocket; in Socket.IO 0.9, where the client takes the first transport of the
    /// list, whether that one is a socket.
    pub websocket: bool,
}

/// How far a [`HandshakeReader`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It could still be a handshake; more bytes are needed.
    NeedMore,
    /// This is the handshake. The reader is done.
    Found(Handshake),
    /// This is not a handshake. The reader is done.
    NotOne,
}

/// Reads the body of an answer to a handshake, or the payload of the first frame of a WebSocket.
///
/// It understands the packets of Engine.IO 4 (`0{"sid":…}`), the length-prefixed payloads of Engine.IO 3 in text
/// (`96:0{…`) and binary, the `sid:60:60:websocket,…` of Socket.IO 0.9, and the JSONP forms of these. The body must not be
/// compressed. It keeps no more than 16 KiB and reads the JSON once, however small the pieces.
#[derive(Debug, Default)]
pub struct HandshakeReader {
    wrapping: Wrapping,
    /// The body so far, without its JSONP wrapping.
    kept: Vec<u8>,
    /// Bytes taken so far, with the wrapping.
    taken: usize,
    /// The scan of the JSON, once it is clear where that begins.
    json: Option<JsonScan>,
}

impl HandshakeReader {
    /// A reader before the first byte of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the body. The answer comes with the first byte that settles it, which is never later than
    /// the last byte that the client needs: learn the session before letting these bytes go. Once the reader has
    /// answered, it only says [`Progress::NotOne`].
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        let bytes = &bytes[..bytes.len().min(LONGEST_HANDSHAKE - self.taken)];
        self.taken += bytes.len();
        self.unwrap(bytes);
        let progress = match self.look() {
            Progress::NeedMore if self.wrapping == Wrapping::Ended || self.taken == LONGEST_HANDSHAKE => {
                Progress::NotOne
            }
            progress => progress,
        };
        if progress != Progress::NeedMore {
            *self = Self { taken: LONGEST_HANDSHAKE, ..Self::default() };
        }
        progress
    }

    /// Appends to `kept` what stands inside the JSONP call, or everything if there is none.
    fn unwrap(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.wrapping == Wrapping::Unknown {
            let before = self.kept.len();
            let fits = bytes.len().min(LONGEST_CALL - before);
            self.kept.extend_from_slice(&bytes[..fits]);
            match jsonp_call(&self.kept) {
                Call::Maybe => return,
                Call::No => {
                    self.wrapping = Wrapping::None;
                    rest = &bytes[fits..];
                }
                Call::Yes(length) => {
                    self.wrapping = Wrapping::Quoted(Unescape::default());
                    self.kept.clear();
                    rest = &bytes[length - before..];
                }
            }
        }
        match &mut self.wrapping {
            Wrapping::None => self.kept.extend_from_slice(rest),
            Wrapping::Quoted(unescape) => {
                if !rest.iter().all(|&byte| unescape.step(byte, &mut self.kept)) {
                    self.wrapping = Wrapping::Ended;
                }
            }
            Wrapping::Unknown | Wrapping::Ended => {}
        }
    }

    fn look(&mut self) -> Progress {
        let mut scan = match self.json.take() {
            Some(scan) => scan,
            None => match opening(&self.kept) {
                Opening::Maybe => return Progress::NeedMore,
                Opening::No if self.wrapping == Wrapping::Unknown => return Progress::NeedMore,
                Opening::No => return Progress::NotOne,
                Opening::Socket09(handshake) => return Progress::Found(handshake),
                Opening::Json(start) => JsonScan { start, at: start, ..JsonScan::default() },
            },
        };
        match scan.run(&self.kept) {
            Some(object) => read_open_packet(object).map_or(Progress::NotOne, Progress::Found),
            None => {
                self.json = Some(scan);
                Progress::NeedMore
            }
        }
    }
}

/// The longest answer that is looked at: 16 KiB. A handshake stands within its first 200 bytes, if nobody adds to it.
pub const LONGEST_HANDSHAKE: usize = 16 * 1024;

/// The most that a server can claim as its ping interval or timeout: a day.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// What stands around the packets.
#[derive(Debug, Default, PartialEq)]
enum Wrapping {
    /// Not clear yet: all bytes so far are kept and may be the start of a JSONP call.
    #[default]
    Unknown,
    None,
    /// Inside the string of a JSONP call.
    Quoted(Unescape),
    /// Behind that string, or behind something that no string can hold.
    Ended,
}

enum Call {
    Maybe,
    No,
    Yes(usize),
}

/// `___eio[0]("` of Engine.IO, or `io.j[0]("` of Socket.IO 0.9, and the length of it.
fn jsonp_call(bytes: &[u8]) -> Call {
    let head = if bytes.first() == Some(&b'_') { &b"___eio["[..] } else { b"io.j[" };
    let Some(rest) = bytes.strip_prefix(head) else {
        return if head.starts_with(bytes) { Call::Maybe } else { Call::No };
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at(digits);
    let tail = b"](\"";
    if digits.len() > MOST_DIGITS {
        Call::No
    } else if rest.starts_with(tail) {
        Call::Yes(head.len() + digits.len() + tail.len())
    } else if tail.starts_with(rest) {
        Call::Maybe
    } else {
        Call::No
    }
}

/// Bytes after which it is clear whether an answer is a JSONP call.
const LONGEST_CALL: usize = b"___eio[](\"".len() + MOST_DIGITS;

/// Digits of any number in a handshake.
const MOST_DIGITS: usize = 10;

/// Undoes the escapes of a JavaScript string, one byte at a time.
#[derive(Debug, Default, PartialEq)]
struct Unescape {
    state: Escape,
    /// The first half of a character beyond U+FFFF.
    high: Option<u16>,
}

#[derive(Debug, Default, PartialEq)]
enum Escape {
    #[default]
    None,
    /// Behind a backslash.
    Begun,
    /// In `\x41` or `\u0041`: digits still to come, and the value so far.
    Hex(u8, u16),
}

impl Unescape {
    /// Appends what this byte completes; false when the string has ended, at its quote or at a fault.
    fn step(&mut self, byte: u8, out: &mut Vec<u8>) -> bool {
        match (&mut self.state, byte) {
            (Escape::None, b'"' | b'\n' | b'\r') => return false,
            (Escape::None, b'\\') => self.state = Escape::Begun,
            (Escape::None, _) => {
                self.end_pair(out);
                out.push(byte);
            }
            (Escape::Begun, b'u') => self.state = Escape::Hex(4, 0),
            (Escape::Begun, b'x') => self.state = Escape::Hex(2, 0),
            (Escape::Begun, _) => {
                self.state = Escape::None;
                self.end_pair(out);
                out.push(match byte {
                    b'b' => 0x08,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    b'r' => b'\r',
                    b'0' => 0,
                    itself => itself,
                });
            }
            (Escape::Hex(left, value), _) => {
                let Some(digit) = char::from(byte).to_digit(16) else {
                    return false;
                };
                (*left, *value) = (*left - 1, *value << 4 | digit as u16);
                if let (0, unit) = (*left, *value) {
                    self.state = Escape::None;
                    self.code_unit(unit, out);
                }
            }
        }
        true
    }

    fn code_unit(&mut self, unit: u16, out: &mut Vec<u8>) {
        let units = [self.high.take(), Some(unit)];
        if (0xd800..0xdc00).contains(&unit) && units[0].is_none() {
            self.high = Some(unit);
            return;
        }
        push_utf16(units.into_iter().flatten(), out);
    }

    /// A first half without its second is not a character.
    fn end_pair(&mut self, out: &mut Vec<u8>) {
        push_utf16(self.high.take().into_iter(), out);
    }
}

fn push_utf16(units: impl Iterator<Item = u16>, out: &mut Vec<u8>) {
    for c in char::decode_utf16(units) {
        let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

enum Opening {
    Maybe,
    No,
    /// The `{` of an open packet stands here.
    Json(usize),
    Socket09(Handshake),
}

/// Tells the dialects apart. The lengths of Engine.IO 3 count UTF-16 units in text and bytes in binary, and neither is
/// needed: the JSON says itself where it ends.
fn opening(bytes: &[u8]) -> Opening {
    if let Some(digits) = bytes.strip_prefix(b"\0") {
        let count = digits.iter().take_while(|&&byte| byte <= 9).count();
        return match &digits[count..] {
            _ if count > MOST_DIGITS => Opening::No,
            [] => Opening::Maybe,
            [0xff, packet @ ..] if count > 0 => open_packet(packet, bytes),
            _ => Opening::No,
        };
    }
    if bytes.starts_with(b"0{") {
        return Opening::Json(1);
    }
    let id = bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')).count();
    let (id, rest) = bytes.split_at(id);
    match rest {
        _ if id.len() > LONGEST_SID => Opening::No,
        [] => Opening::Maybe,
        [b':', rest @ ..] if !id.is_empty() => {
            let counted = id.len() <= MOST_DIGITS && id.iter().all(u8::is_ascii_digit);
            match open_packet(rest, bytes) {
                Opening::No => socket_09(id, rest),
                _ if !counted => socket_09(id, rest),
                packet => packet,
            }
        }
        _ => Opening::No,
    }
}

/// `0{`, with which `packet`, the end of `bytes`, begins.
fn open_packet(packet: &[u8], bytes: &[u8]) -> Opening {
    match packet {
        [] | [b'0'] => Opening::Maybe,
        [b'0', b'{', ..] => Opening::Json(bytes.len() - packet.len() + 1),
        _ => Opening::No,
    }
}

/// `60:60:websocket,…` behind the session's id. Either number may be left out: then there are no heartbeats, or there is
/// no close timeout.
fn socket_09(id: &[u8], rest: &[u8]) -> Opening {
    const TRANSPORTS: [&[u8]; 6] =
        [b"websocket", b"flashsocket", b"htmlfile", b"xhr-polling", b"jsonp-polling", b"xhr-multipart"];
    let mut fields = rest.splitn(3, |&byte| byte == b':');
    let mut seconds = [LONGEST_SILENCE, Duration::ZERO];
    for silence in &mut seconds {
        let digits = fields.next().unwrap_or_default();
        if digits.len() > MOST_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
            return Opening::No;
        }
        if !digits.is_empty() {
            let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
            *silence = Duration::from_secs(number).min(LONGEST_SILENCE);
        }
    }
    let [ping_interval, ping_timeout] = seconds;
    let Some(list) = fields.next() else {
        return Opening::Maybe;
    };
    match TRANSPORTS.iter().find(|name| list.starts_with(name)) {
        Some(first) => Opening::Socket09(Handshake {
            sid: String::from_utf8_lossy(id).into_owned(),
            ping_interval,
            ping_timeout,
            websocket: first.ends_with(b"socket"),
        }),
        None if TRANSPORTS.iter().any(|name| name.starts_with(list)) => Opening::Maybe,
        None => Opening::No,
    }
}

/// Walks to the end of a JSON object, over each byte once.
#[derive(Debug, Default)]
struct JsonScan {
    start: usize,
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl JsonScan {
    /// The whole object, once it is here. Whether it is JSON is for others to judge.
    fn run<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        for &byte in bytes.get(self.at..)? {
            self.at += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                return bytes.get(self.start..self.at);
            }
        }
        None
    }
}

fn read_open_packet(json: &[u8]) -> Option<Handshake> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Open {
        sid: String,
        #[serde(default = "default_ping_interval")]
        ping_interval: f64,
        #[serde(default = "default_ping_timeout")]
        ping_timeout: f64,
        #[serde(default)]
        upgrades: Vec<String>,
    }
    let open: Open = serde_json::from_slice(json).ok()?;
    is_sid(&open.sid).then(|| Handshake {
        ping_interval: milliseconds(open.ping_interval),
        ping_timeout: milliseconds(open.ping_timeout),
        websocket: open.upgrades.iter().any(|name| name == "websocket"),
        sid: open.sid,
    })
}

/// Engine.IO 4's own default, for a server that leaves it out.
fn default_ping_interval() -> f64 {
    25_000.0
}

/// Engine.IO 4's own default, for a server that leaves it out.
fn default_ping_timeout() -> f64 {
    20_000.0
}

fn milliseconds(number: f64) -> Duration {
    Duration::from_secs_f64((number / 1000.0).max(0.0).min(LONGEST_SILENCE.as_secs_f64()))
}

#[cfg(test)]
mod tests;
