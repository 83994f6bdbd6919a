//! Counts instead of times: user instructions and system calls for each unit, which other load on the machine does not
//! change.
//!
//! Instructions come from the processor's own counter (perf) where it has one that may be read, and else from
//! valgrind, which runs the program on a processor of its own; system calls from a tracepoint (perf), or else strace.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::peers::{Extras, Peer, Running, World};
use crate::rules::Rule;
use crate::scenarios::{Amount, Bracket, Scenario};
use crate::{Error, report};

const INSTRUCTIONS: &str = "instructions:u";
const CALLS: &str = "raw_syscalls:sys_enter";
/// What tools take to attach to a process; no work is under way meanwhile.
const ATTACHING: Duration = Duration::from_millis(700);
/// What they may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one gateway needed for a unit of one scenario.
pub(crate) struct Count {
    pub scenario: &'static Scenario,
    pub peer: String,
    pub instructions: Option<f64>,
    pub calls: Option<f64>,
    pub failed: u64,
}

/// Counts each scenario that can be counted, at one thread.
pub(crate) async fn run(scenarios: &[&'static Scenario], peers: &[Peer], world: &World) -> Result<Vec<Count>, Error> {
    let of_the_processor = perf_counts(INSTRUCTIONS);
    let traced = perf_counts(CALLS);
    eprintln!(
        "instructions by {}, system calls by {}",
        if of_the_processor { "perf" } else { "valgrind" },
        if traced { "perf" } else { "strace" }
    );
    let mut counts = Vec::new();
    for &scenario in scenarios.iter().filter(|scenario| scenario.is_countable()) {
        eprintln!("{}", scenario.title);
        for peer in peers {
            let (instructions, failed) = if of_the_processor {
                counted(scenario, peer, world, &[], &mut Perf::new(INSTRUCTIONS)).await?
            } else {
                let mut callgrind = Callgrind::new(world);
                let wrapper = callgrind.wrapper();
                counted(scenario, peer, world, &wrapper, &mut callgrind).await?
            };
            let (calls, failed_too) = if traced {
                counted(scenario, peer, world, &[], &mut Perf::new(CALLS)).await?
            } else {
                counted(scenario, peer, world, &[], &mut Strace::new(world)).await?
            };
            let text = |count: Option<f64>| count.map_or("none".to_owned(), report::short);
            eprintln!("  {}: {} instructions, {} calls", peer.name, text(instructions), text(calls));
            let failed = failed + failed_too;
            counts.push(Count { scenario, peer: peer.name.clone(), instructions, calls, failed });
        }
    }
    Ok(counts)
}

/// The instructions of a request under a rule, and how many requests failed.
pub(crate) async fn rule(rule: &'static Rule, peer: &Peer, world: &World) -> Result<(Option<f64>, u64), Error> {
    if perf_counts(INSTRUCTIONS) {
        return counted_rule(rule, peer, world, &[], &mut Perf::new(INSTRUCTIONS)).await;
    }
    let mut callgrind = Callgrind::new(world);
    let wrapper = callgrind.wrapper();
    counted_rule(rule, peer, world, &wrapper, &mut callgrind).await
}

async fn counted_rule(
    rule: &'static Rule,
    peer: &Peer,
    world: &World,
    wrapper: &[String],
    counter: &mut impl Counter,
) -> Result<(Option<f64>, u64), Error> {
    let running = peer.start(world, Extras::Rule(rule), wrapper).await?;
    let (done, failed) = rule.run(&running, counter).await?;
    Ok(((done > 0).then(|| counter.counted() / done as f64), failed))
}

pub(crate) trait Counter: Bracket {
    fn counted(&self) -> f64;
}

async fn counted(
    scenario: &Scenario,
    peer: &Peer,
    world: &World,
    wrapper: &[String],
    counter: &mut impl Counter,
) -> Result<(Option<f64>, u64), Error> {
    let running = peer.start(world, scenario.extras(), wrapper).await?;
    let amount = Amount { time: Duration::ZERO, sockets: 0, count: Some(scenario.units_to_count()) };
    let sample = scenario.run(&running, world, amount, counter).await?;
    Ok(((sample.done > 0).then(|| counter.counted() / sample.done as f64), sample.failed()))
}

/// Whether perf may count this event here.
fn perf_counts(event: &str) -> bool {
    let output =
        std::process::Command::new("perf").args(["stat", "-x", ",", "-e", event, "true"]).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success() && perf_count(&String::from_utf8_lossy(&output.stderr)).is_some())
}

/// The first field of the first line that begins with a number.
fn perf_count(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.split(',').next()?.parse().ok())
}

/// `perf stat` on processes that run.
struct Perf {
    event: &'static str,
    child: Option<Child>,
    counted: f64,
}

impl Perf {
    fn new(event: &'static str) -> Self {
        Self { event, child: None, counted: 0.0 }
    }
}

