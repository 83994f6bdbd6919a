//! The comparison: every scenario, every gateway, in turns, so that what disturbs the machine disturbs all alike.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::backend::Addresses;
use crate::peers::{Kind, Peer, World};
use crate::report::{self, Report, Row};
use crate::scenarios::{ALL, Amount, ProcessorTime, Sample, Scenario};
use crate::{Compare, Error, count, hop, measure, profile, rules};

/// Rounds that memory needs at most: it hardly varies.
const MEMORY_ROUNDS: u32 = 3;

/// Runs what the arguments ask for.
pub(crate) async fn run(asked: &Compare) -> Result<(), Error> {
    if asked.list {
        for scenario in &ALL {
            println!("{:14} {} ({})", scenario.name, scenario.title, scenario.unit.label());
        }
        return Ok(());
    }
    let peers = peers(asked)?;
    let folder = Scratch::new()?;
    let backend = Backend::start()?;
    let files = crate::raise_file_limit();
    let world = World::new(folder.0.clone(), backend.addresses.clone(), asked.threads, files)?;
    if let Some(name) = &asked.profile {
        let scenario = find(name)?;
        return profile::run(scenario, &peers, &world, asked.seconds).await;
    }
    if asked.rules {
        let peer = peers
            .iter()
            .find(|peer| peer.kind == Kind::Sockgate)
            .ok_or("rules are Sockgate's: it has to be among the peers")?;
        println!("{}", rules::run(peer, &world, &asked.only).await?);
        return Ok(());
    }
    if asked.hop {
        println!("{}", hop::run(&peers, &world, asked).await?);
        return Ok(());
    }
    let scenarios = chosen(&asked.only)?;
    let began = Instant::now();
    let build = peers.iter().find(|peer| peer.kind == Kind::Sockgate).map(|peer| build(&peer.program));
    let mut report = Report::new(&peers, asked, build.as_deref().unwrap_or("none"), measure::machine());
    if asked.count {
        report.counts = count::run(&scenarios, &peers, &world).await?;
    } else {
        for (index, scenario) in scenarios.iter().enumerate() {
            eprintln!("[{}/{}] {} ({})", index + 1, scenarios.len(), scenario.title, scenario.unit.label());
            report.rows.push(row(scenario, &peers, &world, asked).await?);
        }
    }
    report.took = began.elapsed();
    let out = match &asked.out {
        Some(out) => out.clone(),
        None => target_folder()?.join("bench"),
    };
    fs::create_dir_all(&out)?;
    println!("{}", report::markdown(&report));
    for file in report::write(&report, &out)? {
        eprintln!("wrote {}", file.display());
    }
    match report.nothing_done().as_slice() {
        [] => Ok(()),
        rows => Err(format!("nothing was done in: {}", rows.join(", ")).into()),
    }
}

async fn row(scenario: &'static Scenario, peers: &[Peer], world: &World, asked: &Compare) -> Result<Row, Error> {
    let amount =
        Amount { time: Duration::from_secs_f64(asked.seconds), sockets: held(asked.sockets, world), count: None };
    let rounds = if scenario.is_of_memory() { asked.rounds.min(MEMORY_ROUNDS) } else { asked.rounds };
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); peers.len()];
    for round in 0..rounds as usize {
        let mut line = format!("  round {}:", round + 1);
        // A B C, B C A, C A B.
        for turn in 0..peers.len() {
            let place = (round + turn) % peers.len();
            let peer = &peers[place];
            let running = peer.start(world, scenario.extras(), &[]).await?;
            let sample = scenario.run(&running, world, amount, &mut ProcessorTime::default()).await?;
            drop(running);
            let figure = sample.figure.map_or("nothing done".to_owned(), report::short);
            line += &format!("  {} {figure}", peer.name);
            if sample.failed() > 0 {
                line += &format!(" ({} errors: {})", sample.failed(), report::failures(&sample.failures));
            }
            samples[place].push(sample);
        }
        eprintln!("{line}");
    }
    let row = Row { scenario, samples };
    eprintln!("  {}", report::verdict(&row, peers));
    Ok(row)
}

