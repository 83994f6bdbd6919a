//! Where servers are found that the configuration does not list: each source that it can name, as a
//! [`Discovery`](crate::Discovery).

mod dns;
mod file;
#[cfg(feature = "kubernetes")]
mod kubernetes;

use std::net::{IpAddr, SocketAddr};
#[cfg(feature = "kubernetes")]
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "kubernetes")]
use self::kubernetes::Follows;
use crate::upstream::config::Servers;
use crate::upstream::{OpenSource, Source};

/// Opens the sources that configurations name. Those that one of these opens, over all reloads, share what they hear.
#[derive(Clone, Default)]
pub struct Sources {
    #[cfg(feature = "kubernetes")]
    follows: Arc<Follows>,
}

impl Sources {
    /// Where all slices of these namespaces of a cluster may be looked at, or of all that it has.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn of_cluster(kubeconfig: Option<PathBuf>, namespaces: Vec<String>) -> Self {
        Self { follows: Arc::new(Follows::reaching(kubeconfig, namespaces)) }
    }

    /// Opens sources.
    pub fn opener(&self) -> OpenSource {
        let sources = self.clone();
        Arc::new(move |said| sources.open(said))
    }

    /// Opens the source that a configuration names; `None` where it lists its servers.
    ///
    /// # Errors
    /// Why it can't be used, in one plain sentence.
    fn open(&self, said: &Servers) -> Result<Option<Source>, String> {
        match said {
            Servers::List(_) => Ok(None),
            Servers::File(said) => file::open(said).map(Some),
            Servers::Dns(said) => Ok(Some(dns::of_host(said))),
            Servers::Srv(said) => Ok(Some(dns::of_service(said))),
            #[cfg(feature = "kubernetes")]
            Servers::Kubernetes(said) => Ok(Some(kubernetes::of_service(&self.follows, &said.kubernetes))),
            #[cfg(not(feature = "kubernetes"))]
            Servers::Kubernetes(_) => Err("this Sockgate was built without Kubernetes".to_owned()),
        }
    }
}

/// Why no server can be there.
fn unusable(address: SocketAddr) -> Option<&'static str> {
    let link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(six) if six.is_unicast_link_local());
    match address.ip() {
        _ if address.port() == 0 => Some("port 0 is no port"),
        ip if ip.is_unspecified() => Some("it is no address of a host"),
        ip if ip.is_multicast() => Some("it is an address of many"),
        IpAddr::V4(four) if four.is_broadcast() => Some("it is the address of all"),
        ip if link_local(ip) => Some("it is an address of one link, and nobody says of which"),
        _ => None,
    }
}
