//! HAProxy and nginx, before and behind the gateway, where `scripts/proxy-deps` could install them.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use socket2::{Domain, Socket, Type};
use tokio::process::Child;

/// A proxy that runs; ended when dropped.
pub struct Proxy {
    _child: Child,
}

impl Proxy {
    /// HAProxy with this configuration, in which `fd@3` is `listening`. `None`, said aloud, where it is not installed.
    pub fn haproxy(folder: &Path, config: &str, listening: Option<TcpListener>) -> Option<Self> {
        let file = folder.join("haproxy.cfg");
        let timeouts = "    timeout connect 20s\n    timeout client 60s\n    timeout server 60s\n";
        std::fs::write(&file, format!("defaults\n{timeouts}{config}")).unwrap();
        let mut command = command("haproxy")?;
        command.arg("-db").arg("-f").arg(&file);
        if let Some(listening) = listening {
            let mapping = FdMapping { parent_fd: listening.into(), child_fd: 3 };
            command.fd_mappings(vec![mapping]).unwrap();
        }
        Some(Self::start(command))
    }

    /// nginx with these servers. `None`, said aloud, where it is not installed.
    pub fn nginx(folder: &Path, servers: &str) -> Option<Self> {
        let file = folder.join("nginx.conf");
        let path = folder.display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = temporary.iter().map(|name| format!("{name}_temp_path {path}/{name};\n")).collect();
        let own = format!("daemon off;\nmaster_process off;\npid {path}/nginx.pid;\nevents {{}}\n");
        std::fs::write(&file, format!("{own}http {{\naccess_log off;\n{temporary}{servers}}}\n")).unwrap();
        let mut command = command("nginx")?;
        command.arg("-p").arg(folder).arg("-c").arg(&file).args(["-e", "stderr"]);
        Some(Self::start(command))
    }

    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
        Self { _child: child.expect("the program starts") }
    }
}

/// A port of loopback that nobody else gets while this is held, for who binds it with `reuseport`.
pub fn reserve() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Debian keeps them where no user's path leads.
fn command(program: &str) -> Option<Command> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: {program} is not installed, see scripts/proxy-deps");
    }
    found.map(Command::new)
}
