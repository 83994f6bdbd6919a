//! The access log: one line for each request and each tunnel, written by a thread of its own.
//!
//! Workers hand over lines and never wait: when the log can't keep pace, or the disk is full, lines are lost and
//! counted.

mod record;
mod writer;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::warn;
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;
use writer::Sink;

pub use record::{Event, Record};

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
    /// Names of parameters of the query whose values are not written, beside those whose names say that they are secrets.
    pub mask: Vec<String>,
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

/// Where workers put their records.
#[derive(Clone, Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    /// The log ends when nobody can write to it any more.
    _open: Arc<Open>,
}

/// What workers and the writer share.
#[derive(Debug)]
struct Shared {
    on: AtomicBool,
    tunnel_open: AtomicBool,
    /// Lines are JSON from now on. It changes while `waiting` is locked.
    json: AtomicBool,
    waiting: Mutex<Waiting>,
    /// There is something for the writer to do.
    due: Condvar,
}

/// What waits for the writer.
#[derive(Debug, Default)]
struct Waiting {
    /// Whole lines.
    lines: Vec<u8>,
    /// Where the next lines go, and how many bytes of those that wait still go where they went before.
    turn: Option<(Turn, usize)>,
    /// No line comes any more.
    last: bool,
    /// The writer has just written, and looks again in a moment without being told.
    pausing: bool,
}

/// A new place for lines.
#[derive(Debug)]
enum Turn {
    /// The same file, which was moved away.
    Reopen,
    To(Sink),
}

/// Says that the log has ended when it is dropped.
#[derive(Debug)]
struct Open(Arc<Shared>);

/// A log that can be written to and is not in use yet.
#[derive(Debug)]
pub struct Prepared {
    sink: Sink,
    config: Config,
}

/// Ends the log, which else ends when every [`AccessLog`] has been dropped: a program may keep one for longer than its
/// gateway.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    ended: Receiver<()>,
}

/// Longest time for the last lines to be taken when the gateway ends.
const LAST_LINES: Duration = Duration::from_secs(5);
/// Bytes that may wait for the writer, who may be writing as many.
const MOST_WAITING: usize = 2 << 20;
/// Bytes that wait for no pause to end.
const MANY: usize = 256 << 10;

thread_local! {
    /// The line in the making.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file can't be opened for appending, or the thread can't be started.
    pub fn open(config: &Config, metrics: Arc<Metrics>) -> io::Result<(Self, Writer)> {
        let Prepared { mut sink, config } = Self::prepare(config)?;
        let shared = Arc::new(Shared::new(&config));
        let (done, ended) = sync_channel(0);
        let (written, lost) = (Arc::clone(&shared), Arc::clone(&metrics));
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            sink.write_all_of(&written, &lost);
            drop(done);
        })?;
        let writer = Writer { shared: Arc::clone(&shared), ended };
        let _open = Arc::new(Open(Arc::clone(&shared)));
        Ok((Self { shared, metrics, _open }, writer))
    }

    /// Opens another log, to switch to.
    ///
    /// # Errors
    /// The file can't be opened for appending.
    pub fn prepare(config: &Config) -> io::Result<Prepared> {
        Ok(Prepared { sink: Sink::open(config)?, config: config.clone() })
    }

    /// Writes there from now on.
    pub fn switch(&self, to: Prepared) {
        let Prepared { sink, config } = to;
        let Shared { on, tunnel_open, .. } = &*self.shared;
        tunnel_open.store(config.tunnel_open, Ordering::Relaxed);
        on.store(config.format != Format::Off, Ordering::Relaxed);
        let mut waiting = self.shared.lock();
        self.shared.json.store(config.format == Format::Json, Ordering::Relaxed);
        waiting.turn = Some((Turn::To(sink), waiting.lines.len()));
        drop(waiting);
        self.shared.due.notify_one();
    }

    /// Hands a record over; never waits.
    pub fn write(&self, record: &Record) {
        if !self.is_on() || record.event == Event::Open && !self.tells_openings() {
            return;
        }
        LINE.with_borrow_mut(|line| {
            loop {
                let json = self.shared.json.load(Ordering::Relaxed);
                line.clear();
                record.write(json, line);
                line.push('\n');
                let mut waiting = self.shared.lock();
                if self.shared.json.load(Ordering::Relaxed) != json {
                    // The log was switched meanwhile.
                    continue;
                }
                if !waiting.add(line.as_bytes()) {
                    self.metrics.access_log_lost.inc();
                } else if waiting.is_due(line.len()) {
                    drop(waiting);
                    self.shared.due.notify_one();
                }
                return;
            }
        });
    }

    /// Whether records are written at all; when not, they need not be made.
    pub fn is_on(&self) -> bool {
        self.shared.on.load(Ordering::Relaxed)
    }

    /// Whether the opening of a tunnel gets a line of its own.
    pub fn tells_openings(&self) -> bool {
        self.is_on() && self.shared.tunnel_open.load(Ordering::Relaxed)
    }

    /// Opens the file anew, after it was moved away.
    pub fn reopen(&self) {
        let mut waiting = self.shared.lock();
        if !matches!(waiting.turn, Some((Turn::To(_), _))) {
            waiting.turn = Some((Turn::Reopen, waiting.lines.len()));
        }
        drop(waiting);
        self.shared.due.notify_one();
    }
}

