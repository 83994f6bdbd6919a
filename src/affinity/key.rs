//! What a request says that its client can be known by, in place of its address.

use std::borrow::Cow;
use std::hash::Hasher;
use std::sync::Arc;

use fnv::FnvHasher;

use crate::filter::Expression;
use crate::request::Request;

/// The part of a request that requests of one kind have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The first header field of this name, in lower case.
    Header(Box<str>),
    /// The first parameter of the query of this name, as sent.
    Query(Box<str>),
    /// The first cookie of this name.
    Cookie(Box<str>),
    /// What an expression gives.
    Computed(Arc<Expression>),
}

/// What the request says there; `None` if that is nothing or empty.
pub fn value<'a>(request: &Request<'a>, by: &By) -> Option<Cow<'a, [u8]>> {
    let value = match by {
        By::Header(name) => request.headers.get(name).map(Cow::Borrowed),
        By::Query(name) => request.query_value(name).map(|value| value.as_bytes().into()),
        By::Cookie(name) => request.cookie(name).map(|value| value.as_bytes().into()),
        By::Computed(expression) => {
            expression.value(request, &request.path.canonical).map(|text| text.into_bytes().into())
        }
    };
    value.filter(|value| !value.is_empty())
}

/// A hash that is the same in every build and on every machine, so that gateways agree on where a value belongs: FNV-1a,
/// its bits mixed as MurmurHash3 does.
pub fn stable_hash(value: &[u8]) -> u64 {
    let mut fnv = FnvHasher::default();
    fnv.write(value);
    let mut hash = fnv.finish();
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::request;

    #[test]
    fn requests_are_known_by_a_header_a_parameter_or_a_cookie() {
        let fields = [
            httparse::Header { name: "X-Tenant", value: b"acme" },
            httparse::Header { name: "x-empty", value: b"" },
            httparse::Header { name: "Cookie", value: b"id=7; none=" },
        ];
        let request = request("GET", "/?room=a%20b&none=", &fields);
        let value = |by| value(&request, &by);
        assert_eq!(value(By::Header("x-tenant".into())).unwrap(), &b"acme"[..]);
        assert_eq!(value(By::Query("room".into())).unwrap(), &b"a%20b"[..]);
        assert_eq!(value(By::Cookie("id".into())).unwrap(), &b"7"[..]);
        let computed = |text| value(By::Computed(Arc::new(Expression::compile_value(text).unwrap())));
        assert_eq!(computed("request.headers['x-tenant'] + '/' + request.query.room").unwrap(), &b"acme/a%20b"[..]);
        assert_eq!(computed("request.query.other"), None);
        for absent in ["x-empty", "x-other"] {
            assert_eq!(value(By::Header(absent.into())), None);
        }
        for absent in ["none", "other"] {
            assert_eq!((value(By::Query(absent.into())), value(By::Cookie(absent.into()))), (None, None));
        }
    }

    #[test]
    fn the_stable_hash_stays_what_it_is() {
        for (value, hash) in
            [("", 0xefd0_1f60_ba99_2926), ("acme", 0x3a25_b665_6ba9_cfc6), ("room-1", 0x656b_b5e5_6c35_0c3f)]
        {
            assert_eq!(stable_hash(value.as_bytes()), hash, "{value}");
        }
    }

    #[test]
    fn the_stable_hash_spreads_values_that_are_alike() {
        let mut buckets = [0; 16];
        for room in 0..16_000 {
            buckets[(stable_hash(format!("room-{room}").as_bytes()) >> 60) as usize] += 1;
        }
        assert!(buckets.iter().all(|bucket| (850..1150).contains(bucket)), "{buckets:?}");
    }
}
