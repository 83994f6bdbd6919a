//! Connections that are carried on by the name that their clients ask for, with TLS as it is: it ends at the server.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::config::Passthrough;
use crate::share::Shares;
use crate::wire::client_hello::{self, Hello};

/// Where which names go.
#[derive(Debug)]
pub(in crate::listener) struct Names {
    exact: HashMap<Box<str>, Arc<Goals>>,
    /// By what follows the `*`, its dot included.
    below: HashMap<Box<str>, Arc<Goals>>,
}

/// The upstreams of one entry.
type Goals = Shares<Arc<str>>;

/// Whom the first message of a client asks for.
pub(in crate::listener) enum Asked {
    /// Somebody behind this upstream.
    Elsewhere(Box<str>, Arc<str>),
    /// Somebody here.
    Here,
}

impl Names {
    /// `None` where there are none.
    pub(super) fn new(said: &[Passthrough]) -> Option<Self> {
        let mut names = Self { exact: HashMap::new(), below: HashMap::new() };
        for Passthrough { names: of_one, upstream } in said {
            let Some(goals) = Shares::of(upstream).map(Arc::new) else { continue };
            for name in of_one {
                match name.strip_prefix('*') {
                    Some(below) => names.below.insert(below.into(), Arc::clone(&goals)),
                    None => names.exact.insert(name.as_str().into(), Arc::clone(&goals)),
                };
            }
        }
        (!said.is_empty()).then_some(names)
    }

    /// The upstream of a name in lower case, one by chance where it has several: the rule that says more of it goes first.
    fn find(&self, name: &str) -> Option<&Arc<str>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let ends = name.match_indices('.').map(|(dot, _)| &name[dot..]);
        let found = self.exact.get(name).or_else(|| ends.filter_map(|end| self.below.get(end)).next());
        found.map(|goals| goals.draw())
    }

    /// Reads the first message, and leaves every byte in `held`; `None` when the client has gone before its end.
    pub(in crate::listener) async fn read(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        held: &mut BytesMut,
    ) -> Option<Asked> {
        loop {
            match client_hello::read(held) {
                Hello::For(name) => {
                    let found = self.find(&name).cloned();
                    return Some(found.map_or(Asked::Here, |upstream| Asked::Elsewhere(name, upstream)));
                }
                Hello::ForNobody => return Some(Asked::Here),
                Hello::Incomplete => {}
            }
            held.reserve(2048);
            if !matches!(stream.read_buf(held).await, Ok(1..)) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_goes_before_a_longer_wildcard_and_that_before_a_shorter_one() {
        let said = [("a.test", "a"), ("*.test", "any"), ("*.b.test", "b")];
        let said = said.map(|(name, upstream)| Passthrough { names: vec![name.to_owned()], upstream: upstream.into() });
        let names = Names::new(&said).unwrap();
        let find = |name: &str| names.find(name).map(|upstream| &**upstream);
        for (name, expected) in [
            ("a.test", Some("a")),
            ("a.test.", Some("a")),
            ("x.a.test", Some("any")),
            ("x.b.test", Some("b")),
            ("x.y.b.test", Some("b")),
            ("b.test", Some("any")),
            ("test", None),
            ("a.example", None),
        ] {
            assert_eq!(find(name), expected, "{name}");
        }
        assert!(Names::new(&[]).is_none());
        let said = r#"{"names": ["a.test"], "upstream": [{"name": "a", "weight": 0}, {"name": "b"}, {"name": "c"}]}"#;
        let names = Names::new(&[serde_json::from_str(said).unwrap()]).unwrap();
        let drawn: std::collections::BTreeSet<_> = (0..100).filter_map(|_| names.find("a.test")).collect();
        assert!(drawn.iter().map(|name| &***name).eq(["b", "c"]), "{drawn:?}");
    }
}
