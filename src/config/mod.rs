//! The whole configuration as types: what the operator said, and nothing that was built of it.

mod check;
pub(crate) mod document;
mod engine;
mod environment;
mod fault;
pub(crate) mod include;
pub(crate) mod lint;
mod memory;
mod parts;
mod print;
mod reload;
#[cfg(test)]
mod schema;
mod servers;
pub(crate) mod shape;
pub(crate) mod spot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use engine::Engine;
#[cfg(feature = "kubernetes")]
pub(crate) use fault::nearest;
pub use fault::{Fault, Faults, Place};
pub use lint::Lint;
pub use memory::Memory;
pub use parts::{Findings, LeftOut, Parts};
pub use reload::{Orphans, Reload};
pub use servers::load_servers;

use include::Sources;
use spot::Spot;

use crate::address::BindAddress;
use crate::listener::tls::config::{Acme, Tls};
use crate::secrets::{Secrets, is_secret};
use crate::{access, access_log, ending, http, listener, router, trace, upstream};

/// One configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Further files, folders, or names with `*`, whose routes and upstreams belong to this configuration. What they hold
    /// has been read when there is a `Config`, so it is never written out. Default: none.
    #[serde(default, skip_serializing)]
    pub include: http::config::OneOrMany,
    /// Bound addresses and what they accept; at least one.
    pub listeners: Vec<listener::Config>,
    /// The first match wins.
    #[serde(default)]
    pub routes: Vec<router::Config>,
    /// Sets of servers, by name.
    #[serde(default)]
    pub upstreams: BTreeMap<String, upstream::Config>,
    /// Who may ask, and from where, for all routes.
    #[serde(default)]
    pub access: Option<access::Config>,
    /// Pages in place of the gateway's own words, for all routes.
    #[serde(default)]
    pub error_pages: http::config::ErrorPages,
    /// What Flash players are told.
    #[serde(default)]
    pub flash_policy: listener::FlashPolicy,
    /// What servers are told about clients.
    #[serde(default)]
    pub forwarding: http::Forwarding,
    /// Times that rule a client's connection.
    #[serde(default)]
    pub timeouts: http::Timeouts,
    /// What the gateway bears.
    #[serde(default)]
    pub limits: http::Limits,
    /// One line for each request and tunnel.
    #[serde(default)]
    pub access_log: access_log::Config,
    /// Spans of requests, for a collector of OpenTelemetry. Default: none are recorded.
    #[serde(default)]
    pub traces: Option<trace::Config>,
    /// What happens on SIGTERM.
    #[serde(default)]
    pub drain: ending::Config,
    /// When this file is loaded anew, and what becomes of what it has no place for.
    #[serde(default)]
    pub reload: Reload,
    /// Where operators look: `/livez`, `/readyz`, `/metrics`, `/status`. Default: nowhere.
    #[serde(default)]
    pub admin: Option<Admin>,
    /// How gateways that are peers of each other are told from strangers.
    #[serde(default)]
    pub peers: Peers,
    /// Where this gateway stands: servers of the same zone come first. Default: nowhere in particular.
    #[serde(default)]
    pub zone: Option<String>,
    /// What carries HTTP. Default `relay`.
    #[serde(default)]
    pub engine: Engine,
    /// Worker threads. Default 0: one for each core.
    #[serde(default)]
    pub threads: usize,
    /// What is not warned of.
    #[serde(default)]
    pub lint: lint::Config,
    /// Files that it names and that are in no file system; `None` where nothing is said beside the file.
    #[serde(skip)]
    pub(crate) secrets: Option<Secrets>,
}

/// `peers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Peers {
    /// A file of secrets that all gateways know, one a line: the first seals what they tell each other, each of them opens it.
    /// Default: whoever has the address of a peer is one.
    pub secret_file: Option<PathBuf>,
}

/// `admin`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where to bind: the loopback or a Unix socket, or with `token_file` or client certificates wherever operators are.
    pub address: BindAddress,
    /// Names by which it may be asked, besides addresses and `localhost`. Default: none.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The upstreams that have to have a server for `/readyz` to say yes. Default: any one of those that routes and
    /// listeners need and that are not `optional`.
    #[serde(default)]
    pub ready: Vec<String>,
    /// A file of tokens, one a line, of which requests have to show one. Default: none is asked for.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Certificates; without them it is plain. Whoever shows a client certificate that holds needs no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Admin {
    /// Whether nobody comes there who is not on this host.
    pub(crate) fn is_local(&self) -> bool {
        match &self.address {
            BindAddress::Inet(address) => address.ip().to_canonical().is_loopback(),
            BindAddress::Unix(_) => true,
        }
    }

    /// Whether those who come there are asked who they are.
    pub(crate) fn asks_who(&self) -> bool {
        let certificates = self.tls.as_ref().and_then(|tls| tls.client_certificates.as_ref());
        self.token_file.is_some() || certificates.is_some()
    }
}

/// A configuration that can be built, and what its operator should look at all the same.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the operator said.
    pub config: Config,
    /// What is allowed but hardly meant, in the order of the file.
    pub warnings: Vec<Fault>,
    /// The files that were included, in their order.
    pub included: Vec<PathBuf>,
    /// Where each value stands.
    written: Arc<Written>,
}

impl Loaded {
    /// Where each value stands.
    pub(crate) fn written(&self) -> &Written {
        &self.written
    }
}

/// A configuration as it is written: what is found out about it later, outside of its files, is told with a place all the
/// same.
#[derive(Debug)]
pub(crate) struct Written {
    root: document::Node,
    sources: Sources,
}

