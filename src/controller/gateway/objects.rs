//! The objects of the Gateway API, as far as they are looked at: types of our own, since what one object says has to be readable
//! whatever another says, and since the types that there are want another client.
//!
//! Source: <https://gateway-api.sigs.k8s.io/reference/spec/>, v1.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The group of all of them.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// An object whose words are read when they are looked at.
pub(crate) trait Says: Resource<DynamicType = ()> {
    /// What its `spec` is read as.
    type Spec: DeserializeOwned;

    fn raw_spec(&self) -> &Value;
    fn status(&self) -> &Value;

    /// What it says.
    ///
    /// # Errors
    /// What can't be read of it, in one plain sentence.
    fn spec(&self) -> Result<Self::Spec, String> {
        Self::Spec::deserialize(self.raw_spec()).map_err(|fault| format!("its `spec` can't be read: {fault}"))
    }

    /// How often its words have changed.
    fn generation(&self) -> i64 {
        self.meta().generation.unwrap_or_default()
    }
}

macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident: $spec:ty, $plural:literal $version:literal $scope:ty;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, Serialize)]
        #[serde(default)]
        pub(crate) struct $name {
            metadata: ObjectMeta,
            spec: Value,
            status: Value,
        }

        impl Resource for $name {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($name).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                GROUP.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl Says for $name {
            type Spec = $spec;

            fn raw_spec(&self) -> &Value {
                &self.spec
            }

            fn status(&self) -> &Value {
                &self.status
            }
        }
    )* };
}

objects! {
    /// Who serves Gateways that name it.
    GatewayClass: ClassSpec, "gatewayclasses" "v1" ClusterResourceScope;
    /// Ports, protocols, hosts and certificates.
    Gateway: GatewaySpec, "gateways" "v1" NamespaceResourceScope;
    /// Where requests go.
    HTTPRoute: HttpSpec, "httproutes" "v1" NamespaceResourceScope;
    /// Where connections go whose TLS ends at the server.
    TLSRoute: RawSpec, "tlsroutes" "v1" NamespaceResourceScope;
    /// Where connections go.
    TCPRoute: RawSpec, "tcproutes" "v1" NamespaceResourceScope;
    /// Who may refer into a namespace.
    ReferenceGrant: GrantSpec, "referencegrants" "v1beta1" NamespaceResourceScope;
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClassSpec {
    pub(crate) controller_name: String,
    pub(crate) parameters_ref: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct GatewaySpec {
    pub(crate) gateway_class_name: String,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) infrastructure: Option<Infrastructure>,
    pub(crate) tls: Option<GatewayTls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Infrastructure {
    pub(crate) parameters_ref: Option<Value>,
}

/// What holds for the TLS of all its listeners.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GatewayTls {
    /// The certificate that servers are shown.
    pub(crate) backend: Option<Value>,
    /// How certificates of clients are verified.
    pub(crate) frontend: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Address {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) hostname: Option<String>,
    pub(crate) port: u16,
    pub(crate) protocol: String,
    pub(crate) tls: Option<ListenerTls>,
    pub(crate) allowed_routes: Option<AllowedRoutes>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ListenerTls {
    pub(crate) mode: Option<String>,
    pub(crate) certificate_refs: Vec<Reference>,
    /// How certificates of clients are verified, as older versions have it.
    pub(crate) frontend_validation: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AllowedRoutes {
    pub(crate) namespaces: Option<RouteNamespaces>,
    pub(crate) kinds: Vec<RouteKind>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RouteNamespaces {
    pub(crate) from: Option<String>,
    pub(crate) selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RouteKind {
    pub(crate) group: Option<String>,
    pub(crate) kind: String,
}

/// A reference to an object, perhaps in another namespace, perhaps to a port of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub(crate) struct Reference {
    pub(crate) group: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
}

/// A reference to a Gateway, or to some of its listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ParentRef {
    pub(crate) group: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) section_name: Option<String>,
    pub(crate) port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpSpec {
    pub(crate) parent_refs: Vec<ParentRef>,
    pub(crate) hostnames: Vec<String>,
    pub(crate) rules: Option<Vec<HttpRule>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpRule {
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<HttpMatch>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) backend_refs: Vec<HttpBackend>,
    pub(crate) timeouts: Option<HttpTimeouts>,
    pub(crate) retry: Option<Value>,
    pub(crate) session_persistence: Option<Persistence>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpMatch {
    pub(crate) path: Option<ValueMatch>,
    pub(crate) headers: Vec<NamedMatch>,
    pub(crate) query_params: Vec<NamedMatch>,
    pub(crate) method: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ValueMatch {
    #[serde(rename = "type")]
    pub(crate) how: Option<String>,
    pub(crate) value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamedMatch {
    #[serde(rename = "type")]
    pub(crate) how: Option<String>,
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Filter {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) request_header_modifier: Option<HeaderModifier>,
    pub(crate) response_header_modifier: Option<HeaderModifier>,
    pub(crate) request_mirror: Option<MirrorTo>,
    pub(crate) request_redirect: Option<RedirectTo>,
    pub(crate) url_rewrite: Option<RewriteTo>,
    pub(crate) cors: Option<Cors>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HeaderModifier {
    pub(crate) set: Vec<HeaderValue>,
    pub(crate) add: Vec<HeaderValue>,
    pub(crate) remove: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HeaderValue {
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct MirrorTo {
    pub(crate) backend_ref: Reference,
    pub(crate) percent: Option<u8>,
    pub(crate) fraction: Option<Fraction>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Fraction {
    pub(crate) numerator: u32,
    pub(crate) denominator: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RedirectTo {
    pub(crate) scheme: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) path: Option<PathTo>,
    pub(crate) port: Option<u16>,
    pub(crate) status_code: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RewriteTo {
    pub(crate) hostname: Option<String>,
    pub(crate) path: Option<PathTo>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PathTo {
    #[serde(rename = "type")]
    pub(crate) how: String,
    pub(crate) replace_full_path: Option<String>,
    pub(crate) replace_prefix_match: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Cors {
    pub(crate) allow_origins: Vec<String>,
    pub(crate) allow_credentials: Option<bool>,
    pub(crate) allow_methods: Vec<String>,
    pub(crate) allow_headers: Vec<String>,
    pub(crate) expose_headers: Vec<String>,
    pub(crate) max_age: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpBackend {
    #[serde(flatten)]
    pub(crate) to: Reference,
    pub(crate) weight: Option<u32>,
    pub(crate) filters: Vec<Filter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpTimeouts {
    pub(crate) request: Option<String>,
    pub(crate) backend_request: Option<String>,
}

/// In both shapes that it has had: `sessionName`, and `cookie.name` or `header.name`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Persistence {
    pub(crate) session_name: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) absolute_timeout: Option<String>,
    pub(crate) idle_timeout: Option<String>,
    pub(crate) cookie_config: Option<PersistentCookie>,
    pub(crate) cookie: Option<PersistentCookie>,
    pub(crate) header: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PersistentCookie {
    pub(crate) name: Option<String>,
    pub(crate) lifetime_type: Option<String>,
}

/// What a TLSRoute and a TCPRoute say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawSpec {
    pub(crate) parent_refs: Vec<ParentRef>,
    pub(crate) hostnames: Vec<String>,
    pub(crate) rules: Vec<RawRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawRule {
    pub(crate) backend_refs: Vec<RawBackend>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawBackend {
    #[serde(flatten)]
    pub(crate) to: Reference,
    pub(crate) weight: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrantSpec {
    pub(crate) from: Vec<GrantFrom>,
    pub(crate) to: Vec<GrantTo>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrantFrom {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrantTo {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
}
