//! One EndpointSlice: who is in it, and in which state. Everything that a slice may leave out has its meaning here.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::super::unusable;
use crate::upstream::config::PodPort;

/// What a slice says, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) endpoints: Vec<Listed>,
    /// Ports of TCP: the name, empty where there is none, and the number on the pods, `None` for every one.
    ports: Vec<(String, Option<u16>)>,
    /// The kind of addresses, where it is none of IP.
    foreign: Option<String>,
}

/// One endpoint of a slice, with or without an address that is of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) who: Who,
    pub(super) ip: Option<IpAddr>,
    pub(super) state: Standing,
    pub(super) zone: Option<String>,
    /// The zones that are to ask it first.
    pub(super) for_zones: Option<Vec<String>>,
}

/// Who an endpoint is: a pod for as long as it lives, or else whoever has the address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Who {
    /// The name and the UID: a pod that has the name, or the address, of one before is another one.
    Pod {
        name: String,
        uid: String,
    },
    Address(String),
}

/// How an endpoint stands, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It takes new work.
    Ready,
    /// It is about to end, and serves those that it has.
    Draining,
    /// It does not serve.
    Down,
}

impl Who {
    /// What the server is called. Part of the UID is in it, so that the next pod of a StatefulSet is another server, by the
    /// same name in every gateway.
    pub(super) fn name(&self, address: SocketAddr) -> String {
        match self {
            Self::Pod { name, uid } => {
                let uid: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
                format!("{name}.{uid}")
            }
            Self::Address(_) => address.to_string(),
        }
    }
}

impl Slice {
    /// Reads a slice; `None` for one without a name, which can't be.
    pub(super) fn of(slice: EndpointSlice) -> Option<(String, Self)> {
        let name = slice.metadata.name?;
        let foreign = (!["IPv4", "IPv6"].contains(&slice.address_type.as_str())).then_some(slice.address_type);
        let ports = slice.ports.unwrap_or_default().into_iter().filter(is_tcp);
        let ports =
            ports.map(|port| (port.name.unwrap_or_default(), port.port.and_then(|port| u16::try_from(port).ok())));
        let mut endpoints: Vec<Listed> = slice.endpoints.into_iter().filter_map(Listed::of).collect();
        // They are kept for long, and lie where the larger ones of the API lay.
        endpoints.shrink_to_fit();
        Some((name, Self { endpoints, ports: ports.collect(), foreign }))
    }

    /// The number of the port that is wanted.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn port(&self, wanted: Option<&PodPort>) -> Result<u16, String> {
        if let Some(kind) = &self.foreign {
            return Err(format!("its addresses are of the kind `{kind}`, expected IPv4 or IPv6"));
        }
        let found = match wanted {
            Some(PodPort::Number(number)) => {
                let has = |&&(_, port): &&(String, Option<u16>)| port.is_none_or(|port| port == *number);
                self.ports.iter().find(has).map(|_| *number)
            }
            Some(PodPort::Name(name)) => self.ports.iter().find(|(known, _)| known == name).and_then(|&(_, port)| port),
            None => match self.ports.as_slice() {
                [(_, Some(port))] => Some(*port),
                _ => None,
            },
        };
        found.ok_or_else(|| {
            let wanted = match wanted {
                Some(port) => format!("no port `{port}`"),
                None => "not one port, so that `port` has to say which".to_owned(),
            };
            format!("it has {wanted}: it has {}", self.ports_told())
        })
    }

    fn ports_told(&self) -> String {
        let number = |port: Option<u16>| port.map_or_else(|| "any".to_owned(), |port| port.to_string());
        let told = self.ports.iter().map(|(name, port)| match name.as_str() {
            "" => number(*port),
            name => format!("`{name}` ({})", number(*port)),
        });
        let told: Vec<String> = told.take(10).collect();
        if told.is_empty() { "none of TCP".to_owned() } else { told.join(", ") }
    }
}

/// What is not said is TCP.
fn is_tcp(port: &EndpointPort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}

impl Listed {
    /// An endpoint has one address: no more than the first means anything.
    fn of(endpoint: Endpoint) -> Option<Self> {
        let address = endpoint.addresses.into_iter().next()?;
        let pod = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
        let who = match pod.map(|pod| (pod.name, pod.uid)) {
            Some((Some(name), Some(uid))) if !name.is_empty() && !uid.is_empty() => Who::Pod { name, uid },
            _ => Who::Address(address.clone()),
        };
        // As the API has it: who says nothing of being ready is ready, who says nothing of serving serves if it is ready.
        let conditions = endpoint.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        let state = match conditions.terminating.unwrap_or(false) {
            true if serving => Standing::Draining,
            false if ready => Standing::Ready,
            true | false => Standing::Down,
        };
        let hints = endpoint.hints.and_then(|hints| hints.for_zones).filter(|zones| !zones.is_empty());
        let for_zones = hints.map(|zones| zones.into_iter().map(|zone| zone.name).collect());
        Some(Self { who, ip: address.parse().ok(), state, zone: endpoint.zone.filter(|zone| is_word(zone)), for_zones })
    }

    /// Where it is asked at this port.
    ///
    /// # Errors
    /// Why it can't be.
    pub(super) fn at(&self, port: u16) -> Result<SocketAddr, String> {
        let address = SocketAddr::new(self.ip.ok_or("it has no IP address")?.to_canonical(), port);
        unusable(address).map_or(Ok(address), |why| Err(why.to_owned()))
    }
}

/// Whether it can be the zone of a server.
fn is_word(zone: &str) -> bool {
    !zone.is_empty() && !zone.contains(|c: char| c.is_whitespace() || c.is_control())
}
