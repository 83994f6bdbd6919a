//! The access log: one line for each request and each tunnel, written by a thread of its own.
//!
//! Workers hand over records and never wait: when the log can't keep pace, or the disk is full, lines are lost and
//! counted.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::warn;
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;
use crate::text::Text;

/// `access_log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `text`, `json` or `off`. Default `text`.
    pub format: Format,
    /// A file, appended to and opened anew on SIGUSR1. Default: standard output.
    pub file: Option<PathBuf>,
    /// Also write a line when a tunnel opens. Default false.
    pub tunnel_open: bool,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `key=value` pairs, for people and grep.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// No access log.
    Off,
}

/// What a line tells; what is empty, zero or `None` is left out.
#[derive(Clone, Debug)]
pub struct Record {
    /// What ended, or began.
    pub event: Event,
    /// When the request's head was whole, or the raw connection was known to be one.
    pub began: SystemTime,
    /// From then until now.
    pub duration: Duration,
    /// From then until the first byte of the server's answer.
    pub first_byte: Option<Duration>,
    /// Time spent in the upstream's waiting room.
    pub queued: Duration,
    /// Who asked.
    pub client: IpAddr,
    /// Where it came in.
    pub listener: Arc<str>,
    /// What was spoken: `HTTP/1.1`, `HTTP/2`, `WebSocket`, `TCP`.
    pub protocol: &'static str,
    /// How Engine.IO travels, by the query: `polling`, `websocket`.
    pub transport: Option<&'static str>,
    /// Over TLS.
    pub secure: bool,
    /// The method; empty for raw connections.
    pub method: Cow<'static, str>,
    /// The host asked for.
    pub host: String,
    /// Path and query as sent, but for the id of a session, which would let whoever reads it take the session over.
    pub target: String,
    /// A keyed hash of that id: the same session has the same one in every line of its process.
    pub session: String,
    /// What came of looking for that session among the servers, where nobody knew it: `found`, `unknown` and the like.
    pub search: &'static str,
    /// The status of the answer; 0 for raw connections and clients that left before one.
    pub status: u16,
    /// The route that matched.
    pub route: Option<Arc<str>>,
    /// The upstream that it was carried to.
    pub upstream: Option<Arc<str>>,
    /// The server that took it.
    pub server: Option<Arc<str>>,
    /// Servers tried.
    pub tries: u32,
    /// Bytes from the client: a body, or what a tunnel carried.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// WebSocket messages from the client.
    pub messages_in: u64,
    /// WebSocket messages to the client.
    pub messages_out: u64,
    /// Who ended it and how: `client`, `server`, `idle`, or the word of a refusal.
    pub closed_by: &'static str,
    /// The code of the WebSocket Close frame that ended it.
    pub close_code: Option<u16>,
    /// The id in `X-Request-Id`.
    pub request_id: String,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request was answered.
    Request,
    /// A tunnel opened.
    Open,
    /// A tunnel closed.
    Close,
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Open => "open",
            Self::Close => "close",
        }
    }
}

/// Where workers put their records.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: SyncSender<Message>,
    switches: Arc<Switches>,
    metrics: Arc<Metrics>,
}

/// What a reload may change.
#[derive(Debug, Default)]
struct Switches {
    on: AtomicBool,
    tunnel_open: AtomicBool,
    /// The file is to be opened anew before the next line.
    reopen: AtomicBool,
    /// Where lines go from the next one on.
    next: Mutex<Option<Sink>>,
}

/// A log that can be written to and is not in use yet.
#[derive(Debug)]
pub struct Prepared {
    sink: Sink,
    on: bool,
    tunnel_open: bool,
}

#[derive(Debug)]
enum Message {
    Line(Box<Record>),
    /// Something in [`Switches`] is different. Where there is no room for it, another message is on its way.
    Look,
    /// No line of the gateway's comes after this.
    Last,
}

