//! What the operator says about servers: the list of them, or where it is found.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{
    self, MapAccess, SeqAccess, Unexpected, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::ServerAddress;

/// `servers`: a list, or where the list is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Servers {
    /// These; at least one.
    List(Vec<ServerConfig>),
    /// Those that a file lists.
    File(FileSource),
    /// The addresses of a host name.
    Dns(DnsSource),
    /// The targets of a service in DNS.
    Srv(SrvSource),
    /// The pods behind a Service of Kubernetes.
    Kubernetes(KubernetesSource),
}

/// `servers: { file: … }`: a file that holds the list, and is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileSource {
    /// The file: YAML or JSON, a list as `servers` has it.
    pub file: PathBuf,
}

/// `servers: { dns: …, port: … }`: each address of a host name is a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsSource {
    /// The host name, in full: no search list is used.
    pub dns: String,
    /// The port of all of them.
    pub port: u16,
    /// How the name is looked up.
    #[serde(flatten)]
    pub lookups: Lookups,
}

/// `servers: { srv: … }`: each target of a service is a server, with its port, priority and weight (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SrvSource {
    /// The name of the service, such as `_ws._tcp.example.com`.
    pub srv: String,
    /// How it is looked up.
    #[serde(flatten)]
    pub lookups: Lookups,
}

/// `servers: { kubernetes: { … } }`: each pod behind a Service is a server, as its EndpointSlices tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KubernetesSource {
    /// Which pods.
    pub kubernetes: KubernetesService,
}

/// The pods behind a Service, and who tells of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesService {
    /// The namespace of the Service. Default: that of the gateway's own pod, or of the kubeconfig's context.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The name of the Service.
    pub service: String,
    /// The port of the pods, by its name in the Service or by its number on the pods. Default: the only one that they have.
    #[serde(default)]
    pub port: Option<PodPort>,
    /// The file that says where the API server is, and how to prove to it who asks. Default: what every pod has for that.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
}

impl fmt::Display for KubernetesService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kubernetes ")?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.service)?;
        match &self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// A port of pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PodPort {
    /// By the number that the pods listen on.
    Number(u16),
    /// By the name that the Service has for it.
    Name(String),
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for PodPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = PodPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port: its name, or a number from 1 to 65535")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PodPort, E> {
                let port = u16::try_from(number).ok().filter(|&port| port != 0);
                port.map(PodPort::Number).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            /// Numbers in quotes are numbers: no port is called by digits alone.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PodPort, E> {
                match text.parse() {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Ok(PodPort::Name(text.to_owned())),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lookups {
    /// Which addresses count. Default: those of IPv4 where there are any, else those of IPv6.
    pub family: Family,
    /// Longest time from one look-up to the next, whatever the TTL says. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
    /// Shortest time, whatever the TTL says. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub min_refresh: Duration,
    /// The name servers that are asked. Default: those of the system (`/etc/resolv.conf`).
    pub resolver: Vec<NameServer>,
}

impl Default for Lookups {
    fn default() -> Self {
        let (refresh, min_refresh) = (Duration::from_secs(10), Duration::from_secs(1));
        Self { family: Family::default(), refresh, min_refresh, resolver: Vec::new() }
    }
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Those of IPv4 where there are any, else those of IPv6: a host that has both would count twice.
    #[default]
    PreferIpv4,
    /// Those of IPv4.
    Ipv4,
    /// Those of IPv6.
    Ipv6,
    /// All of them.
    Both,
}

/// Where a name server is asked: an IP address, and a port if it isn't 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

impl Serialize for NameServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NameServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
        match address {
            Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => Ok(Self(address)),
            _ => Err(de::Error::custom(format!(
                "`{text}` is not the address of a name server: expected IP, IP:PORT or [IPV6]:PORT"
            ))),
        }
    }
}

impl Servers {
    /// The list of the configuration; empty where the servers are found elsewhere.
    pub fn list(&self) -> &[ServerConfig] {
        match self {
            Self::List(list) => list,
            Self::File(_) | Self::Dns(_) | Self::Srv(_) | Self::Kubernetes(_) => &[],
        }
    }

    /// The host and port that all of them have in common, where they are found by one name: whom TLS asks for, and what the
    /// gateway's own requests say.
    pub fn host(&self) -> Option<(&str, u16)> {
        match self {
            Self::Dns(said) => Some((&said.dns, said.port)),
            Self::List(_) | Self::File(_) | Self::Srv(_) | Self::Kubernetes(_) => None,
        }
    }

