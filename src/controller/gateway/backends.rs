//! Where routes of the Gateway API lead: ports of Services, each as an upstream of the route's own.

use k8s_openapi::api::networking::v1::ServiceBackendPort;
use serde_json::{Map, Value, json};

use super::Drawing;
use super::objects::Reference;
use crate::controller::backend::Backends;
use crate::controller::draft::{Named, Object};

/// What is answered where a rule leads nowhere.
pub(super) const NOWHERE: u16 = 500;

/// Why a backend can't be used: one word, and a sentence.
pub(super) type Fault = (&'static str, String);

impl Drawing<'_> {
    /// The name of the upstream that a backend of a route is; `keys` hold what else is said of it.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn backend(
        &mut self,
        object: &Object,
        to: &Reference,
        mut keys: Map<String, Value>,
    ) -> Result<String, Fault> {
        let kind = to.kind.as_deref().unwrap_or("Service");
        if !matches!(to.group.as_deref(), None | Some("" | "core")) || kind != "Service" {
            return Err(("InvalidKind", format!("a backend of the kind {kind} is refused: expected a Service")));
        }
        let service = Named::new(to.namespace.as_deref().unwrap_or(&object.namespace), &to.name);
        let from = (object.kind.as_str(), object.namespace.as_str());
        if !self.grants.let_in(from, ("Service", &service.namespace, &service.name)) {
            let why =
                format!("no ReferenceGrant lets a {} of {} use the Service {service}", object.kind, object.namespace);
            return Err(("RefNotPermitted", why));
        }
        let Some(port) = to.port else {
            return Err(("BackendNotFound", format!("it says no port of the Service {service}")));
        };
        let port = ServiceBackendPort { number: Some(port.into()), name: None };
        let backends = Backends { world: self.world, kubeconfig: self.terms.kubeconfig.as_deref() };
        let found = backends.find(&service, &port).map_err(|why| ("BackendNotFound", why))?;
        match found.port.app_protocol.as_deref() {
            Some("kubernetes.io/h2c" | "grpc") => drop(keys.insert("http2".to_owned(), true.into())),
            Some(protocol @ ("kubernetes.io/wss" | "https")) => {
                let why = format!(
                    "the port {} of the Service {service} speaks {protocol}: nothing says how its certificate is verified",
                    found.port.port
                );
                return Err(("UnsupportedProtocol", why));
            }
            // WebSockets need no word of their own.
            _ => {}
        }
        let there =
            if service.namespace == object.namespace { String::new() } else { format!("{}/", service.namespace) };
        let kind = object.kind.to_ascii_lowercase();
        let base = format!("{}/{kind}.{}/{there}{}:{}", object.namespace, object.name, service.name, found.port.port);
        let upstream = found.upstream(keys);
        // What is said otherwise of the same Service by another rule is of another upstream.
        let mut names = std::iter::once(base.clone()).chain((2..).map(|number| format!("{base}~{number}")));
        let name = names.find(|name| self.draft.upstreams.get(name).is_none_or(|(_, known)| *known == upstream));
        let name = name.unwrap_or(base);
        self.draft.upstreams.entry(name.clone()).or_insert_with(|| (object.clone(), upstream));
        Ok(name)
    }
}

/// Adds a share; who is named twice has one share of both weights.
pub(super) fn add_share(shares: &mut Vec<(String, u32)>, upstream: String, weight: u32) {
    match shares.iter_mut().find(|(known, _)| *known == upstream) {
        Some((_, known)) => *known = known.saturating_add(weight),
        None => shares.push((upstream, weight)),
    }
}

/// `upstream` of a route, or of connections.
pub(super) fn weighted(shares: &[(String, u32)], lost: u32) -> Value {
    if let ([(name, _)], 0) = (shares, lost) {
        return name.as_str().into();
    }
    // The most that a share may have in the file is 1000.
    let most = shares.iter().map(|(_, weight)| *weight).max().unwrap_or(0).max(lost);
    let scaled = |weight: u32| match most {
        0..=1000 => weight,
        most => u32::try_from((u64::from(weight) * 1000).div_ceil(u64::from(most))).unwrap_or(1000),
    };
    let mut all: Vec<Value> =
        shares.iter().map(|(name, weight)| json!({ "name": name, "weight": scaled(*weight) })).collect();
    if lost > 0 {
        all.push(json!({ "respond": NOWHERE, "weight": scaled(lost) }));
    }
    all.into()
}
