//! Which clients may ask, by their networks: a look-up, however long the lists are.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use super::BuildError;
use super::config::{self, NetworkItem};

/// Whose clients may ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networks {
    allow: Option<Arc<Set>>,
    deny: Option<Arc<Set>>,
}

/// Lists that have been read: what several routes say is kept once.
#[derive(Debug, Default)]
pub(super) struct Lists(HashMap<config::Networks, Arc<Set>>);

impl Lists {
    fn read(&mut self, said: &config::Networks) -> Result<Arc<Set>, BuildError> {
        if let Some(known) = self.0.get(said) {
            return Ok(Arc::clone(known));
        }
        let set = Arc::new(Set::build(said)?);
        self.0.insert(said.clone(), Arc::clone(&set));
        Ok(set)
    }
}

impl Networks {
    /// Reads the lists of a listener; `None` where everybody may.
    pub(crate) fn of_listener(said: &config::OfListener) -> Result<Option<Self>, BuildError> {
        Self::build(said.allow.as_ref(), said.deny.as_ref(), &mut Lists::default())
    }

    /// Reads the lists; `None` where everybody may.
    pub(super) fn build(
        allow: Option<&config::Networks>,
        deny: Option<&config::Networks>,
        lists: &mut Lists,
    ) -> Result<Option<Self>, BuildError> {
        let mut set = |said: Option<&config::Networks>| said.map(|said| lists.read(said)).transpose();
        let this = Self { allow: set(allow)?, deny: set(deny)? };
        Ok((this.allow.is_some() || this.deny.is_some()).then_some(this))
    }

    /// Whether this client may.
    pub(crate) fn admit(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.deny.as_ref().is_none_or(|deny| !deny.has(client))
            && self.allow.as_ref().is_none_or(|allow| allow.has(client))
    }
}

/// Addresses, as ranges that neither touch nor overlap, in order.
#[derive(Debug, Default)]
struct Set {
    v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    v6: Vec<(Ipv6Addr, Ipv6Addr)>,
}

impl Set {
    fn build(said: &config::Networks) -> Result<Self, BuildError> {
        let mut networks = Vec::new();
        for item in &said.0 {
            match item {
                NetworkItem::Network(network) => networks.push(*network),
                NetworkItem::File(file) => read(file, &mut networks)?,
            }
        }
        Ok(Self::of(&networks))
    }

    fn of(networks: &[IpNet]) -> Self {
        let mut this = Self::default();
        for network in networks {
            match network {
                IpNet::V4(network) => this.v4.push((network.network(), network.broadcast())),
                IpNet::V6(network) => match network.network().to_ipv4_mapped() {
                    // IPv4 in IPv6's clothes, which clients never wear here.
                    Some(first) if network.prefix_len() >= 96 => {
                        let last = network.broadcast().to_ipv4_mapped().unwrap_or(first);
                        this.v4.push((first, last));
                    }
                    _ => this.v6.push((network.network(), network.broadcast())),
                },
            }
        }
        this.v4 = merged(this.v4, |address| address.to_bits().checked_add(1).map(Ipv4Addr::from_bits));
        this.v6 = merged(this.v6, |address| address.to_bits().checked_add(1).map(Ipv6Addr::from_bits));
        this
    }

    fn has(&self, client: IpAddr) -> bool {
        match client {
            IpAddr::V4(client) => within(&self.v4, client),
            IpAddr::V6(client) => within(&self.v6, client),
        }
    }
}

/// In order, with what touches or overlaps in one.
fn merged<A: Copy + Ord>(mut ranges: Vec<(A, A)>, next: impl Fn(A) -> Option<A>) -> Vec<(A, A)> {
    ranges.sort_unstable();
    ranges.dedup_by(|(first, last), (_, before)| {
        let joins = next(*before).is_none_or(|next| *first <= next);
        if joins {
            *before = (*before).max(*last);
        }
        joins
    });
    ranges.shrink_to_fit();
    ranges
}