    /// Whether they are found elsewhere, and come and go while the configuration stays.
    pub fn are_found(&self) -> bool {
        !matches!(self, Self::List(_))
    }
}

impl From<Vec<ServerConfig>> for Servers {
    fn from(list: Vec<ServerConfig>) -> Self {
        Self::List(list)
    }
}

/// For people: what a status page and a plan call it.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(list) => write!(f, "a list of {}", list.len()),
            Self::File(said) => write!(f, "file {}", said.file.display()),
            Self::Dns(said) => write!(f, "dns {}:{}", said.dns, said.port),
            Self::Srv(said) => write!(f, "srv {}", said.srv),
            Self::Kubernetes(said) => said.kubernetes.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Servers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of servers, or a map with `file`, `dns`, `srv` or `kubernetes`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Servers, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Servers::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Servers, A::Error> {
                Keys::deserialize(MapAccessDeserializer::new(map))?.source().map_err(de::Error::custom)
            }

            /// A key with nothing behind it holds an empty list.
            fn visit_unit<E: de::Error>(self) -> Result<Servers, E> {
                Ok(Servers::List(Vec::new()))
            }

            /// As does what stands in for a missing key.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Servers, E> {
                if text.is_empty() { self.visit_unit() } else { Err(E::invalid_type(Unexpected::Str(text), &self)) }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The keys of every source: which of them belong together is known when all have been read.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    file: Option<PathBuf>,
    dns: Option<String>,
    srv: Option<String>,
    kubernetes: Option<KubernetesService>,
    port: Option<u16>,
    family: Option<Family>,
    #[serde(with = "humantime_serde")]
    refresh: Option<Duration>,
    #[serde(with = "humantime_serde")]
    min_refresh: Option<Duration>,
    resolver: Option<Vec<NameServer>>,
}

impl Keys {
    fn source(self) -> Result<Servers, String> {
        let Self { file, dns, srv, kubernetes, port, family, refresh, min_refresh, resolver } = self;
        let asks = family.is_some() || refresh.is_some() || min_refresh.is_some() || resolver.is_some();
        let usual = Lookups::default();
        let lookups = Lookups {
            family: family.unwrap_or_default(),
            refresh: refresh.unwrap_or(usual.refresh),
            min_refresh: min_refresh.unwrap_or(usual.min_refresh),
            resolver: resolver.unwrap_or_default(),
        };
        // As DNS has it: a dot at the end says that the name is whole, which it is in any case.
        let name = |text: String| text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase();
        if let Some(kubernetes) = kubernetes {
            return match (file, dns, srv) {
                (None, None, None) if asks || port.is_some() => {
                    let what =
                        "found `kubernetes` with keys of `dns`, expected it alone: `port` is one of its own keys";
                    Err(what.to_owned())
                }
                (None, None, None) => Ok(Servers::Kubernetes(KubernetesSource { kubernetes })),
                _ => Err(SEVERAL.to_owned()),
            };
        }
        match (file, dns, srv) {
            (Some(_), None, None) if asks || port.is_some() => {
                Err("found `file` with keys of `dns`, expected `file` alone".to_owned())
            }
            (Some(file), None, None) => Ok(Servers::File(FileSource { file })),
            (None, Some(dns), None) => {
                let port = port.ok_or("expected the key `port` beside `dns`: addresses in DNS have none")?;
                Ok(Servers::Dns(DnsSource { dns: name(dns), port, lookups }))
            }
            (None, None, Some(_)) if port.is_some() => {
                Err("found `port` beside `srv`, expected `srv` alone: its records tell the ports".to_owned())
            }
            (None, None, Some(srv)) => Ok(Servers::Srv(SrvSource { srv: name(srv), lookups })),
            (None, None, None) => {
                Err("expected a list of servers, or one of the keys `file`, `dns`, `srv` and `kubernetes`".to_owned())
            }
            _ => Err(SEVERAL.to_owned()),
        }
    }
}

const SEVERAL: &str = "found several of `file`, `dns`, `srv` and `kubernetes`, expected one of them";

/// One entry of `servers`: an address, or a map with more to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerConfig {
    /// Where the server lives.
    pub address: ServerAddress,
    /// The name in logs and metrics. Default: the address.
    pub name: Option<String>,
    /// Its share of new work beside its peers, 1 to 256. Default 1.
    pub weight: u16,
    /// Which it is beside its peers: new work goes to those of the lowest number of whom one is up and has room. Default 0.
    pub priority: u16,
    /// Where it stands: of those of a priority, the ones in the gateway's own `zone` come first, and those without a zone
    /// with them. Default: nowhere in particular.
    pub zone: Option<String>,
    /// The zones that are to ask it first, where whoever tells of it says so instead of where it stands. No key of the
    /// configuration.
    #[serde(skip)]
    pub for_zones: Option<Vec<String>>,
    /// Most requests and tunnels in flight at once. Default 0, no limit.
    pub max_connections: usize,
    /// Whether it is to be left: it gets no new work while others can take it, and its sessions are let go as the
    /// `drain` of the upstream says. Default false.
    pub drain: bool,
}

