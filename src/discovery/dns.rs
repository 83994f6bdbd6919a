//! Servers that are found in DNS: the addresses of a name (A, AAAA), or the targets of a service (SRV, RFC 2782).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until, timeout};

use super::unusable;
use crate::address::ServerAddress;
use crate::upstream::config::{DnsSource, Family, Lookups, NameServer, ServerConfig, SrvSource};
use crate::upstream::{Discovery, ServerList, Source};

/// Longest time for all the questions of one look-up.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time that a name server has for an answer before it is asked again, or another one is.
const ANSWER: Duration = Duration::from_secs(2);
/// Names that are asked for at once.
const AT_ONCE: usize = 16;
/// Most targets of a service whose addresses are asked for.
const MOST_TARGETS: usize = 1024;

struct Dns {
    asked: Asked,
    said: Lookups,
    memory: Mutex<Memory>,
    /// Somebody could not be connected to.
    doubts: Notify,
}

/// What is asked for.
enum Asked {
    /// The addresses of a host, at this port.
    Host(String, u16),
    /// The targets of a service.
    Service(String),
}

/// What is known between two look-ups.
#[derive(Default)]
struct Memory {
    resolver: Option<TokioResolver>,
    /// When it was looked last, and when it is time to look again.
    looked: Option<(Instant, Instant)>,
    /// The last good answers, for while a name server fails at one of them.
    known: HashMap<(Name, RecordType), Vec<IpAddr>>,
}

/// Why there are no records.
#[derive(Clone, Debug)]
enum Miss {
    /// There are none, says who has to know.
    None(String),
    /// Nobody can say.
    Failed(String),
}

/// Records, and for how long they hold.
type Answer<T> = Result<(Vec<T>, Duration), Miss>;

pub(super) fn of_host(said: &DnsSource) -> Source {
    open(Asked::Host(said.dns.clone(), said.port), &said.lookups)
}

pub(super) fn of_service(said: &SrvSource) -> Source {
    open(Asked::Service(said.srv.clone()), &said.lookups)
}

fn open(asked: Asked, said: &Lookups) -> Source {
    let dns = Dns { asked, said: said.clone(), memory: Mutex::default(), doubts: Notify::new() };
    Source { discovery: Arc::new(dns), first: None }
}

#[async_trait]
impl Discovery for Dns {
    async fn next(&self) -> Result<ServerList, String> {
        let mut memory = self.memory.lock().await;
        if let Some((last, due)) = memory.looked {
            let doubted = async {
                sleep_until(last + self.said.min_refresh).await;
                self.doubts.notified().await;
            };
            tokio::select! {
                () = sleep_until(due) => {}
                () = doubted => {}
            }
        }
        // If it fails, whoever asks waits before asking again.
        memory.looked = None;
        match self.look_up(&mut memory).await {
            Ok((list, holds)) => {
                let now = Instant::now();
                memory.looked = Some((now, now + holds.clamp(self.said.min_refresh, self.said.refresh)));
                Ok(list)
            }
            Err(fault) => {
                // The system may have other name servers by now.
                memory.resolver = None;
                Err(fault)
            }
        }
    }

    fn look_again(&self) {
        self.doubts.notify_one();
    }

    fn name(&self) -> String {
        match &self.asked {
            Asked::Host(name, port) => format!("dns {name}:{port}"),
            Asked::Service(name) => format!("srv {name}"),
        }
    }
}

impl Dns {
    async fn look_up(&self, memory: &mut Memory) -> Result<(ServerList, Duration), String> {
        let resolver = match &memory.resolver {
            Some(resolver) => resolver.clone(),
            None => memory.resolver.insert(resolver(&self.said.resolver)?).clone(),
        };
        let ask = Ask { resolver: &resolver, family: self.said.family };
        let answered = match &self.asked {
            Asked::Host(name, port) => timeout(PATIENCE, ask.host(name, *port, &mut memory.known)).await,
            Asked::Service(name) => timeout(PATIENCE, ask.service(name, &mut memory.known)).await,
        };
        let answered = answered.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        answered.map_err(|(Miss::None(why) | Miss::Failed(why))| why)
    }
}

/// Asks the name servers that are said, or else those of the system. Nothing else of the system's settings has a say: a
/// search list would make another name of one that is mistyped.
fn resolver(said: &[NameServer]) -> Result<TokioResolver, String> {
    let servers = if said.is_empty() {
        let (config, _) = read_system_conf().map_err(|fault| format!("/etc/resolv.conf: {fault}"))?;
        config.name_servers().to_vec()
    } else {
        said.iter().map(name_server).collect()
    };
    let config = ResolverConfig::from_name_servers(servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = ANSWER;
    options.attempts = 2;
    // Whoever asks again wants to know what is so by now.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|fault| format!("no name server can be asked: {fault}"))
}

/// By UDP, and by TCP where an answer is too long for that.
fn name_server(NameServer(address): &NameServer) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

type Known = HashMap<(Name, RecordType), Vec<IpAddr>>;

/// One look-up.
struct Ask<'a> {
    resolver: &'a TokioResolver,
    family: Family,
}

