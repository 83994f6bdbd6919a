//! Where routes lead: the port of a Service, as the upstream of the pods behind it.

use std::path::Path;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::networking::v1::{IngressBackend, ServiceBackendPort};
use serde_json::{Map, Value, json};

use super::draft::{Named, Object};
use super::world::World;

/// Finds upstreams.
pub(super) struct Backends<'a> {
    pub(super) world: &'a World,
    /// How their pods are looked for.
    pub(super) kubeconfig: Option<&'a Path>,
}

/// A port of a Service.
pub(super) struct Found<'a> {
    /// As the Service has it.
    pub(super) port: &'a ServicePort,
    /// What stands in `servers` of its upstream.
    servers: Value,
}

impl Found<'_> {
    /// The keys of an upstream of its pods, with these beside them.
    pub(super) fn upstream(&self, mut keys: Map<String, Value>) -> Map<String, Value> {
        keys.insert("servers".to_owned(), self.servers.clone());
        keys.insert("optional".to_owned(), true.into());
        keys
    }
}

impl Backends<'_> {
    /// The upstream of a backend: its name, and its keys, with those that the Ingress says of all of them.
    ///
    /// An upstream belongs to one Ingress: what another says of the same Service is of another upstream.
    ///
    /// # Errors
    /// Why there is none, in one plain sentence.
    pub(super) fn upstream(
        &self,
        ingress: &Object,
        said: &IngressBackend,
        settings: &Map<String, Value>,
    ) -> Result<(String, Map<String, Value>), String> {
        if let Some(resource) = &said.resource {
            return Err(format!("a backend of the kind {} is refused: expected a Service", resource.kind));
        }
        let said = said.service.as_ref().ok_or("a backend says no Service")?;
        let service = Named::new(&ingress.namespace, &said.name);
        let port = said.port.clone().unwrap_or_default();
        let found = self.find(&service, &port)?;
        let mut keys = settings.clone();
        // Pods have no name in common but that of their Service.
        if let Some(tls) = keys.get_mut("tls").and_then(Value::as_object_mut) {
            tls.entry("server_name").or_insert_with(|| format!("{}.{}.svc", service.name, service.namespace).into());
        }
        let name = format!("{}/{}/{}:{}", ingress.namespace, ingress.name, said.name, found.port.port);
        Ok((name, found.upstream(keys)))
    }

    /// The default backend of the controller.
    ///
    /// # Errors
    /// As [`Self::upstream`].
    pub(super) fn default(
        &self,
        service: &Named,
        port: &ServiceBackendPort,
    ) -> Result<(String, Map<String, Value>), String> {
        let found = self.find(service, port)?;
        Ok((format!("default/{service}:{}", found.port.port), found.upstream(Map::new())))
    }

    /// A port of a Service.
    ///
    /// # Errors
    /// As [`Self::upstream`].
    pub(super) fn find(&self, service: &Named, port: &ServiceBackendPort) -> Result<Found<'_>, String> {
        let found = self.world.services.get(service).ok_or_else(|| format!("the Service {service} is not there"))?;
        let spec = found.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            return Err(format!("the Service {service} is of the type ExternalName, which has no pods"));
        }
        let found = find_port(found, port).ok_or_else(|| {
            let said = match (&port.name, port.number) {
                (Some(name), _) => format!("`{name}`"),
                (None, Some(number)) => number.to_string(),
                (None, None) => "that is said".to_owned(),
            };
            format!("the Service {service} has no port {said}")
        })?;
        let mut kubernetes = json!({ "namespace": service.namespace, "service": service.name });
        // Its slices call the port as it does; only one that is alone may have no name.
        if let Some(name) = found.name.as_ref().filter(|name| !name.is_empty()) {
            kubernetes["port"] = name.as_str().into();
        }
        if let Some(file) = self.kubeconfig {
            kubernetes["kubeconfig"] = file.display().to_string().into();
        }
        Ok(Found { port: found, servers: json!({ "kubernetes": kubernetes }) })
    }
}

fn find_port<'a>(service: &'a Service, said: &ServiceBackendPort) -> Option<&'a ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let is_tcp = |port: &&ServicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let mut ports = ports.iter().filter(is_tcp);
    match (said.name.as_deref().filter(|name| !name.is_empty()), said.number) {
        (Some(name), _) => ports.find(|port| port.name.as_deref() == Some(name)),
        (None, Some(number)) => ports.find(|port| port.port == number),
        (None, None) => None,
    }
}
