//! The gateway as a child process on ports of the kernel's choice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;
use tokio::fs::OpenOptions;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::engine::ENGINE;
use super::{Client, Echo, Puppet, Setup, eventually, within};

/// A running gateway; ended when dropped, and its log printed when the test fails.
pub struct Gateway {
    child: Child,
    /// The processes that have taken over from it, one from the other.
    heirs: Vec<Pid>,
    folder: TempDir,
    addresses: HashMap<String, String>,
    log: Lines,
    access_log: Lines,
}

/// The configuration file in its folder.
const FILE: &str = "sockgate.yaml";

/// Lines that a child has written so far.
#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<String>>>, watch::Receiver<usize>);

impl Gateway {
    /// Starts a gateway and waits until it listens and is ready. Give every listener the port 0 and a name; an admin
    /// address is added where the configuration has none.
    pub async fn start(yaml: &str) -> Self {
        let gateway = Self::start_unready(yaml).await;
        eventually("the gateway is ready", async || gateway.admin("/readyz").await.status == 200).await;
        gateway
    }

    /// The same, with environment variables for the configuration.
    pub async fn start_with(yaml: &str, variables: &HashMap<&str, String>) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_sockgate"));
        program.envs(variables);
        let gateway = Self::launch(yaml, program).await;
        eventually("the gateway is ready", async || gateway.admin("/readyz").await.status == 200).await;
        gateway
    }

    /// A gateway whose one listener, `web`, leads to one upstream, `app`, of these servers, which are not checked.
    /// `upstream` holds more keys of it in flow style, `more` more of the file.
    pub async fn before(servers: &[SocketAddr], upstream: &str, more: &str) -> Self {
        let setup = Setup::before(servers).unchecked().more(more);
        if upstream.is_empty() { setup.start().await } else { setup.upstream(upstream).start().await }
    }

    /// A gateway before one server that the test plays by hand; `more` as in [`Self::before`].
    pub async fn before_puppet(more: &str) -> (Puppet, Self) {
        let server = Puppet::start().await;
        let gateway = Self::before(&[server.address()], "", more).await;
        (server, gateway)
    }

    /// A gateway before one server, `a`, that echoes; `more` as in [`Self::before`].
    pub async fn before_echo(more: &str) -> (Echo, Self) {
        let server = Echo::start("a").await;
        let gateway = Self::before(&[server.address()], "", more).await;
        (server, gateway)
    }

    /// Starts a gateway and waits until it listens; its servers may be down.
    pub async fn start_unready(yaml: &str) -> Self {
        Self::launch(yaml, Command::new(env!("CARGO_BIN_EXE_sockgate"))).await
    }

    /// The same with room for this many open files and no more.
    pub async fn start_with_files(yaml: &str, files: usize) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_sockgate")]);
        Self::launch(yaml, shell).await
    }

    /// Starts a gateway, and sends it signals while it waits for the first byte of its configuration. Where it listens
    /// is not known: it may have ended before.
    pub async fn start_with_signals(yaml: &str, signals: &[Signal]) -> Self {
        Self::spawn(yaml, Command::new(env!("CARGO_BIN_EXE_sockgate")), signals).await
    }

    /// Runs this program with the arguments that make it serve the configuration.
    pub async fn launch(yaml: &str, command: Command) -> Self {
        Self::launch_as(&["run"], yaml, command).await
    }

    /// Starts a controller with these arguments, which need not be ready.
    #[cfg(feature = "kubernetes")]
    pub async fn controller(yaml: &str, arguments: &[&str]) -> Self {
        let arguments: Vec<&str> = ["controller"].into_iter().chain(arguments.iter().copied()).collect();
        Self::launch_as(&arguments, yaml, Command::new(env!("CARGO_BIN_EXE_sockgate"))).await
    }

    async fn launch_as(arguments: &[&str], yaml: &str, command: Command) -> Self {
        let mut gateway = Self::spawn_as(arguments, yaml, command, &[]).await;
        // The admin listener and one for each `- ` entry under `listeners:` tell where they are.
        let expected = 1 + count_listeners(yaml);
        let told = gateway.log.wait_for(|lines| addresses(lines).len() >= expected).await;
        assert!(told, "the gateway ended before it listened:\n{}", gateway.log.all().join("\n"));
        gateway.addresses = addresses(&gateway.log.all());
        gateway
    }

    async fn spawn(yaml: &str, command: Command, early: &[Signal]) -> Self {
        Self::spawn_as(&["run"], yaml, command, early).await
    }

    async fn spawn_as(arguments: &[&str], yaml: &str, mut command: Command, early: &[Signal]) -> Self {
        let yaml = with_admin(yaml);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        if early.is_empty() {
            std::fs::write(&file, &yaml).unwrap();
        } else {
            mkfifo(&file, Mode::S_IRWXU).unwrap();
        }
        if let Ok(engine) = ENGINE.try_get() {
            command.env("SOCKGATE_ENGINE", engine);
        }
        let mut child = command
            .args(arguments)
            .arg("-c")
            .arg(&file)
            .env("RUST_LOG", "info,sockgate=debug,kube_client=off,pingora=warn,pingora_core=off,pingora_proxy=off")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Lines::follow(child.stderr.take().unwrap());
        let access_log = Lines::follow(child.stdout.take().unwrap());
        if !early.is_empty() {
            // It can be opened once there is a reader.
            let mut options = OpenOptions::new();
            let mut pipe = within("the gateway opens its file", options.write(true).open(&file)).await.unwrap();
            for &signal in early {
                kill(Pid::from_raw(child.id().unwrap().cast_signed()), signal).unwrap();
            }
            // From now on there is a file of the usual kind.
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, &yaml).unwrap();
            pipe.write_all(yaml.as_bytes()).await.unwrap();
            pipe.flush().await.unwrap();
        }
        Self { child, heirs: Vec::new(), folder, addresses: HashMap::new(), log, access_log }
    }

    /// Runs a configuration that can't be built; gives the exit code and what was said.
    pub async fn fails(yaml: &str) -> (i32, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sockgate.yaml");
        std::fs::write(&file, yaml).unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_sockgate")).args(["run", "-c"]).arg(&file).output();
        let output = within("the gateway gives up", run).await.unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The file that it was started with.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("sockgate.yaml")
    }

    /// Puts another configuration in the place of its file, as editors do.
    pub fn rewrite(&self, yaml: &str) {
        let new = self.folder.path().join("new.yaml");
        std::fs::write(&new, with_admin(yaml)).unwrap();
        std::fs::rename(&new, self.file()).unwrap();
    }

    /// The same, and asks for it to be loaded; gives what the gateway says to that.
    pub async fn reload(&mut self, yaml: &str) -> super::client::Answer {
        self.rewrite(yaml);
        let mut client = Client::connect(self.address("admin")).await;
        client.send("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
        let answer = client.answer().await;
        if answer.status == 200 {
            // Listeners that came with it tell where they are, and were bound before the answer.
            let expected = 1 + count_listeners(yaml);
            let known = |lines: &[String]| addresses(lines).len() >= expected;
            assert!(within("every listener tells where it is", self.log.wait_for(known)).await);
            self.addresses = addresses(&self.log.all());
        }
        answer
    }

    /// Where a listener is bound.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.addresses[listener].parse().unwrap()
    }

    /// A new connection to the listener `web`.
    pub async fn client(&self) -> Client {
        Client::connect(self.address("web")).await
    }

    /// The process id; after an upgrade that of the new process.
    pub fn pid(&self) -> Pid {
        let first = || Pid::from_raw(i32::try_from(self.child.id().expect("the gateway runs")).unwrap());
        self.heirs.last().copied().unwrap_or_else(first)
    }

    /// Upgrades: gives the process that has taken over, to which signals go from now on.
    pub async fn upgrade(&mut self) -> Pid {
        self.signal(Signal::SIGUSR2);
        self.taken_over().await
    }

    /// Waits for the next process to take over, which has been asked for.
    pub async fn taken_over(&mut self) -> Pid {
        let told = |line: &String| line.split_once("upgrade: process ")?.1.split(' ').next()?.parse().ok();
        let new = self.heirs.len();
        let over = |lines: &[String]| lines.iter().filter_map(told).map(Pid::from_raw).nth(new);
        within("the new process takes over", self.log.wait_for(|lines| over(lines).is_some())).await;
        self.heirs.push(over(&self.log.all()).expect("the new process takes over"));
        self.pid()
    }

    /// Asks the admin address.
    pub async fn admin(&self, path: &str) -> super::client::Answer {
        Client::connect(self.address("admin")).await.get(path).await
    }

    /// The value of a metric, labels and all, as `/metrics` writes it; 0 where it is not there yet.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits for a line of the access log that holds all of these.
    pub async fn access_line(&self, parts: &[&str]) -> String {
        let matching = |line: &String| parts.iter().all(|part| line.contains(part));
        let what = format!("a line with {parts:?}");
        let found = within(&what, self.access_log.wait_for(|all| all.iter().any(matching))).await;
        assert!(found, "no line with {parts:?} in\n{}", self.access_log.all().join("\n"));
        self.access_log.all().into_iter().find(matching).unwrap()
    }

    /// Waits for a line of the operators' log that holds this.
    pub async fn log_line(&self, part: &str) -> String {
        let found = within(part, self.log.wait_for(|lines| lines.iter().any(|line| line.contains(part)))).await;
        assert!(found, "no line with {part:?} in\n{}", self.log.all().join("\n"));
        self.log.all().into_iter().find(|line| line.contains(part)).unwrap()
    }

    /// The lines of the log so far that hold this.
    pub fn log_lines(&self, part: &str) -> Vec<String> {
        self.log.all().into_iter().filter(|line| line.contains(part)).collect()
    }

    /// Every line of the access log so far.
    pub fn access_lines(&self) -> Vec<String> {
        self.access_log.all()
    }

    /// Its memory in KiB.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// How many descriptors it has open.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// How many ends of pipes it has open.
    pub fn pipes(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        let target = |file: std::fs::DirEntry| std::fs::read_link(file.path()).ok();
        files.filter_map(target).filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Kills it, which gives it no time to do anything, and waits until it is gone.
    pub async fn die(&mut self) {
        self.signal(Signal::SIGKILL);
        within("the gateway is gone", self.child.wait()).await.unwrap();
    }

    /// Waits for the end of the first process; gives the exit code.
    pub async fn ended(&mut self) -> i32 {
        within("the gateway ends", self.child.wait()).await.unwrap().code().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for &heir in &self.heirs {
            let _ = kill(heir, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("--- log of the gateway\n{}", self.log.last().join("\n"));
            eprintln!("--- access log\n{}", self.access_log.last().join("\n"));
        }
    }
}

fn with_admin(yaml: &str) -> String {
    let admin = if yaml.contains("\nadmin:") { "" } else { "\nadmin: { address: 127.0.0.1:0 }\n" };
    format!("{yaml}{admin}")
}

fn count_listeners(yaml: &str) -> usize {
    let after = yaml.split("listeners:").nth(1).expect("a configuration has listeners");
    after.lines().skip(1).take_while(|line| line.is_empty() || line.starts_with([' ', '-', '#'])).fold(
        0,
        |count, line| {
            let indent = line.len() - line.trim_start().len();
            count + usize::from(line.trim_start().starts_with("- ") && indent <= 2)
        },
    )
}

/// `listening NAME ADDRESS`, as the gateway logs it.
fn addresses(lines: &[String]) -> HashMap<String, String> {
    let told = |line: &String| {
        let (name, address) = line.split_once("] listening ")?.1.rsplit_once(' ')?;
        Some((name.to_owned(), address.to_owned()))
    };
    lines.iter().filter_map(told).collect()
}

impl Lines {
    fn follow(stream: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (count, counter) = watch::channel(0);
        let written = Arc::clone(&lines);
        tokio::spawn(async move {
            let mut reader = BufReader::new(stream).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                written.lock().unwrap().push(line);
                count.send_modify(|count| *count += 1);
            }
        });
        Self(lines, counter)
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// As many as a person reads.
    fn last(&self) -> Vec<String> {
        let lines = self.all();
        lines[lines.len().saturating_sub(100)..].to_vec()
    }

    /// Waits until the lines so far are as they should be; false when the child has ended before.
    async fn wait_for(&self, mut is_so: impl FnMut(&[String]) -> bool) -> bool {
        self.1.clone().wait_for(|_| is_so(&self.0.lock().unwrap())).await.is_ok() || is_so(&self.0.lock().unwrap())
    }
}