impl Ask<'_> {
    async fn host(&self, name: &str, port: u16, known: &mut Known) -> Result<(ServerList, Duration), Miss> {
        let name = absolute(name)?;
        let (addresses, holds) = self.addresses(&name, known).await?;
        let mut list = Collected::default();
        addresses.into_iter().for_each(|ip| list.add(ip, port, 0, 1));
        Ok((list.finish()?, holds))
    }

    async fn service(&self, name: &str, known: &mut Known) -> Result<(ServerList, Duration), Miss> {
        let (mut records, mut holds) = self
            .records(&absolute(name)?, RecordType::SRV, |data| match data {
                RData::SRV(service) => Some(service.clone()),
                _ => None,
            })
            .await?;
        // RFC 2782: a target that is the root says that there is decidedly no such service.
        records.retain(|record| !record.target.is_root());
        if records.is_empty() {
            return Err(Miss::None("the service says that it is not there".to_owned()));
        }
        records.sort_by_key(|record| (record.priority, record.port));
        let mut targets: Vec<Name> = records.iter().map(|record| record.target.to_lowercase()).collect();
        targets.sort_unstable();
        targets.dedup();
        targets.truncate(MOST_TARGETS);
        let asking = targets.into_iter().map(|target| {
            let own = known.iter().filter(|((name, _), _)| *name == target);
            let mut own: Known = own.map(|(key, addresses)| (key.clone(), addresses.clone())).collect();
            async move {
                let found = self.addresses(&target, &mut own).await;
                (target, found, own)
            }
        });
        let asking = stream::iter(asking.collect::<Vec<_>>());
        let answered: Vec<_> = asking.buffer_unordered(AT_ONCE).collect().await;
        let mut found = HashMap::new();
        let mut now = Known::new();
        for (target, answer, own) in answered {
            now.extend(own);
            // While a name server fails at one of them, its servers are where they were.
            let answer = match answer {
                Err(Miss::Failed(why)) => {
                    let old: Vec<IpAddr> =
                        now.iter().filter(|((name, _), _)| *name == target).flat_map(|(_, old)| old.clone()).collect();
                    if old.is_empty() { Err(why) } else { Ok(old) }
                }
                Err(Miss::None(why)) => Err(why),
                Ok((addresses, for_)) => {
                    holds = holds.min(for_);
                    Ok(addresses)
                }
            };
            found.insert(target, answer);
        }
        *known = now;
        let heaviest =
            |priority| records.iter().filter(move |record| record.priority == priority).map(|r| r.weight).max();
        let mut list = Collected::default();
        for record in &records {
            let weight = scaled(record.weight, heaviest(record.priority).unwrap_or(1));
            match found.get(&record.target.to_lowercase()) {
                Some(Ok(addresses)) => {
                    addresses.iter().for_each(|&ip| list.add(ip, record.port, record.priority, weight));
                }
                Some(Err(why)) => list.leave_out(format!("{}:{}", text(&record.target), record.port), why.clone()),
                None => list.leave_out(text(&record.target), format!("more than {MOST_TARGETS} targets")),
            }
        }
        Ok((list.finish()?, holds))
    }

    /// The addresses of a host, in the families that are wanted.
    async fn addresses(&self, name: &Name, known: &mut Known) -> Answer<IpAddr> {
        match self.family {
            Family::Ipv4 => self.family_of(name, RecordType::A, known).await,
            Family::Ipv6 => self.family_of(name, RecordType::AAAA, known).await,
            Family::PreferIpv4 => match self.family_of(name, RecordType::A, known).await {
                Err(Miss::None(_)) => self.family_of(name, RecordType::AAAA, known).await,
                answered => answered,
            },
            Family::Both => {
                let four = self.family_of(name, RecordType::A, known).await;
                let six = self.family_of(name, RecordType::AAAA, known).await;
                match (four, six) {
                    (Ok((mut all, holds)), Ok((more, other))) => {
                        all.extend(more);
                        Ok((all, holds.min(other)))
                    }
                    (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
                    (Err(Miss::Failed(why)), Err(_)) | (Err(_), Err(Miss::Failed(why))) => Err(Miss::Failed(why)),
                    (Err(none), Err(_)) => Err(none),
                }
            }
        }
    }

    async fn family_of(&self, name: &Name, record_type: RecordType, known: &mut Known) -> Answer<IpAddr> {
        let answered = self.records(name, record_type, |data| match data {
            RData::A(address) => Some(IpAddr::from(address.0)),
            RData::AAAA(address) => Some(IpAddr::from(address.0).to_canonical()),
            _ => None,
        });
        let key = (name.clone(), record_type);
        match answered.await {
            Ok((addresses, holds)) => {
                known.insert(key, addresses.clone());
                Ok((addresses, holds))
            }
            // With two families, one that can't be told of is as it was; alone it is a failure that is to be told.
            Err(Miss::Failed(why)) if self.family == Family::Both => match known.get(&key) {
                Some(old) => Ok((old.clone(), Duration::ZERO)),
                None => Err(Miss::Failed(why)),
            },
            Err(Miss::None(why)) => {
                known.remove(&key);
                Err(Miss::None(why))
            }
            Err(failed) => Err(failed),
        }
    }

    /// The records of a name, by way of its other names, and for how long all of that holds.
    async fn records<T>(&self, name: &Name, record_type: RecordType, read: impl Fn(&RData) -> Option<T>) -> Answer<T> {
        let found = self.resolver.lookup(name.clone(), record_type).await;
        let found = found.map_err(|fault| miss(&fault, name, record_type))?;
        let holds = found.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
        let records: Vec<T> = found.answers().iter().filter_map(|record| read(&record.data)).collect();
        if records.is_empty() {
            return Err(Miss::None(format!("{} has no {record_type} records", text(name))));
        }
        Ok((records, Duration::from_secs(holds.into())))
    }
}