impl Shared {
    fn new(config: &Config) -> Self {
        Self {
            on: (config.format != Format::Off).into(),
            tunnel_open: config.tunnel_open.into(),
            json: (config.format == Format::Json).into(),
            waiting: Mutex::default(),
            due: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that no line comes any more.
    fn end(&self) {
        self.lock().last = true;
        self.due.notify_one();
    }
}

impl Waiting {
    /// Adds a line; false where there is no room for it, or nobody who would write it.
    fn add(&mut self, line: &[u8]) -> bool {
        let fits = !self.last && self.lines.len() + line.len() <= MOST_WAITING;
        if fits {
            self.lines.extend_from_slice(line);
        }
        fits
    }

    /// Whether the writer has to be told of a line that has just been added: of the first one, unless it looks by
    /// itself soon, and when there are many.
    fn is_due(&self, added: usize) -> bool {
        let before = self.lines.len() - added;
        before == 0 && !self.pausing || before < MANY && self.lines.len() >= MANY
    }

    /// Whether something is to be done that can't wait for the end of a pause.
    fn is_urgent(&self) -> bool {
        self.last || self.turn.is_some() || self.lines.len() >= MANY
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Writer {
    /// Waits until the last line is written; not for ever, since a pipe may have a reader that has stopped reading.
    pub fn finish(self) {
        self.shared.end();
        if self.ended.recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Timeout) {
            warn!("access log: nobody took the last lines for {LAST_LINES:?}, leaving without them");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::record::tests::record;
    use super::*;

    fn opened(config: &Config) -> (AccessLog, Writer, Arc<Metrics>) {
        let metrics = Metrics::new().unwrap();
        let (log, writer) = AccessLog::open(config, Arc::clone(&metrics)).unwrap();
        (log, writer, metrics)
    }

    #[test]
    fn a_moved_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (log, writer, _) = opened(&Config { file: Some(path.clone()), ..Config::default() });
        log.write(&record());
        // Whether or not it has been written by now.
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        log.reopen();
        log.write(&record());
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
        let (log, writer, metrics) = opened(&Config { file: Some(path.clone()), ..Config::default() });
        log.write(&record());
        let began = Instant::now();
        writer.finish();
        assert!(began.elapsed() < LAST_LINES);
        log.write(&record());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(metrics.access_log_lost.get(), 1, "nobody is left to write it");
    }

    #[test]
    fn a_log_ends_with_the_last_who_could_write_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (log, writer, _) = opened(&Config { file: Some(folder.path().join("access.log")), ..Config::default() });
        let another = log.clone();
        drop(log);
        another.write(&record());
        drop(another);
        assert_eq!(writer.ended.recv_timeout(LAST_LINES), Err(RecvTimeoutError::Disconnected));
        assert_eq!(std::fs::read_to_string(folder.path().join("access.log")).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_log_is_switched_while_lines_come() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let config = |name, format| Config { file: Some(at(name)), format, ..Config::default() };
        let (log, writer, _) = opened(&config("first", Format::Text));
        log.write(&record());
        log.switch(AccessLog::prepare(&config("second", Format::Json)).unwrap());
        log.write(&record());
        let began = Instant::now();
        while std::fs::read_to_string(at("second")).unwrap().is_empty() && began.elapsed() < LAST_LINES {
            std::thread::yield_now();
        }
        log.switch(AccessLog::prepare(&config("third", Format::Off)).unwrap());
        log.write(&record());
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
    fn the_writer_is_told_of_the_first_line_and_of_many() {
        let mut waiting = Waiting::default();
        let added = |waiting: &mut Waiting, length: usize| {
            assert!(waiting.add(&vec![b'x'; length]));
            waiting.is_due(length)
        };
        assert!(added(&mut waiting, 10) && !added(&mut waiting, 10));
        assert!(added(&mut waiting, MANY) && !added(&mut waiting, 10), "the one that makes them many");
        waiting = Waiting { pausing: true, ..Waiting::default() };
        assert!(!added(&mut waiting, 10), "it looks by itself soon");
        assert!(!waiting.add(&vec![b'x'; MOST_WAITING]), "there is no room");
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let (log, writer, metrics) = opened(&Config { file: Some("/dev/full".into()), ..Config::default() });
        for _ in 0..100 {
            log.write(&record());
        }
        drop(log);
        writer.finish();
        assert_eq!(metrics.access_log_lost.get(), 100);
    }
}
