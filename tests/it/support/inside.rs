//! The gateway as a library, inside the process of the test.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use sockgate::{Builder, Config};

/// A gateway with one listener and parts of the test's own. It is stopped when it goes out of scope.
pub struct Inside {
    pub address: SocketAddr,
    /// The admin address, where the configuration has one.
    pub admin: Option<SocketAddr>,
    handle: sockgate::Handle,
    running: Option<JoinHandle<()>>,
}

impl Inside {
    pub fn start(yaml: &str, with: impl FnOnce(Builder) -> Builder) -> Self {
        Self::start_with(yaml, |_| {}, with)
    }

    /// With a configuration that is not all in its file.
    pub fn start_with(yaml: &str, say: impl FnOnce(&mut Config), with: impl FnOnce(Builder) -> Builder) -> Self {
        let yaml =
            format!("listeners: [{{ name: web, address: 127.0.0.1:0 }}]\naccess_log: {{ format: \"off\" }}\n{yaml}");
        let mut config = Config::read("test.yaml", &yaml, &|_| None).unwrap().config;
        say(&mut config);
        let gateway = with(sockgate::Gateway::builder(config)).build().unwrap();
        let (address, handle) = (gateway.address("web").unwrap().parse().unwrap(), gateway.handle());
        let admin = gateway.address("admin").map(|address| address.parse().unwrap());
        Self { address, admin, handle, running: Some(std::thread::spawn(move || gateway.run())) }
    }

    pub fn handle(&self) -> &sockgate::Handle {
        &self.handle
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.handle.stop();
        let _ = self.running.take().map(JoinHandle::join);
    }
}
