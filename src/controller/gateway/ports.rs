//! Which listener of the file serves a port of Gateways, and by which addresses clients come to it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::address::BindAddress;
use crate::config::Config;
use crate::controller::Terms;
use crate::controller::status::{Address, addresses};
use crate::listener::config::Protocol;

/// A listener of the file, as far as Gateways have to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) name: String,
    port: Option<u16>,
    pub(crate) protocol: Protocol,
    pub(crate) has_tls: bool,
    /// Whether it speaks plain HTTP, beside TLS or alone.
    pub(crate) is_plain: bool,
}

impl Own {
    /// Whether a request may have come either way.
    pub(crate) fn is_both(&self) -> bool {
        self.has_tls && self.is_plain
    }
}

/// The listeners of the file by the ports that Gateways call them by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ports {
    own: Vec<Own>,
    said: Vec<(u16, String)>,
    /// Where the gateway's Service sends what comes to its ports.
    targets: BTreeMap<u16, IntOrString>,
    /// Where clients come to the gateway.
    pub(crate) addresses: Vec<Address>,
}

impl Ports {
    pub(crate) fn new(config: &Config, published: Option<&Service>, terms: &Terms) -> Self {
        let own = config.listeners.iter().map(|listener| Own {
            name: listener.name(),
            port: match &listener.address {
                BindAddress::Inet(address) => Some(address.port()),
                _ => None,
            },
            protocol: listener.protocol,
            has_tls: listener.tls.is_some(),
            is_plain: listener.tls.is_none() || listener.detect.as_ref().is_some_and(|detect| detect.plain),
        });
        let ports = published.and_then(|service| service.spec.as_ref()?.ports.as_ref()).into_iter().flatten();
        let targets = ports.filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            Some((number, port.target_port.clone().unwrap_or(IntOrString::Int(port.port))))
        });
        Self {
            own: own.collect(),
            said: terms.gateway_ports.clone(),
            targets: targets.collect(),
            addresses: addresses(published, terms),
        }
    }

    /// The listener behind a port: as the operator says it, else where the gateway's Service sends it, else the one that has it.
    ///
    /// # Errors
    /// Why there is none, in one plain sentence.
    pub(crate) fn find(&self, port: u16) -> Result<&Own, String> {
        let named = |name: &str| self.own.iter().find(|own| own.name == name);
        let at = |port: i32| self.own.iter().find(|own| own.port.map(i32::from) == Some(port));
        if let Some((_, name)) = self.said.iter().find(|(known, _)| *known == port) {
            return named(name)
                .ok_or_else(|| format!("the file has no listener `{name}`, which port {port} is said to be"));
        }
        let found = match self.targets.get(&port) {
            Some(IntOrString::Int(target)) => at(*target),
            Some(IntOrString::String(name)) => named(name),
            None => at(port.into()),
        };
        found.ok_or_else(|| format!("no listener of the file serves port {port}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_that_of_the_service_or_what_the_operator_says() {
        let file = "listeners: [{ name: web, address: ':8080' }, { name: tls, address: ':8443' }, { name: db, address: ':5432' }]";
        let config = Config::read("test.yaml", file, &|_| None).unwrap().config;
        let service: Service = serde_json::from_value(json!({ "spec": { "ports": [
            { "port": 80, "targetPort": "web" }, { "port": 443, "targetPort": 8443 }, { "port": 8080, "targetPort": "gone" }, { "port": 5432 },
        ] } }))
        .unwrap();
        let terms =
            Terms { gateway_ports: vec![(81, "web".to_owned()), (82, "nobody".to_owned())], ..Terms::default() };
        let ports = Ports::new(&config, Some(&service), &terms);
        for (port, expected) in [(80, "web"), (443, "tls"), (5432, "db"), (8443, "tls"), (81, "web")] {
            assert_eq!(ports.find(port).unwrap().name, expected, "{port}");
        }
        for port in [82, 8080, 1] {
            assert!(ports.find(port).unwrap_err().contains("listener"), "{port}");
        }
    }
}