/// Ends the log, which else ends when every [`AccessLog`] has been dropped: a program may keep one for longer than its
/// gateway.
#[derive(Debug)]
pub struct Writer {
    lines: SyncSender<Message>,
    ended: Receiver<()>,
}

/// Longest time for the last lines to be taken when the gateway ends.
const LAST_LINES: Duration = Duration::from_secs(5);
/// Time between two attempts to say that no more will come.
const A_MOMENT: Duration = Duration::from_millis(10);
/// Time from one warning that lines are lost to the next.
const WARNINGS_APART: Duration = Duration::from_secs(60);
/// Lines that may wait for the writer.
const WAITING_LINES: usize = 8192;

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file can't be opened for appending, or the thread can't be started.
    pub fn open(config: &Config, metrics: Arc<Metrics>) -> io::Result<(Self, Writer)> {
        let Prepared { mut sink, on, tunnel_open } = Self::prepare(config)?;
        let (sender, receiver) = sync_channel(WAITING_LINES);
        let (done, ended) = sync_channel(0);
        let lost = Arc::clone(&metrics);
        let switches = Switches { on: on.into(), tunnel_open: tunnel_open.into(), ..Switches::default() };
        let switches = Arc::new(switches);
        let next = Arc::clone(&switches);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            sink.write_all_of(&receiver, &next, &lost);
            drop(done);
        })?;
        let writer = Writer { lines: sender.clone(), ended };
        Ok((Self { lines: sender, switches, metrics }, writer))
    }

    /// Opens another log, to switch to.
    ///
    /// # Errors
    /// The file can't be opened for appending.
    pub fn prepare(config: &Config) -> io::Result<Prepared> {
        let on = config.format != Format::Off;
        Ok(Prepared { sink: Sink::open(config)?, on, tunnel_open: config.tunnel_open })
    }

    /// Writes there from now on.
    pub fn switch(&self, to: Prepared) {
        let Prepared { sink, on, tunnel_open } = to;
        *self.switches.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
        self.switches.tunnel_open.store(tunnel_open, Ordering::Relaxed);
        self.switches.on.store(on, Ordering::Relaxed);
        let _ = self.lines.try_send(Message::Look);
    }

    /// Hands a record over; never waits.
    pub fn write(&self, record: Record) {
        if !self.is_on() || record.event == Event::Open && !self.tells_openings() {
            return;
        }
        if self.lines.try_send(Message::Line(Box::new(record))).is_err() {
            self.metrics.access_log_lost.inc();
        }
    }

    /// Whether records are written at all; when not, they need not be made.
    pub fn is_on(&self) -> bool {
        self.switches.on.load(Ordering::Relaxed)
    }

    /// Whether the opening of a tunnel gets a line of its own.
    pub fn tells_openings(&self) -> bool {
        self.is_on() && self.switches.tunnel_open.load(Ordering::Relaxed)
    }

    /// Opens the file anew, after it was moved away.
    pub fn reopen(&self) {
        self.switches.reopen.store(true, Ordering::Release);
        let _ = self.lines.try_send(Message::Look);
    }
}

impl Writer {
    /// Waits until the last line is written; not for ever, since a pipe may have a reader that has stopped reading.
    pub fn finish(self) {
        let deadline = Instant::now() + LAST_LINES;
        let mut last = Some(Message::Last);
        while Instant::now() < deadline {
            // A queue that is full has no room for the last word yet.
            last = last.and_then(|last| match self.lines.try_send(last) {
                Err(TrySendError::Full(last)) => Some(last),
                Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            });
            let wait = if last.is_some() { A_MOMENT } else { deadline.saturating_duration_since(Instant::now()) };
            if self.ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
        warn!("access log: nobody took the last lines for {LAST_LINES:?}, leaving without them");
    }
}

/// Where lines end up.
#[derive(Debug)]
struct Sink {
    format: Format,
    file: Option<PathBuf>,
    out: BufWriter<Target>,
    line: String,
    /// When it was last said that writes fail.
    warned: Option<Instant>,
}

impl Sink {
    fn open(config: &Config) -> io::Result<Self> {
        let file = config.file.clone().filter(|_| config.format != Format::Off);
        let out = target(file.as_ref())?;
        Ok(Self { format: config.format, file, out, line: String::new(), warned: None })
    }

