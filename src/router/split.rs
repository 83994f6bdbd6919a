//! Several upstreams behind one route, each with its share of the clients: a client stays on its side.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use rand::Rng;
use siphasher::sip::SipHasher13;

use super::config::Upstreams;
use crate::address::standing_for;
use crate::request::Request;

/// The compiled form of an `upstream` that is a list.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    sides: Vec<Side>,
    /// All weights together.
    total: u64,
    /// Tells routes apart, so that clients who meet the new version of one app do not meet that of every other.
    salt: Box<str>,
    /// The cookie that clients are given, if they are.
    cookie: Option<Box<str>>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Side {
    upstream: Arc<str>,
    /// The weights up to this one.
    upto: u64,
    /// What the cookie says of it.
    word: Box<str>,
}

impl Split {
    /// Compiles what has been checked already; `None` where there is but one.
    pub(super) fn build(route: &str, said: &Upstreams, cookie: Option<&str>) -> Option<Self> {
        if said.0.len() < 2 {
            return None;
        }
        let mut total = 0;
        let side = |share: &super::config::Share| {
            total += u64::from(share.weight);
            let word = format!("{:016x}", hash(share.name.as_bytes())).into();
            Side { upstream: share.name.as_str().into(), upto: total, word }
        };
        let sides = said.0.iter().map(side).collect();
        Some(Self { sides, total, salt: route.into(), cookie: cookie.map(Into::into) })
    }

    /// The upstream that a request goes to: the one where its session lives, or the one that its client's cookie names, or
    /// the client's own; and the cookie that says so, where the client has to be given one.
    pub(crate) fn choose(
        &self,
        request: &Request<'_>,
        lives_in: impl Fn(&str) -> bool,
    ) -> (Arc<str>, Option<HeaderValue>) {
        let said = self.cookie.as_ref().and_then(|name| request.cookie(name));
        let side = self.sides.iter().find(|side| lives_in(&side.upstream));
        let side = side.or_else(|| self.live().find(|side| said == Some(&*side.word)));
        let side = side.unwrap_or_else(|| self.side_at(self.point(request.client)));
        let is_told = said == Some(&*side.word);
        (
            Arc::clone(&side.upstream),
            self.cookie.as_ref().filter(|_| !is_told).and_then(|name| given(name, side, request)),
        )
    }

    /// Those that are given new clients.
    fn live(&self) -> impl Iterator<Item = &Side> {
        let mut before = 0;
        self.sides.iter().filter(move |side| side.upto > std::mem::replace(&mut before, side.upto))
    }

    /// With a cookie, clients behind one address are told apart by chance.
    fn point(&self, client: IpAddr) -> u64 {
        if self.cookie.is_some() {
            return rand::rng().random_range(0..self.total.max(1));
        }
        let client = match standing_for(client) {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        hash(&[self.salt.as_bytes(), &client].concat()) % self.total.max(1)
    }

    fn side_at(&self, point: u64) -> &Side {
        self.sides.iter().find(|side| point < side.upto).unwrap_or(&self.sides[0])
    }
}

/// The same in every process and on every machine, so that gateways agree on where clients go.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

fn given(name: &str, side: &Side, request: &Request<'_>) -> Option<HeaderValue> {
    let secure = if request.secure { "; Secure" } else { "" };
    HeaderValue::try_from(format!("{name}={}; Path=/; HttpOnly; SameSite=Lax{secure}", side.word)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::request;

    fn split(json: &str, cookie: Option<&str>) -> Split {
        Split::build("all", &serde_json::from_str(json).unwrap(), cookie).unwrap()
    }

    fn sides(split: &Split) -> Vec<String> {
        let of = |n: u16| {
            let client = IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
            let request = Request { client, ..request("GET", "/", &[]) };
            split.choose(&request, |_| false).0.to_string()
        };
        (0..2000).map(of).collect()
    }

    #[test]
    fn each_side_gets_its_share_and_a_client_stays_on_its_side() {
        let few = split(r#"[{"name": "stable", "weight": 90}, {"name": "canary", "weight": 10}]"#, None);
        let first = sides(&few);
        assert_eq!(first, sides(&few));
        let canary = first.iter().filter(|side| *side == "canary").count();
        assert!((120..280).contains(&canary), "{canary}");
        // Clients move one way only where a share grows.
        let more = split(r#"[{"name": "stable", "weight": 70}, {"name": "canary", "weight": 30}]"#, None);
        let second = sides(&more);
        assert!(first.iter().zip(&second).all(|(first, second)| first == second || second == "canary"));
        assert!(second.iter().filter(|side| *side == "canary").count() > 2 * canary);
        let none = split(r#"[{"name": "stable", "weight": 1}, {"name": "canary", "weight": 0}]"#, None);
        assert!(sides(&none).iter().all(|side| side == "stable"));
    }

    #[test]
    fn two_networks_of_one_client_are_one_client() {
        let split = split(r#"[{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]"#, None);
        let side = |client: &str| {
            let request = Request { client: client.parse().unwrap(), ..request("GET", "/", &[]) };
            split.choose(&request, |_| false).0
        };
        for network in 0..50 {
            let (one, other) = (format!("2001:db8:0:{network}::1"), format!("2001:db8:0:{network}:8000::2"));
            assert_eq!(side(&one), side(&other));
        }
    }

    #[test]
    fn a_session_comes_before_a_cookie_and_a_cookie_before_chance() {
        let split = split(
            r#"[{"name": "a", "weight": 1}, {"name": "b", "weight": 1}, {"name": "old", "weight": 0}]"#,
            Some("side"),
        );
        let plain = request("GET", "/", &[]);
        let (side, cookie) = split.choose(&plain, |_| false);
        let cookie = cookie.unwrap().to_str().unwrap().to_owned();
        let (pair, rest) = cookie.split_once(';').unwrap();
        assert_eq!(rest, " Path=/; HttpOnly; SameSite=Lax");
        let field = [httparse::Header { name: "Cookie", value: pair.as_bytes() }];
        for _ in 0..20 {
            let again = split.choose(&request("GET", "/", &field), |_| false);
            assert_eq!(again, (Arc::clone(&side), None), "the client is told once");
        }
        let (home, told) = split.choose(&request("GET", "/", &field), |name| name == "old");
        assert_eq!(&*home, "old", "a session is where it is, whatever its side gets");
        assert!(told.is_some());
        let word = format!("side={}", split.sides[2].word);
        let old = [httparse::Header { name: "Cookie", value: word.as_bytes() }];
        assert_ne!(&*split.choose(&request("GET", "/", &old), |_| false).0, "old", "nobody new is sent there");
    }
}