impl Bracket for Perf {
    async fn begin(&mut self, gateway: &Running) -> Result<(), Error> {
        let processes = list(gateway);
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ",", "-e", self.event, "-p", &processes]);
        self.child = Some(attach(command).await?);
        Ok(())
    }

    async fn end(&mut self, _gateway: &Running) -> Result<Duration, Error> {
        let text = detach(self.child.take()).await?;
        self.counted = perf_count(&text).ok_or_else(|| format!("perf counted nothing: {text}"))?;
        Ok(Duration::ZERO)
    }
}

impl Counter for Perf {
    fn counted(&self) -> f64 {
        self.counted
    }
}

/// `strace -c` on processes that run.
struct Strace {
    file: PathBuf,
    child: Option<Child>,
    counted: f64,
}

impl Strace {
    fn new(world: &World) -> Self {
        Self { file: world.folder.join("strace.out"), child: None, counted: 0.0 }
    }
}

impl Bracket for Strace {
    async fn begin(&mut self, gateway: &Running) -> Result<(), Error> {
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-o"]).arg(&self.file);
        for process in gateway.processes() {
            command.args(["-p", &process.to_string()]);
        }
        self.child = Some(attach(command).await?);
        Ok(())
    }

    async fn end(&mut self, _gateway: &Running) -> Result<Duration, Error> {
        detach(self.child.take()).await?;
        self.counted = strace_count(&fs::read_to_string(&self.file)?).ok_or("strace counted nothing")?;
        Ok(Duration::ZERO)
    }
}

impl Counter for Strace {
    fn counted(&self) -> f64 {
        self.counted
    }
}

/// `100.00    0.001234           3       411        20 total`: the third number from the left; errors may be missing.
fn strace_count(text: &str) -> Option<f64> {
    let total = text.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}

/// Valgrind's callgrind, which counts only between begin and end.
pub(crate) struct Callgrind {
    file: PathBuf,
    counted: f64,
}

impl Callgrind {
    /// Writes into the folder of this gateway; it can count once.
    pub(crate) fn new(world: &World) -> Self {
        Self { file: world.folder.join("callgrind.out"), counted: 0.0 }
    }

    /// What the gateway is started by.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let file = format!("--callgrind-out-file={}", self.file.display());
        ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet", &file].map(str::to_owned).to_vec()
    }

    async fn tell(gateway: &Running, words: &[&str]) -> Result<(), Error> {
        let process = format!("--pid={}", gateway.processes()[0]);
        let mut command = Command::new("vgdb");
        command.arg(process).args(words).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await??;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("vgdb: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }
}

impl Bracket for Callgrind {
    async fn begin(&mut self, gateway: &Running) -> Result<(), Error> {
        Self::tell(gateway, &["instrumentation", "on"]).await
    }

    async fn end(&mut self, gateway: &Running) -> Result<Duration, Error> {
        Self::tell(gateway, &["dump"]).await?;
        Self::tell(gateway, &["instrumentation", "off"]).await?;
        let dump = self.file.with_extension("out.1");
        let text = fs::read_to_string(&dump)?;
        fs::remove_file(dump)?;
        self.counted = callgrind_count(&text).ok_or("callgrind counted nothing")?;
        Ok(Duration::ZERO)
    }
}

impl Counter for Callgrind {
    fn counted(&self) -> f64 {
        self.counted
    }
}

/// `totals: 123456`, and `summary:` in dumps of older versions.
fn callgrind_count(text: &str) -> Option<f64> {
    let line =
        |word: &str| text.lines().find_map(|line| line.strip_prefix(word)?.split_whitespace().next()?.parse().ok());
    line("totals:").or_else(|| line("summary:"))
}

fn list(gateway: &Running) -> String {
    gateway.processes().iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Starts a tool that looks at processes which run; it is ended with the bench.
pub(crate) async fn attach(mut command: Command) -> Result<Child, Error> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    tokio::time::sleep(ATTACHING).await;
    Ok(child)
}

/// Ends it as Ctrl-C would; what it says then.
pub(crate) async fn detach(child: Option<Child>) -> Result<String, Error> {
    let child = child.ok_or("nothing is attached")?;
    if let Some(process) = child.id() {
        kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGINT)?;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await??;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_counters_say_is_understood() {
        assert_eq!(perf_count("29,,raw_syscalls:sys_enter,1234,100.00,,\n"), Some(29.0));
        assert_eq!(perf_count("<not supported>,,instructions:u,0,100.00,,\n"), None);
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n------\n\
                      60.00    0.000600           3       200        20 read\n------\n\
                      100.00    0.001000           3       411        20 total\n";
        assert_eq!(strace_count(strace), Some(411.0));
        assert_eq!(callgrind_count("events: Ir\nfn=(1)\n1 5\n\ntotals: 12345\n"), Some(12345.0));
    }
}