fn within<A: Copy + Ord>(ranges: &[(A, A)], client: A) -> bool {
    let behind = ranges.partition_point(|&(first, _)| first <= client);
    behind.checked_sub(1).is_some_and(|at| client <= ranges[at].1)
}

/// Adds what a file lists.
fn read(file: &Path, networks: &mut Vec<IpNet>) -> Result<(), BuildError> {
    let fault = |what: String| BuildError(format!("{}{what}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| fault(format!(" can't be read: {error}")))?;
    for (number, line) in (1..).zip(text.lines()) {
        let said = line.split_once('#').map_or(line, |(said, _)| said).trim();
        if said.is_empty() {
            continue;
        }
        let wrong =
            || fault(format!(":{number}: found `{said}`, expected a network such as 10.0.0.0/8, or an address"));
        networks.push(config::network(said).ok_or_else(wrong)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(networks: &[&str]) -> Set {
        Set::of(&networks.iter().map(|text| config::network(text).unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn networks_have_their_first_and_last_addresses_and_no_others() {
        let set = set(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "255.255.255.255", "::ffff:198.51.100.0/120"]);
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "192.0.2.7",
            "2001:db8::",
            "2001:db8:ffff::1",
            "255.255.255.255",
            "198.51.100.9",
        ] {
            assert!(set.has(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "::", "0.0.0.0"] {
            assert!(!set.has(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn a_denied_network_is_denied_within_an_allowed_one() {
        let networks = Networks { allow: Some(set(&["10.0.0.0/8"]).into()), deny: Some(set(&["10.1.0.0/16"]).into()) };
        let may = |client: &str| networks.admit(client.parse().unwrap());
        assert!(may("10.0.0.1") && may("::ffff:10.0.0.1"));
        assert!(!may("10.1.0.1") && !may("::ffff:10.1.0.1") && !may("192.0.2.1"));
        let only_denied = Networks { allow: None, deny: Some(set(&["10.1.0.0/16"]).into()) };
        assert!(only_denied.admit("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_file_may_have_comments_and_a_fault_in_it_is_told_by_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let list = config::Networks(vec![NetworkItem::File(file.path().to_owned())]);
        fs::write(&file, "# offices\n10.0.0.0/8 # all\n\n2001:db8::1\n").unwrap();
        let set = Set::build(&list).unwrap();
        assert!(set.has("10.2.3.4".parse().unwrap()) && set.has("2001:db8::1".parse().unwrap()));
        fs::write(&file, "10.0.0.0/8\n10.0.0.0/33\n").unwrap();
        let told = Set::build(&list).unwrap_err().to_string();
        let expected = "2: found `10.0.0.0/33`, expected a network such as 10.0.0.0/8, or an address";
        assert_eq!(told, format!("access: {}:{expected}", file.path().display()));
    }

    proptest! {
        #[test]
        fn a_set_has_what_one_of_its_networks_has(
            networks in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..20),
            near in proptest::collection::vec((any::<prop::sample::Index>(), -2i64..=2), 1..20),
        ) {
            let networks: Vec<IpNet> = networks.into_iter()
                .map(|(address, length)| IpNet::new(Ipv4Addr::from_bits(address).into(), length).unwrap())
                .collect();
            let set = Set::of(&networks);
            for (which, by) in near {
                // Where it matters is near the ends.
                let from = if networks.is_empty() { Ipv4Addr::UNSPECIFIED.into() } else {
                    let network = which.get(&networks);
                    if by % 2 == 0 { network.network() } else { network.broadcast() }
                };
                let IpAddr::V4(from) = from else { unreachable!() };
                let client = Ipv4Addr::from_bits(i64::from(from.to_bits()).saturating_add(by).clamp(0, 0xffff_ffff) as u32);
                let expected = networks.iter().any(|network| network.contains(&IpAddr::from(client)));
                prop_assert_eq!(set.has(client.into()), expected, "{}", client);
            }
        }
    }
}