impl Written {
    /// The whole of it.
    pub(crate) fn spot(&self) -> Spot<'_> {
        Spot::root(&self.root)
    }

    /// What is wrong there.
    pub(crate) fn fault(&self, spot: &Spot<'_>, what: String) -> Fault {
        self.sources.fault(spot.misfit(what), None)
    }

    /// What is hardly meant there.
    pub(crate) fn warning(&self, lint: Lint, spot: &Spot<'_>, what: String) -> Fault {
        self.sources.fault(spot.misfit(what), Some(lint))
    }

    /// The file that it stands in, if that has this text in it as it is: then no variable of the environment brought it.
    pub(crate) fn holds(&self, spot: &Spot<'_>, text: &str) -> Option<&Path> {
        self.sources.holds(spot.at().file, text)
    }
}

impl Config {
    /// Every file that this configuration names and that is read when it is loaded.
    pub fn files(&self) -> Vec<PathBuf> {
        let of_admin = self.admin.iter().filter_map(|admin| admin.tls.as_ref());
        let tls = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).chain(of_admin);
        let certificates = tls.flat_map(|tls| tls.files());
        let tokens = self.admin.iter().filter_map(|admin| admin.token_file.as_ref());
        let upstreams = self.upstreams.values().filter_map(|upstream| upstream.tls.as_ref());
        let upstreams = upstreams.flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]).flatten();
        let access = self.access.iter().chain(self.routes.iter().filter_map(|route| route.access.as_ref()));
        let access = access.flat_map(access::Config::files);
        let of_listeners = self.listeners.iter().filter_map(|listener| listener.access.as_ref());
        let of_listeners = of_listeners.flat_map(access::config::OfListener::files);
        let pages = self.routes.iter().map(|route| &route.error_pages).chain([&self.error_pages]);
        let pages = pages.flat_map(|pages| pages.0.values()).filter_map(|page| page.file.as_ref());
        let all = upstreams
            .chain(&self.flash_policy.file)
            .chain(&self.peers.secret_file)
            .chain(pages)
            .chain(access)
            .chain(of_listeners)
            .chain(tokens);
        certificates.chain(all.cloned()).filter(|file| !is_secret(file)).collect()
    }

    /// The certificates that are ordered from authorities, each once.
    pub(crate) fn acme(&self) -> Vec<Acme> {
        let mut all: Vec<Acme> = Vec::new();
        let tls = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        for one in tls.flat_map(|tls| tls.acme()) {
            if !all.contains(one) {
                all.push(one.clone());
            }
        }
        all
    }

    /// Reads a file, and those that it includes, with the variables of the process's environment.
    ///
    /// # Errors
    /// Everything that is wrong with them, or why one cannot be read.
    pub fn load(path: &Path) -> Result<Loaded, Faults> {
        let sources = Sources::new(&path.display().to_string(), read_text(path)?);
        Self::read_sources(sources, Some(path), &|variable| std::env::var(variable).ok(), None)
    }

    /// Reads the text of a file called `file_name`, with the variables that `env` knows. Nothing is looked up outside:
    /// certificates, host names and ports are tried when the gateway is built, and other files can't be included.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(file_name: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Faults> {
        Self::read_sources(Sources::new(file_name, text.to_owned()), None, env, None)
    }

    fn read_sources(
        mut sources: Sources,
        main: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
        parts: Option<(&Parts, &LeftOut)>,
    ) -> Result<Loaded, Faults> {
        let alone = |unreadable: document::Unreadable| {
            let misfit = shape::Misfit { at: unreadable.at, path: String::new(), what: unreadable.what };
            Faults(sources.tell(vec![misfit]))
        };
        let mut root = document::read(sources.main(), env).map_err(alone)?;
        let mut misfits = sources.include(&mut root, main, env)?;
        if let Some((parts, out)) = parts {
            parts.lay(&mut root, sources.add_origins(&parts.origins), out);
        }
        let (mut config, of_shape) = shape::fit::<Self>(&mut root);
        misfits.extend(of_shape);
        if let Some(config) = &mut config {
            config.secrets = parts.map(|(parts, _)| parts.secrets.clone());
        }
        let first = sources.first_origin();
        let check = |config| check::check(config, &root, sources.names(), first);
        let mut report = config.as_ref().map(check).unwrap_or_default();
        misfits.extend(report.faults);
        match config {
            Some(config) if misfits.is_empty() => {
                report.warnings.retain(|(lint, _)| !config.lint.allow.contains(lint));
                let (warnings, included) = (sources.warn(report.warnings), sources.included());
                Ok(Loaded { config, warnings, included, written: Arc::new(Written { root, sources }) })
            }
            _ => Err(Faults(sources.tell(misfits))),
        }
    }
}

/// What a file holds, which has to be text.
fn read_text(path: &Path) -> Result<String, Faults> {
    let name = path.display().to_string();
    let alone = |place, what| {
        let (path, source, lint) = (String::new(), None, None);
        Faults(vec![Fault { place, path, what, source, lint }])
    };
    let bytes = std::fs::read(path).map_err(|error| alone(Place::whole(&name), format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let place = Place {
            line: 1 + good.matches('\n').count(),
            column: 1 + good.chars().rev().take_while(|&c| c != '\n').count(),
            ..Place::whole(&name)
        };
        alone(place, "found bytes that are not UTF-8, expected text".to_owned())
    })
}
