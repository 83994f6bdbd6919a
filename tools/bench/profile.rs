//! Where the processor time of a gateway goes, by `perf record`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::Error;
use crate::count::{attach, detach};
use crate::peers::{Peer, Running, World};
use crate::scenarios::{Amount, Bracket, Scenario};

/// Symbols that are shown.
const MOST: usize = 40;

/// Profiles each gateway in one scenario, and prints where time went: kernel and program first, then symbols.
pub(crate) async fn run(scenario: &Scenario, peers: &[Peer], world: &World, seconds: f64) -> Result<(), Error> {
    for peer in peers {
        let running = peer.start(world, scenario.extras(), &[]).await?;
        let mut recorder = Recorder { file: world.folder.join("perf.data"), child: None };
        let amount = Amount { time: Duration::from_secs_f64(seconds.max(5.0)), sockets: 2000, count: None };
        let sample = scenario.run(&running, world, amount, &mut recorder).await?;
        drop(running);
        println!("== {}: {}, {} units, {} errors", peer.name, scenario.title, sample.done, sample.failed());
        println!("{}", recorder.report("dso", MOST)?);
        println!("{}", recorder.report("dso,symbol", MOST)?);
    }
    Ok(())
}

struct Recorder {
    file: PathBuf,
    child: Option<Child>,
}

impl Recorder {
    fn report(&self, sort: &str, most: usize) -> Result<String, Error> {
        let output = std::process::Command::new("perf")
            .args(["report", "--stdio", "--no-children", "--percent-limit", "0.3", "--sort", sort, "-i"])
            .arg(&self.file)
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        Ok(lines.take(most).collect::<Vec<_>>().join("\n") + "\n")
    }
}

impl Bracket for Recorder {
    async fn begin(&mut self, gateway: &Running) -> Result<(), Error> {
        let processes = gateway.processes().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "-F", "997", "-p", &processes, "-o"]).arg(&self.file);
        self.child = Some(attach(command).await?);
        Ok(())
    }

    async fn end(&mut self, _gateway: &Running) -> Result<Duration, Error> {
        detach(self.child.take()).await?;
        Ok(Duration::ZERO)
    }
}