/// Each held socket takes two descriptors of a gateway.
fn held(asked: usize, world: &World) -> usize {
    let most = usize::try_from(world.files.saturating_sub(500) / 2).unwrap_or(usize::MAX);
    if asked > most {
        eprintln!("holding {most} sockets instead of {asked}: {} open files are allowed", world.files);
    }
    asked.min(most)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>, Error> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    names.iter().map(|name| find(name)).collect()
}

fn find(name: &str) -> Result<&'static Scenario, Error> {
    let names = || ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    ALL.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
        let known = names();
        format!("no scenario is called {name}; there are {known}").into()
    })
}

fn peers(asked: &Compare) -> Result<Vec<Peer>, Error> {
    let ours = match &asked.sockgate {
        Some(program) => program.clone(),
        None => build_folder()?.join("sockgate"),
    };
    let mut peers = Vec::new();
    for name in &asked.peers {
        let (kind, program) = match name.as_str() {
            "sockgate" => (Kind::Sockgate, ours.clone()),
            "haproxy" => (Kind::HaProxy, found(&["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"], "haproxy")),
            "nginx" => (Kind::Nginx, found(&["/usr/sbin/nginx", "/usr/local/sbin/nginx"], "nginx")),
            _ => return Err(format!("no gateway is called {name}; there are sockgate, haproxy, nginx").into()),
        };
        peers.push(Peer { name: name.clone(), kind, program });
    }
    for also in &asked.also {
        let (name, program) = also.split_once('=').ok_or("--also takes NAME=PROGRAM")?;
        peers.push(Peer::of_any_kind(name, program.into())?);
    }
    for peer in &mut peers {
        if peer.program.components().count() > 1 {
            let fault = |error| format!("{}: {} ({error})", peer.name, peer.program.display());
            peer.program = fs::canonicalize(&peer.program).map_err(fault)?;
        }
    }
    Ok(peers)
}

/// System programs of Debian are not on everybody's path.
fn found(places: &[&str], name: &str) -> PathBuf {
    places.iter().map(PathBuf::from).find(|place| place.is_file()).unwrap_or_else(|| name.into())
}

/// Where this program was built: `target/PROFILE`.
fn build_folder() -> Result<PathBuf, Error> {
    let program = std::env::current_exe()?;
    Ok(program.ancestors().nth(2).ok_or("this program is in no build folder")?.to_owned())
}

fn target_folder() -> Result<PathBuf, Error> {
    Ok(build_folder()?.parent().ok_or("no target folder")?.to_owned())
}

/// Which build a program is, by the folder that cargo put it into.
fn build(program: &Path) -> String {
    match program.parent().and_then(Path::file_name).and_then(|name| name.to_str()) {
        Some("release") => "release (LTO)".to_owned(),
        Some("quick") => "quick (optimised, no LTO)".to_owned(),
        Some("debug") => "debug: its figures mean nothing".to_owned(),
        _ => program.display().to_string(),
    }
}

/// The backend in a process of its own, which ends with this one.
struct Backend {
    child: Child,
    addresses: Addresses,
}

impl Backend {
    fn start() -> Result<Self, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["backend", "--http", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("the backend says nothing")?;
        let (mut http, mut tcp) = (Vec::new(), None);
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Some(address) = line.strip_prefix("listening http ") {
                http.push(address.parse()?);
            } else if let Some(address) = line.strip_prefix("listening tcp ") {
                tcp = Some(address.parse()?);
                break;
            }
        }
        let tcp = tcp.ok_or("the backend did not start")?;
        Ok(Self { child, addresses: Addresses { http, tcp } })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.child.kill().unwrap_or(());
        self.child.wait().map(drop).unwrap_or(());
    }
}

/// A folder that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let folder = std::env::temp_dir().join(format!("sockgate-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}
