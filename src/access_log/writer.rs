//! Where lines end up: a file or standard output, written by a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use log::warn;

use super::{Config, Format, Shared, Turn, Waiting};
use crate::metrics::Metrics;

/// Time from one write to the next, so that many lines are one write and the writer is not woken for each. The first
/// line after a pause is written at once.
const PAUSE: Duration = Duration::from_millis(20);
/// Time from one warning that lines are lost to the next.
const WARNINGS_APART: Duration = Duration::from_secs(60);
/// Room that is kept for the lines of the next write.
const KEPT: usize = 64 << 10;

/// Where lines are written to.
#[derive(Debug)]
pub(super) struct Sink {
    file: Option<PathBuf>,
    out: Target,
    /// The last write ended in the middle of a line.
    torn: bool,
    /// When it was last said that writes fail.
    warned: Option<Instant>,
}

#[derive(Debug)]
enum Target {
    File(File),
    StandardOutput,
}

impl Sink {
    pub(super) fn open(config: &Config) -> io::Result<Self> {
        let file = config.file.clone().filter(|_| config.format != Format::Off);
        let out = target(file.as_ref())?;
        Ok(Self { file, out, torn: false, warned: None })
    }

    /// Writes what comes until nothing comes any more.
    pub(super) fn write_all_of(&mut self, shared: &Shared, metrics: &Metrics) {
        let mut lines = Vec::new();
        let mut waiting = shared.lock();
        loop {
            let idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.is_urgent();
            waiting = shared.due.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut lines, &mut waiting.lines);
            let (turn, last) = (waiting.turn.take(), waiting.last);
            waiting.pausing = true;
            drop(waiting);

            match turn {
                None => self.write(&lines, metrics),
                Some((turn, before)) => {
                    let (before, after) = lines.split_at(before);
                    self.write(before, metrics);
                    match turn {
                        Turn::Reopen => self.reopen(),
                        Turn::To(sink) => *self = sink,
                    }
                    self.write(after, metrics);
                }
            }
            if last {
                return;
            }
            lines.clear();
            lines.shrink_to(KEPT);

            let pause = |waiting: &mut Waiting| !waiting.is_urgent();
            let paused = shared.due.wait_timeout_while(shared.lock(), PAUSE, pause);
            waiting = paused.unwrap_or_else(PoisonError::into_inner).0;
            waiting.pausing = false;
        }
    }

    /// Writes lines; counts those that could not be written, and tells of it now and then: a disk that is full stays so
    /// for a while.
    fn write(&mut self, lines: &[u8], metrics: &Metrics) {
        let (written, result) = self.try_write(lines);
        let Err(error) = result else { return };
        let lost = &lines[written..];
        self.torn = written > 0 && lines[written - 1] != b'\n';
        metrics.access_log_lost.inc_by(lost.iter().filter(|&&byte| byte == b'\n').count() as u64);
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARNINGS_APART) {
            warn!("access log: lines are lost: {error}");
            self.warned = Some(Instant::now());
        }
    }

    /// Writes as many bytes as it can; how many it were.
    fn try_write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        if lines.is_empty() {
            return (0, Ok(()));
        }
        if self.torn {
            match self.out.write_once(b"\n") {
                Ok(1..) => self.torn = false,
                Ok(0) => return (0, Err(io::ErrorKind::WriteZero.into())),
                Err(error) => return (0, Err(error)),
            }
        }
        let mut written = 0;
        while written < lines.len() {
            match self.out.write_once(&lines[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    fn reopen(&mut self) {
        match target(self.file.as_ref()) {
            Ok(out) => (self.out, self.torn) = (out, false),
            Err(error) => warn!("access log: can't open {:?} anew, keeping the old one: {error}", self.file),
        }
    }
}

impl Target {
    /// One write, of which nothing is kept.
    fn write_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::StandardOutput => {
                let mut out = io::stdout().lock();
                let written = out.write(bytes)?;
                out.flush()?;
                Ok(written)
            }
        }
    }
}

fn target(file: Option<&PathBuf>) -> io::Result<Target> {
    Ok(match file {
        Some(path) => Target::File(OpenOptions::new().create(true).append(true).open(path)?),
        None => Target::StandardOutput,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use super::*;

    fn waiting(lines: &[u8]) -> Shared {
        let shared = Shared::new(&Config::default());
        assert!(shared.lock().add(lines));
        shared.end();
        shared
    }

    #[test]
    fn a_log_that_is_behind_opens_its_file_anew_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut sink = Sink::open(&Config { file: Some(path.clone()), ..Config::default() }).unwrap();
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        let shared = Shared::new(&Config::default());
        shared.lock().add(b"before\n");
        let before = shared.lock().lines.len();
        shared.lock().turn = Some((Turn::Reopen, before));
        shared.lock().add(b"after\n");
        shared.end();
        sink.write_all_of(&shared, &Metrics::new().unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"after\n");
        assert_eq!(std::fs::read(folder.path().join("access.log.1")).unwrap(), b"before\n");
    }

    #[test]
    fn a_full_disk_is_told_of_once_and_every_line_counted() {
        let config = Config { file: Some("/dev/full".into()), ..Config::default() };
        let (mut sink, metrics): (_, Arc<Metrics>) = (Sink::open(&config).unwrap(), Metrics::new().unwrap());
        let mut first = None;
        for _ in 0..100 {
            sink.write_all_of(&waiting(b"one\ntwo\n"), &metrics);
            assert_eq!(sink.warned, *first.get_or_insert(sink.warned));
        }
        assert!(sink.warned.is_some());
        assert_eq!(metrics.access_log_lost.get(), 200);
    }

    #[test]
    fn a_line_that_was_torn_does_not_take_the_next_one_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut sink = Sink::open(&Config { file: Some(path.clone()), ..Config::default() }).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(b"half of a li", 0).unwrap();
        sink.torn = true;
        sink.write_all_of(&waiting(b"whole\n"), &Metrics::new().unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"half of a li\nwhole\n");
    }
}