    fn write_all_of(&mut self, messages: &Receiver<Message>, switches: &Switches, metrics: &Metrics) {
        loop {
            let message = match messages.try_recv() {
                Err(TryRecvError::Empty) => {
                    // A pause is the moment to let readers see what there is.
                    let flushed = self.out.flush();
                    self.note(flushed, metrics);
                    messages.recv().ok()
                }
                received => received.ok(),
            };
            if let Some(next) = switches.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let flushed = self.out.flush();
                self.note(flushed, metrics);
                *self = next;
            }
            if switches.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            match message {
                Some(Message::Line(record)) => {
                    self.line.clear();
                    match self.format {
                        Format::Json => record.write_json(&mut self.line),
                        Format::Text | Format::Off => record.write_text(&mut self.line),
                    }
                    self.line.push('\n');
                    let written = self.out.write_all(self.line.as_bytes());
                    // Where there is no room for it in the buffer, it is not in there.
                    metrics.access_log_lost.inc_by(u64::from(written.is_err()));
                    self.note(written, metrics);
                }
                Some(Message::Look) => {}
                Some(Message::Last) | None => {
                    let flushed = self.out.flush();
                    self.note(flushed, metrics);
                    return;
                }
            }
        }
    }

    fn reopen(&mut self) {
        match target(self.file.as_ref()) {
            Ok(out) => {
                let _ = self.out.flush();
                self.out = out;
            }
            Err(error) => warn!("access log: can't open {:?} anew, keeping the old one: {error}", self.file),
        }
    }

    /// Counts what could not be written, and tells of it now and then: a disk that is full stays so for a while.
    fn note(&mut self, written: io::Result<()>, metrics: &Metrics) {
        let Err(error) = written else { return };
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARNINGS_APART) {
            warn!("access log: lines are lost: {error}");
            self.warned = Some(Instant::now());
        }
        // What the buffer holds can't be written; begin anew rather than fail for ever.
        if let Ok(out) = target(self.file.as_ref()) {
            let (_, unwritten) = std::mem::replace(&mut self.out, out).into_parts();
            let lines = unwritten.map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count());
            metrics.access_log_lost.inc_by(lines as u64);
        }
    }
}

/// What a log is written to.
#[derive(Debug)]
enum Target {
    File(File),
    StandardOutput(io::Stdout),
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::StandardOutput(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::StandardOutput(out) => out.flush(),
        }
    }
}

fn target(file: Option<&PathBuf>) -> io::Result<BufWriter<Target>> {
    Ok(BufWriter::new(match file {
        Some(path) => Target::File(OpenOptions::new().create(true).append(true).open(path)?),
        None => Target::StandardOutput(io::stdout()),
    }))
}

/// One value of a line.
enum Value<'a> {
    Text(&'a str),
    Number(u64),
    Seconds(Duration),
    Flag,
}

impl Value<'_> {
    /// Writes the value as it stands; the machinery of `fmt` would cost most of a line.
    fn push_plain(&self, line: &mut String) {
        match *self {
            Self::Text(text) => line.push_str(text),
            Self::Number(number) => line.push_str(&Text::number(number)),
            Self::Seconds(time) => {
                // To the nearest microsecond; the digits that are missing in front are zeros.
                let rounded = time.saturating_add(Duration::from_nanos(500));
                let micros = Text::number(u64::from(rounded.subsec_micros()) + 1_000_000);
                line.push_str(&Text::number(rounded.as_secs()));
                line.push('.');
                line.push_str(&micros[1..]);
            }
            Self::Flag => line.push_str("true"),
        }
    }
}

