//! The upgrade of the binary: a new process is started from the same path with the same arguments, takes the listening
//! sockets over, and says when it is ready. If it never does, nothing has changed.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use log::warn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::sessions;
use crate::listener::inherit::{Handover, LISTENERS, Sockets};
use crate::snapshot::Snapshot;

/// How the next process is started.
pub(super) struct Upgrade {
    sockets: Arc<Sockets>,
    /// Where this program was found when it started; what is there now is the next one.
    program: io::Result<PathBuf>,
    arguments: Vec<OsString>,
}

/// What the new process says.
const READY: &[u8] = b"ready\n";
/// Longest time for the new process to get ready: to read its configuration, and to look up names.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process that fails may take to end.
const LAST_MOMENTS: Duration = Duration::from_secs(5);
/// The first descriptor that is passed (sd_listen_fds(3)).
const FIRST: i32 = 3;

impl Upgrade {
    /// Remembers how this process was started.
    pub(super) fn new(sockets: Arc<Sockets>) -> Self {
        Self { sockets, program: env::current_exe(), arguments: env::args_os().collect() }
    }

    /// Takes what would stay behind of the sockets that this process still has.
    pub(super) fn leave_nothing(&self) {
        self.sockets.remove_files();
    }

    /// Starts the next process and waits until it has taken over; gives its id.
    ///
    /// # Errors
    /// Why it has not. It is no more, then; dropped before its end, this ends the new process, too.
    pub(super) async fn hand_over(&self, snapshot: &Snapshot) -> Result<u32, String> {
        self.sockets.all_open().await;
        let (child, mut word, sockets) = self.start().map_err(|error| format!("it can't be started: {error}"))?;
        let mut starting = Starting(Some(child));
        // What it can't be told, it finds out.
        let _ = word.write_all(&sessions::secrets(snapshot)).await;
        let mut said = [0; READY.len()];
        match timeout(PATIENCE, word.read_exact(&mut said)).await {
            Ok(Ok(_)) if said == READY => {
                sockets.done();
                sessions::send(&mut word, snapshot).await;
                Ok(starting.succeed())
            }
            Ok(Ok(_)) => Err("it does not say that it is ready, but something else".to_owned()),
            Ok(Err(_)) => Err(starting.ended().await),
            Err(_) => Err(format!("it was not ready within {PATIENCE:?}")),
        }
    }

    fn start(&self) -> io::Result<(Child, UnixStream, Handover)> {
        let program = self.program.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let mut sockets = self.sockets.hand_over()?;
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let passed = sockets.descriptors.drain(..).chain([theirs.into()]);
        let mappings: Vec<_> =
            (FIRST..).zip(passed).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        let mut command = Command::new(program);
        let mut arguments = self.arguments.iter();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env(LISTENERS, &sockets.said)
            .env("LISTEN_FDS", mappings.len().to_string())
            // Whose they are can't be said: the process has no id yet.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("LISTEN_FDS_FIRST_FD")
            .fd_mappings(mappings)
            .map_err(io::Error::other)?;
        let child = command.spawn()?;
        Ok((child, UnixStream::from_std(ours)?, sockets))
    }
}

/// The stream to the process before.
pub(super) struct Predecessor(BufReader<UnixStream>);

impl Predecessor {
    /// To be called within a runtime; takes over what sessions are called, before there is any.
    pub(super) async fn meet(stream: StdUnixStream, snapshot: &Snapshot) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut this = Self(BufReader::new(UnixStream::from_std(stream)?));
        sessions::take_secrets(&mut this.0, snapshot).await;
        Ok(this)
    }

    /// Tells it that this process has taken over, and takes its sessions.
    pub(super) async fn relieve(mut self, snapshot: &Snapshot) {
        if let Err(error) = self.0.get_mut().write_all(READY).await {
            warn!("the process before can't be told that this one has taken over: {error}");
            return;
        }
        sessions::receive(&mut self.0, snapshot).await;
    }
}

/// A process that has not said that it is ready; ended when dropped.
struct Starting(Option<Child>);

impl Starting {
    fn succeed(mut self) -> u32 {
        // What becomes of it is not this process's affair any more.
        self.0.take().map_or(0, |child| child.id())
    }

    /// How it ended, or that it has not, though it has let go of the stream.
    async fn ended(&mut self) -> String {
        let Some(child) = &mut self.0 else { return String::new() };
        let mut ticks = tokio::time::interval(LAST_MOMENTS / 100);
        for _ in 0..100 {
            ticks.tick().await;
            match child.try_wait() {
                Ok(Some(status)) => return format!("it ended before it was ready, with {status}"),
                Ok(None) => {}
                Err(error) => return format!("it ended before it was ready: {error}"),
            }
        }
        "it does not say that it is ready, and never will".to_owned()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
