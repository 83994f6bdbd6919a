//! Where servers are found that the configuration does not list: each source that it can name, as a
//! [`Discovery`](crate::Discovery).

mod dns;
mod file;
#[cfg(feature = "kubernetes")]
mod kubernetes;

use std::net::{IpAddr, SocketAddr};

use crate::upstream::Source;
use crate::upstream::config::Servers;

/// Opens the source that a configuration names; `None` where it lists its servers.
///
/// # Errors
/// Why it can't be used, in one plain sentence.
pub fn open(said: &Servers) -> Result<Option<Source>, String> {
    match said {
        Servers::List(_) => Ok(None),
        Servers::File(said) => file::open(said).map(Some),
        Servers::Dns(said) => Ok(Some(dns::of_host(said))),
        Servers::Srv(said) => Ok(Some(dns::of_service(said))),
        #[cfg(feature = "kubernetes")]
        Servers::Kubernetes(said) => Ok(Some(kubernetes::of_service(&said.kubernetes))),
        #[cfg(not(feature = "kubernetes"))]
        Servers::Kubernetes(_) => Err("this Sockgate was built without Kubernetes".to_owned()),
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
