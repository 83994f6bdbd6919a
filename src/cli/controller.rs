//! `sockgate controller`: serves what a cluster's Ingresses and Gateways say, beside what a file says.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use k8s_openapi::api::networking::v1::ServiceBackendPort;

use super::run::{self, Beside};
use crate::config::{Config, Parts};
use crate::controller::{Named, Terms};

/// How the controller is run.
#[derive(Clone, Debug, Args)]
pub(super) struct How {
    /// The YAML file: listeners, admin address, limits, defaults. Its routes come before those of the cluster.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Look for objects in this namespace only; may be said several times. Classes are known by name alone then.
    #[arg(long = "watch-namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// The class of Ingresses that name it by annotation; with --watch-namespace, that of all.
    #[arg(long, value_name = "NAME", default_value = "sockgate")]
    ingress_class: String,
    /// Serve Ingresses that name no class, too.
    #[arg(long)]
    watch_ingress_without_class: bool,
    /// Serve Ingresses alone, and look for no object of the Gateway API.
    #[arg(long)]
    no_gateway_api: bool,
    /// With --watch-namespace, the class of the Gateways that are served; else their GatewayClass says whose they are.
    #[arg(long, value_name = "NAME", default_value = "sockgate")]
    gateway_class: String,
    /// Serve this Gateway only; may be said several times. Default: all of the class.
    #[arg(long = "gateway", value_name = "NAMESPACE/NAME", value_parser = Named::read)]
    gateways: Vec<Named>,
    /// The listener of the file that serves a port of Gateways; may be said several times. Default: the one that the Service of
    /// --publish-service sends the port to, else the one that has it.
    #[arg(long = "gateway-port", value_name = "PORT=LISTENER", value_parser = gateway_port)]
    gateway_ports: Vec<(u16, String)>,
    /// Where requests go that no Ingress takes.
    #[arg(long, value_name = "NAMESPACE/SERVICE:PORT", value_parser = service_port)]
    default_backend: Option<(Named, ServiceBackendPort)>,
    /// The Secret with the certificate for names that nobody has one for. Default: those of the file.
    #[arg(long, value_name = "NAMESPACE/SECRET", value_parser = Named::read)]
    default_certificate: Option<Named>,
    /// The Service whose addresses are written into the status of Ingresses and Gateways.
    #[arg(long, value_name = "NAMESPACE/SERVICE", value_parser = Named::read)]
    publish_service: Option<Named>,
    /// An address to write there in place of that; may be said several times.
    #[arg(long = "publish-address", value_name = "ADDRESS", conflicts_with = "publish_service")]
    publish_addresses: Vec<String>,
    /// The name of the Lease by which one gateway of several writes.
    #[arg(long, value_name = "NAME", default_value = "sockgate-controller")]
    lease: String,
    /// Its namespace. Default: the gateway's own.
    #[arg(long, value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
    /// What this gateway is called there. Default: what POD_NAME holds, else the name of its host.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// The file that says where the API server is. Default: what every pod has for that.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

pub(super) fn controller(how: How) -> ExitCode {
    let file = how.config.clone();
    run::serve(&file, Beside::Cluster(Box::new(how.terms())), || {
        // Certificates may come later, all of them.
        let (loaded, _) = Config::load_with(&file, &Parts::default()).map_err(|faults| {
            eprintln!("{faults}");
            ExitCode::from(2)
        })?;
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(loaded.config)
    })
}

impl How {
    fn terms(self) -> Terms {
        Terms {
            kubeconfig: self.kubeconfig,
            namespaces: self.namespaces,
            class: self.ingress_class,
            without_class: self.watch_ingress_without_class,
            gateway_api: !self.no_gateway_api,
            gateway_class: self.gateway_class,
            gateways: self.gateways,
            gateway_ports: self.gateway_ports,
            default_backend: self.default_backend,
            default_certificate: self.default_certificate,
            publish_service: self.publish_service,
            publish_addresses: self.publish_addresses,
            identity: self.identity.or_else(|| std::env::var("POD_NAME").ok()).unwrap_or_else(name_of_host),
            lease: (self.lease_namespace, self.lease),
        }
    }
}

fn name_of_host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    // Two processes of one host are two.
    format!("{}-{}", host.as_deref().map_or("sockgate", str::trim), std::process::id())
}

fn gateway_port(text: &str) -> Result<(u16, String), String> {
    let read = text.split_once('=').filter(|(_, listener)| !listener.is_empty());
    let read = read.and_then(|(port, listener)| Some((port.parse().ok()?, listener.to_owned())));
    read.filter(|(port, _)| *port > 0).ok_or_else(|| "expected PORT=LISTENER, such as 443=tls".to_owned())
}

fn service_port(text: &str) -> Result<(Named, ServiceBackendPort), String> {
    let expected = || "expected NAMESPACE/SERVICE:PORT".to_owned();
    let (service, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let service = Named::read(service).map_err(|_| expected())?;
    let port = match port.parse() {
        Ok(number) => ServiceBackendPort { number: Some(number), name: None },
        Err(_) if port.is_empty() => return Err(expected()),
        Err(_) => ServiceBackendPort { name: Some(port.to_owned()), number: None },
    };
    Ok((service, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_gateways_is_a_listener_of_the_file() {
        assert_eq!(gateway_port("443=tls"), Ok((443, "tls".to_owned())));
        for wrong in ["443", "=tls", "443=", "0=tls", "70000=tls"] {
            assert!(gateway_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_default_backend_is_a_port_of_a_service() {
        let (service, port) = service_port("chat/app:80").unwrap();
        assert_eq!((service, port.number), (Named::new("chat", "app"), Some(80)));
        assert_eq!(service_port("chat/app:web").unwrap().1.name.as_deref(), Some("web"));
        for wrong in ["chat/app", "app:80", "chat/app:", "/app:80"] {
            assert!(service_port(wrong).is_err(), "{wrong}");
        }
    }
}
