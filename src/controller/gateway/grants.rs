//! Who may refer to objects of another namespace: those whom a ReferenceGrant there lets.

use kube::ResourceExt;

use super::objects::{GROUP, GrantSpec, ReferenceGrant, Says};

/// The grants of all namespaces.
pub(super) struct Grants(Vec<(String, GrantSpec)>);

impl Grants {
    pub(super) fn new<'a>(all: impl IntoIterator<Item = &'a ReferenceGrant>) -> Self {
        // What can't be read lets nobody in.
        let read = |grant: &ReferenceGrant| Some((grant.namespace()?, grant.spec().ok()?));
        Self(all.into_iter().filter_map(read).collect())
    }

    /// Whether an object of the Gateway API, by kind and namespace, may refer to one of the core group.
    pub(super) fn let_in(&self, (kind, from): (&str, &str), (to_kind, namespace, name): (&str, &str, &str)) -> bool {
        from == namespace
            || self.0.iter().filter(|(of, _)| of == namespace).any(|(_, spec)| {
                let is_from =
                    spec.from.iter().any(|one| one.group == GROUP && one.kind == kind && one.namespace == from);
                let is_to = spec.to.iter().any(|one| {
                    let is_core = one.group.is_empty() || one.group == "core";
                    is_core
                        && one.kind == to_kind
                        && one.name.as_deref().is_none_or(|known| known.is_empty() || known == name)
                });
                is_from && is_to
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_grant_lets_in_whom_it_names_and_nobody_else() {
        let grant: ReferenceGrant = serde_json::from_value(json!({
            "metadata": { "name": "a", "namespace": "apps" },
            "spec": {
                "from": [{ "group": GROUP, "kind": "HTTPRoute", "namespace": "edge" }],
                "to": [{ "group": "", "kind": "Service", "name": "web" }, { "group": "", "kind": "Secret" }],
            },
        }))
        .unwrap();
        let unreadable: ReferenceGrant =
            serde_json::from_value(json!({ "metadata": { "name": "b", "namespace": "apps" }, "spec": { "from": 7 } }))
                .unwrap();
        let grants = Grants::new([&grant, &unreadable]);
        let lets = |kind, from, to| grants.let_in((kind, from), to);
        assert!(lets("HTTPRoute", "edge", ("Service", "apps", "web")));
        assert!(lets("HTTPRoute", "edge", ("Secret", "apps", "any")));
        assert!(lets("HTTPRoute", "apps", ("Service", "apps", "other")), "its own namespace");
        assert!(!lets("HTTPRoute", "edge", ("Service", "apps", "other")));
        assert!(!lets("TCPRoute", "edge", ("Service", "apps", "web")));
        assert!(!lets("HTTPRoute", "else", ("Service", "apps", "web")));
        assert!(!lets("HTTPRoute", "edge", ("Service", "other", "web")));
    }
}
