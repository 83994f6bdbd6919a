//! The gateways that are measured: each started anew for each measurement, on free ports, with the same work to do.
//!
//! What is equal for all: two servers behind `/`, in turn, over kept connections; the same two behind `/socket.io/`, by
//! a consistent hash of the client's address (Sockgate: by the session); `X-Forwarded-For` and `X-Forwarded-Proto`
//! told; no access log, but where [`Extras`] say so; no health checks; the same certificate (ECDSA, P-256); the same number of worker threads, not
//! pinned; long timeouts, so that none of them ends a held socket.

mod haproxy;
mod nginx;
mod sockgate;

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;

use crate::Error;
use crate::backend::Addresses;
use crate::rules::Rule;

/// How long a gateway may take to listen; under valgrind everything takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sockgate,
    HaProxy,
    Nginx,
}

const KINDS: [Kind; 3] = [Kind::Sockgate, Kind::HaProxy, Kind::Nginx];

/// A gateway to measure.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub name: String,
    pub kind: Kind,
    pub program: PathBuf,
}

/// What gateways do besides the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extras {
    /// Two forwarding fields.
    None,
    /// Nothing, but for a rule (Sockgate alone).
    Rule(&'static Rule),
    /// Sessions that it does not know are asked for there (Sockgate alone).
    Among(SocketAddr),
    /// What most people have them do: all forwarding fields, a request id, and a line in a file for each request.
    AsInUse,
}

/// What all of them are given.
pub(crate) struct World {
    /// For configurations, certificates and logs.
    pub folder: PathBuf,
    pub backend: Addresses,
    pub threads: usize,
    /// Open files that a process may have.
    pub files: u64,
}

/// Where a gateway listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doors {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub tcp: SocketAddr,
}

/// A gateway that runs; it is ended when dropped.
pub(crate) struct Running {
    child: Child,
    pub doors: Doors,
}

impl World {
    /// Makes the certificate that all of them show.
    pub(crate) fn new(folder: PathBuf, backend: Addresses, threads: usize, files: u64) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        fs::write(folder.join("cert.pem"), certificate.pem())?;
        fs::write(folder.join("key.pem"), key.serialize_pem())?;
        fs::write(folder.join("both.pem"), certificate.pem() + &key.serialize_pem())?;
        Ok(Self { folder, backend, threads, files })
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl Peer {
    /// A program that says itself which gateway it is.
    pub(crate) fn of_any_kind(name: &str, program: PathBuf) -> Result<Self, Error> {
        let said = KINDS.into_iter().find(|&kind| version(&program, kind).is_some());
        let kind = said.ok_or_else(|| format!("{}: neither Sockgate nor HAProxy nor nginx", program.display()))?;
        Ok(Self { name: name.to_owned(), kind, program })
    }

    /// What it says of itself, for the record.
    pub(crate) fn version(&self) -> String {
        version(&self.program, self.kind).unwrap_or_else(|| "unknown".to_owned())
    }

    /// Starts it and waits until it takes connections; with `wrapper`, as an argument of another program, in one process.
    pub(crate) async fn start(&self, world: &World, extras: Extras, wrapper: &[String]) -> Result<Running, Error> {
        let alone = !wrapper.is_empty();
        let doors = free_doors()?;
        let arguments = match self.kind {
            Kind::Sockgate => sockgate::configure(world, &doors, extras)?,
            Kind::HaProxy => haproxy::configure(world, &doors, extras)?,
            Kind::Nginx => nginx::configure(&self.program, world, &doors, extras, alone)?,
        };
        let log_path = world.folder.join(format!("{}.log", self.name));
        let log = File::create(&log_path)?;
        let mut command = match wrapper {
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(&self.program);
                command
            }
            [] => Command::new(&self.program),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.env("RUST_LOG", "error").current_dir(&world.folder);
        let child = command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))?;
        let mut running = Running { child, doors };
        let began = Instant::now();
        for door in [doors.http, doors.https, doors.tcp] {
            while TcpStream::connect(door).await.is_err() {
                if running.child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                    return Err(format!("{} did not start:\n{}", self.name, last_words(&log_path)).into());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(running)
    }
}

impl Running {
    /// Its processes: the one that was started, and those that it started.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.child.id()];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(children(parent));
            next += 1;
        }
        found
    }

    fn signal(&self, signal: Signal) {
        if let Ok(process) = i32::try_from(self.child.id()) {
            // One that has ended already is what is wanted.
            kill(Pid::from_raw(process), signal).unwrap_or(());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // nginx ends its workers at SIGTERM, and would leave them behind at SIGKILL.
        let workers: Vec<u32> = self.processes().into_iter().skip(1).collect();
        self.signal(Signal::SIGTERM);
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < Duration::from_millis(500) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap_or(());
            for worker in workers.into_iter().filter_map(|worker| i32::try_from(worker).ok()) {
                kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap_or(());
            }
            self.child.wait().map(drop).unwrap_or(());
        }
    }
}

/// The version that a program says when it is asked as this kind is asked.
fn version(program: &Path, kind: Kind) -> Option<String> {
    let (argument, word) = match kind {
        Kind::Sockgate => ("--version", "sockgate "),
        Kind::HaProxy => ("-v", "HAProxy version "),
        Kind::Nginx => ("-v", "nginx/"),
    };
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let (_, rest) = std::str::from_utf8(&text).ok()?.split_once(word)?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Three ports that nobody has; they could be taken before the gateway binds them, which it would say.
fn free_doors() -> io::Result<Doors> {
    let held: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
    let address = |index: usize| held[index].local_addr();
    Ok(Doors { http: address(0)?, https: address(1)?, tcp: address(2)? })
}

fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