fn miss(fault: &NetError, name: &Name, record_type: RecordType) -> Miss {
    let name = text(name);
    match fault {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            Miss::None(format!("there is no name {name}"))
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError => {
            Miss::None(format!("{name} has no {record_type} records"))
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) => refused(&name, none.response_code),
        NetError::Dns(DnsError::ResponseCode(code)) => refused(&name, *code),
        NetError::Timeout => Miss::Failed(format!("no name server answers for {name}")),
        other => Miss::Failed(format!("{name} can't be asked for: {other}")),
    }
}

fn refused(name: &str, code: ResponseCode) -> Miss {
    Miss::Failed(format!("the name server can't tell of {name}: {code}"))
}

/// As it stands: no search list makes another name of it.
fn absolute(name: &str) -> Result<Name, Miss> {
    let mut absolute = Name::from_ascii(name).map_err(|fault| Miss::Failed(format!("`{name}` is no name: {fault}")))?;
    absolute.set_fqdn(true);
    Ok(absolute)
}

fn text(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').map(str::to_owned).unwrap_or(text)
}

/// A weight of 16 bits as one from 1 to 256, in the same proportion to the heaviest.
fn scaled(weight: u16, heaviest: u16) -> u16 {
    match heaviest {
        0..=256 => weight.max(1),
        _ => {
            let scaled = (u32::from(weight) * 256 + u32::from(heaviest) / 2) / u32::from(heaviest);
            u16::try_from(scaled).unwrap_or(256).clamp(1, 256)
        }
    }
}

/// Servers as they come, each address and port once.
#[derive(Default)]
struct Collected {
    servers: Vec<(u16, SocketAddr, u16)>,
    known: std::collections::HashSet<SocketAddr>,
    left_out: Vec<(String, String)>,
}

impl Collected {
    /// The first of an address has the best priority.
    fn add(&mut self, ip: IpAddr, port: u16, priority: u16, weight: u16) {
        let address = SocketAddr::new(ip, port);
        if let Some(why) = unusable(address) {
            self.leave_out(address.to_string(), why.to_owned());
        } else if self.known.insert(address) {
            self.servers.push((priority, address, weight));
        }
    }

    fn leave_out(&mut self, name: String, why: String) {
        self.left_out.push((name, why));
    }

    /// In an order of their own, since name servers change theirs with each answer.
    fn finish(mut self) -> Result<ServerList, Miss> {
        self.servers.sort_unstable();
        self.left_out.sort_unstable();
        if let ([], Some((name, why))) = (self.servers.as_slice(), self.left_out.first()) {
            return Err(Miss::Failed(format!("no server can be used: {name}: {why}")));
        }
        let server = |(priority, address, weight): (u16, SocketAddr, u16)| {
            ServerConfig::of(ServerAddress::Inet(address)).with_weight(weight).with_priority(priority)
        };
        let list: ServerList = self.servers.into_iter().map(server).collect();
        Ok(self.left_out.into_iter().fold(list, |list, (name, why)| list.without(name, why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_proportion() {
        for (weight, heaviest, expected) in [
            (0, 0, 1),
            (10, 30, 10),
            (256, 256, 256),
            (65535, 65535, 256),
            (0, 65535, 1),
            (1000, 2000, 128),
            (1, 2000, 1),
        ] {
            assert_eq!(scaled(weight, heaviest), expected, "{weight} of {heaviest}");
        }
    }

    #[test]
    fn what_can_be_no_server_is_left_out_by_itself() {
        let mut list = Collected::default();
        for ip in
            ["10.0.0.2", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1", "10.0.0.1", "10.0.0.2"]
        {
            list.add(ip.parse().unwrap(), 80, 0, 1);
        }
        list.add("10.0.0.1".parse().unwrap(), 0, 0, 1);
        let list = list.finish().unwrap();
        let names: Vec<_> = list.servers().iter().map(ServerConfig::name).collect();
        assert_eq!(names, ["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(list.left_out().count(), 7);
        let mut none = Collected::default();
        none.add("0.0.0.0".parse().unwrap(), 80, 0, 1);
        assert!(matches!(none.finish(), Err(Miss::Failed(why)) if why.contains("0.0.0.0:80: it is no address")));
    }
}