impl ServerConfig {
    /// A server at an address, as it is written in the configuration: `10.0.0.1:8000`, `app.internal:8000`, `unix:/run/app`.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn at(address: &str) -> Result<Self, String> {
        let address = address.parse::<ServerAddress>().map_err(|fault| format!("`{address}`: {fault}"))?;
        Ok(Self::of(address))
    }

    pub(crate) fn of(address: ServerAddress) -> Self {
        Self {
            address,
            name: None,
            weight: 1,
            priority: 0,
            zone: None,
            for_zones: None,
            max_connections: 0,
            drain: false,
        }
    }

    /// Calls it so in logs and metrics, instead of by its address; cookies and sessions go by the name, too.
    #[must_use]
    pub fn with_name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Gives it this share of new work beside its peers, 1 to 256.
    #[must_use]
    pub fn with_weight(self, weight: u16) -> Self {
        Self { weight, ..self }
    }

    /// Has it stand by for those of a lower number: it gets new work where none of them is up and has room.
    #[must_use]
    pub fn with_priority(self, priority: u16) -> Self {
        Self { priority, ..self }
    }

    /// Says where it stands: it stands by for those of the gateway's own zone, if that is another one.
    #[must_use]
    pub fn with_zone(self, zone: impl Into<String>) -> Self {
        Self { zone: Some(zone.into()), ..self }
    }

    /// Has it asked first by gateways of these zones, wherever it stands.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn with_for_zones(self, zones: Option<Vec<String>>) -> Self {
        Self { for_zones: zones, ..self }
    }

    /// Whether gateways of this zone leave it to others, as long as those of their own have room.
    pub(crate) fn is_away_from(&self, own: &str) -> bool {
        match (&self.for_zones, &self.zone) {
            (Some(zones), _) => !zones.iter().any(|zone| zone == own),
            (None, Some(zone)) => zone != own,
            (None, None) => false,
        }
    }

    /// Gives it at most so many requests and tunnels at once; 0 for no limit.
    #[must_use]
    pub fn with_max_connections(self, max_connections: usize) -> Self {
        Self { max_connections, ..self }
    }

    /// Says whether it is to be left: it gets no new work while others can take it.
    #[must_use]
    pub fn with_drain(self, drain: bool) -> Self {
        Self { drain, ..self }
    }

    /// Whether it can be a server at all.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_no_name =
            |name: &&String| name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control());
        match self.name.as_ref().filter(is_no_name).or(self.zone.as_ref().filter(is_no_name)) {
            Some(name) => Err(format!("found the name {name:?}, expected one without spaces")),
            _ if !(1..=256).contains(&self.weight) => {
                Err(format!("server `{}` has weight {}: expected 1 to 256", self.name(), self.weight))
            }
            _ => Ok(()),
        }
    }

    /// The name, or the address where no name was given.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }
}

impl<'de> Deserialize<'de> for ServerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            address: ServerAddress,
            #[serde(default)]
            name: Option<String>,
            #[serde(default = "one", deserialize_with = "weight")]
            weight: u16,
            #[serde(default)]
            priority: u16,
            #[serde(default)]
            zone: Option<String>,
            #[serde(default)]
            max_connections: usize,
            #[serde(default)]
            drain: bool,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ServerConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a server: an address, or a map with `address`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ServerConfig, E> {
                let address = text.parse().map_err(E::custom)?;
                Ok(ServerConfig::of(address))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ServerConfig, A::Error> {
                let Long { address, name, weight, priority, zone, max_connections, drain } =
                    Long::deserialize(MapAccessDeserializer::new(map))?;
                let for_zones = None;
                Ok(ServerConfig { address, name, weight, priority, zone, for_zones, max_connections, drain })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

fn one() -> u16 {
    1
}

fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let weight = u16::deserialize(deserializer)?;
    if (1..=256).contains(&weight) {
        Ok(weight)
    } else {
        Err(de::Error::invalid_value(Unexpected::Unsigned(weight.into()), &"a whole number from 1 to 256"))
    }
}