impl Record {
    /// Hands out what there is to tell, in the order of a line.
    fn tell(&self, mut say: impl FnMut(&str, Value<'_>)) {
        let mut text = |key: &str, value: &str| {
            if !value.is_empty() {
                say(key, Value::Text(value));
            }
        };

        text("time", &humantime::format_rfc3339_millis(self.began).to_string());
        text("event", self.event.as_str());
        text("client", &Text::address(self.client));
        text("listener", &self.listener);
        text("protocol", self.protocol);
        text("transport", self.transport.unwrap_or(""));
        text("method", &self.method);
        text("host", &self.host);
        text("target", &self.target);
        text("session", &self.session);
        text("search", self.search);
        text("route", self.route.as_deref().unwrap_or(""));
        text("upstream", self.upstream.as_deref().unwrap_or(""));
        text("server", self.server.as_deref().unwrap_or(""));
        text("closed_by", self.closed_by);
        text("id", &self.request_id);
        let mut number = |key: &str, value: u64| {
            if value != 0 {
                say(key, Value::Number(value));
            }
        };
        number("status", self.status.into());
        number("tries", if self.tries > 1 { self.tries.into() } else { 0 });
        number("bytes_in", self.bytes_in);
        number("bytes_out", self.bytes_out);
        number("messages_in", self.messages_in);
        number("messages_out", self.messages_out);
        number("close_code", self.close_code.unwrap_or(0).into());
        if self.secure {
            say("tls", Value::Flag);
        }
        if !self.queued.is_zero() {
            say("queued", Value::Seconds(self.queued));
        }
        if let Some(first_byte) = self.first_byte {
            say("first_byte", Value::Seconds(first_byte));
        }
        if self.event != Event::Open {
            say("duration", Value::Seconds(self.duration));
        }
    }

    fn write_text(&self, line: &mut String) {
        self.tell(|key, value| {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(key);
            line.push('=');
            match value {
                Value::Text(text) if !text.bytes().all(is_bare) => drop(write!(line, "{text:?}")),
                value => value.push_plain(line),
            }
        });
    }

    fn write_json(&self, line: &mut String) {
        line.push('{');
        self.tell(|key, value| {
            if line.len() > 1 {
                line.push(',');
            }
            line.push('"');
            line.push_str(key);
            line.push_str("\":");
            match value {
                Value::Text(text) => drop(write!(line, "{}", serde_json::Value::from(text))),
                value => value.push_plain(line),
            }
        });
        line.push('}');
    }
}

/// Bytes that need no quotes in a text line.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            event: Event::Close,
            began: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(1500),
            first_byte: None,
            queued: Duration::ZERO,
            client: [192, 0, 2, 1].into(),
            listener: "web".into(),
            protocol: "WebSocket",
            transport: Some("websocket"),
            secure: true,
            method: "GET".into(),
            host: "example.com".to_owned(),
            target: "/socket.io/?x=\"quoted\"".to_owned(),
            session: String::new(),
            search: "",
            status: 101,
            route: Some("sockets".into()),
            upstream: Some("sockets".into()),
            server: Some("a".into()),
            tries: 1,
            bytes_in: 12,
            bytes_out: 0,
            messages_in: 2,
            messages_out: 0,
            closed_by: "client",
            close_code: Some(1001),
            request_id: String::new(),
        }
    }

    #[test]
    fn text_lines_quote_what_could_break_them() {
        let mut line = String::new();
        record().write_text(&mut line);
        assert_eq!(
            line,
            "time=1970-01-01T00:00:00.000Z event=close client=192.0.2.1 listener=web protocol=WebSocket \
             transport=websocket method=GET host=example.com target=\"/socket.io/?x=\\\"quoted\\\"\" route=sockets \
             upstream=sockets server=a closed_by=client status=101 bytes_in=12 messages_in=2 close_code=1001 tls=true \
             duration=1.500000"
        );
    }

    #[test]
    fn json_lines_are_json_whatever_clients_send() {
        let mut line = String::new();
        Record { target: "/\u{1}\"\\\n".to_owned(), ..record() }.write_json(&mut line);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["target"], "/\u{1}\"\\\n");
        assert_eq!(value["close_code"], 1001);
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_moved_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let config = Config { file: Some(path.clone()), ..Config::default() };
        let (log, writer) = AccessLog::open(&config, Metrics::new().unwrap()).unwrap();
        log.write(record());
        // The writer takes messages in order, so the first line is in the old file before it opens the new one.
        while std::fs::read_to_string(&path).unwrap().is_empty() {
            std::thread::yield_now();
        }
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        log.reopen();
        log.write(record());
        drop(log);
        writer.finish();
        for name in ["access.log", "access.log.1"] {
            assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap().lines().count(), 1, "{name}");
        }
    }

    #[test]
    fn the_last_line_is_not_waited_for_where_a_program_keeps_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let config = Config { file: Some(path.clone()), ..Config::default() };
        let (log, writer) = AccessLog::open(&config, Metrics::new().unwrap()).unwrap();
        log.write(record());
        let began = Instant::now();
        writer.finish();
        assert!(began.elapsed() < LAST_LINES);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        drop(log);
    }

    #[test]
    fn a_log_that_is_behind_opens_its_file_anew_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let config = Config { file: Some(path.clone()), ..Config::default() };
        let mut sink = Sink::open(&config).unwrap();
        let (lines, receiver) = sync_channel(1);
        let (switches, metrics) = (Arc::<Switches>::default(), Metrics::new().unwrap());
        lines.send(Message::Line(Box::new(record()))).unwrap();
        let log = AccessLog { lines, switches: Arc::clone(&switches), metrics: Arc::clone(&metrics) };
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        log.reopen();
        drop(log);
        sink.write_all_of(&receiver, &switches, &metrics);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_full_disk_is_told_of_once_and_every_line_counted() {
        let config = Config { file: Some("/dev/full".into()), ..Config::default() };
        let (mut sink, metrics) = (Sink::open(&config).unwrap(), Metrics::new().unwrap());
        let mut first = None;
        for _ in 0..100 {
            let (lines, receiver) = sync_channel(2);
            lines.send(Message::Line(Box::new(record()))).unwrap();
            lines.send(Message::Line(Box::new(record()))).unwrap();
            drop(lines);
            sink.write_all_of(&receiver, &Switches::default(), &metrics);
            assert_eq!(sink.warned, *first.get_or_insert(sink.warned));
        }
        assert!(sink.warned.is_some());
        assert_eq!(metrics.access_log_lost.get(), 200);
    }

    #[test]
    fn a_log_is_switched_while_lines_come() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let config = |name, format| Config { file: Some(at(name)), format, ..Config::default() };
        let (log, writer) = AccessLog::open(&config("first", Format::Text), Metrics::new().unwrap()).unwrap();
        let written = |name: &str| {
            while std::fs::read_to_string(at(name)).unwrap().is_empty() {
                std::thread::yield_now();
            }
        };
        log.write(record());
        written("first");
        log.switch(AccessLog::prepare(&config("second", Format::Json)).unwrap());
        log.write(record());
        written("second");
        log.switch(AccessLog::prepare(&config("third", Format::Off)).unwrap());
        log.write(record());
        assert!(!log.is_on());
        assert!(AccessLog::prepare(&config("no/such/folder", Format::Text)).is_err());
        drop(log);
        writer.finish();
        for (name, begins) in [("first", "time="), ("second", "{")] {
            let text = std::fs::read_to_string(at(name)).unwrap();
            assert!(text.lines().count() == 1 && text.starts_with(begins), "{name}: {text}");
        }
        assert!(!at("third").exists());
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let config = Config { file: Some("/dev/full".into()), ..Config::default() };
        let metrics = Metrics::new().unwrap();
        let (log, writer) = AccessLog::open(&config, Arc::clone(&metrics)).unwrap();
        for _ in 0..100 {
            log.write(record());
        }
        drop(log);
        writer.finish();
        assert!(metrics.access_log_lost.get() > 0);
    }
}
