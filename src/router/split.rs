//! Several goals behind one route, each with its share: of the clients, each of which stays on its side, or of the requests.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use siphasher::sip::SipHasher13;

use super::config::{self, Share, SplitBy, Upstreams};
use crate::address::standing_for;
use crate::request::Request;
use crate::share::Shares;

/// The compiled form of an `upstream` that is a list.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    sides: Shares<Side>,
    by: SplitBy,
    /// Tells routes apart, so that clients who meet the new version of one app do not meet that of every other.
    salt: Box<str>,
    /// The cookie that clients are given, if they are.
    cookie: Option<Box<str>>,
}

/// What becomes of the requests of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// They are carried to the upstream of this name.
    Upstream(Arc<str>),
    /// They are answered here, with this status.
    Respond(u16),
}

/// One of them.
#[derive(Clone, Debug)]
struct Side {
    goal: Goal,
    /// What the cookie says of it.
    word: Box<str>,
}

impl Side {
    fn new(share: &Share) -> Self {
        let goal = match share.respond {
            Some(status) => Goal::Respond(status),
            None => Goal::Upstream(share.name.as_deref().unwrap_or_default().into()),
        };
        // No upstream has a name with a space, which is in the words for an answer.
        Self { goal, word: format!("{:016x}", hash(share.to_string().as_bytes())).into() }
    }

    fn upstream(&self) -> Option<&str> {
        match &self.goal {
            Goal::Upstream(name) => Some(name),
            Goal::Respond(_) => None,
        }
    }
}

impl Split {
    /// Compiles what has been checked already; `None` where there is but one upstream.
    pub(super) fn build(route: &str, goals: &Upstreams, said: &config::Split) -> Option<Self> {
        if goals.0.len() < 2 && goals.first().is_some() {
            return None;
        }
        let sides = Shares::new(goals.0.iter().map(|share| (Side::new(share), share.weight)))?;
        Some(Self { sides, by: said.by, salt: route.into(), cookie: said.cookie.as_deref().map(Into::into) })
    }

    /// Where a request goes: to the upstream where its session lives, or to the side that its client's cookie names, or to the
    /// client's own, or by chance; and the cookie that says so, where the client has to be given one.
    pub(crate) fn choose(
        &self,
        request: &Request<'_>,
        lives_in: impl Fn(&str) -> bool,
    ) -> (&Goal, Option<HeaderValue>) {
        let said = self.cookie.as_ref().and_then(|name| request.cookie(name));
        let side = self.sides.all().find(|side| side.upstream().is_some_and(&lives_in));
        let side = side.or_else(|| self.sides.live().find(|side| said == Some(&*side.word)));
        let side = side.unwrap_or_else(|| self.next(request.client));
        let is_told = said == Some(&*side.word);
        (&side.goal, self.cookie.as_ref().filter(|_| !is_told).and_then(|name| given(name, side, request)))
    }

    /// With a cookie, clients behind one address are told apart by chance, too.
    fn next(&self, client: IpAddr) -> &Side {
        if self.by == SplitBy::Request || self.cookie.is_some() {
            return self.sides.draw();
        }
        let client = match standing_for(client) {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        self.sides.at(hash(&[self.salt.as_bytes(), &client].concat()))
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
        let said = config::Split { cookie: cookie.map(str::to_owned), ..config::Split::default() };
        Split::build("all", &serde_json::from_str(json).unwrap(), &said).unwrap()
    }

    fn told(goal: &Goal) -> String {
        match goal {
            Goal::Upstream(name) => name.to_string(),
            Goal::Respond(status) => status.to_string(),
        }
    }

    fn sides(split: &Split) -> Vec<String> {
        let of = |n: u16| {
            let client = IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
            let request = Request { client, ..request("GET", "/", &[]) };
            told(split.choose(&request, |_| false).0)
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
    fn requests_of_one_client_are_shared_out_where_they_are_what_is_shared() {
        let goals =
            serde_json::from_str(r#"[{"name": "a", "weight": 3}, {"name": "b"}, {"name": "old", "weight": 0}]"#);
        let by_request = config::Split { by: SplitBy::Request, cookie: None };
        let split = Split::build("all", &goals.unwrap(), &by_request).unwrap();
        let plain = request("GET", "/", &[]);
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for _ in 0..2000 {
            *counts.entry(told(split.choose(&plain, |_| false).0)).or_default() += 1;
        }
        assert!(counts.len() == 2 && (380..620).contains(&counts["b"]), "{counts:?}");
        assert!((0..20).all(|_| told(split.choose(&plain, |name| name == "old").0) == "old"), "sessions stay");
    }

    #[test]
    fn two_networks_of_one_client_are_one_client() {
        let split = split(r#"[{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]"#, None);
        let side = |client: &str| {
            let request = Request { client: client.parse().unwrap(), ..request("GET", "/", &[]) };
            told(split.choose(&request, |_| false).0)
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
            assert_eq!(again, (side, None), "the client is told once");
        }
        let (home, cookie) = split.choose(&request("GET", "/", &field), |name| name == "old");
        assert_eq!(told(home), "old", "a session is where it is, whatever its side gets");
        assert!(cookie.is_some());
        let word = format!("side={}", split.sides.all().nth(2).unwrap().word);
        let old = [httparse::Header { name: "Cookie", value: word.as_bytes() }];
        assert_ne!(told(split.choose(&request("GET", "/", &old), |_| false).0), "old", "nobody new is sent there");
    }

    #[test]
    fn a_share_may_be_answered_here_unless_a_session_lives_elsewhere() {
        let some = split(r#"[{"name": "app", "weight": 9}, {"respond": 503, "weight": 1}]"#, None);
        let faults = sides(&some).iter().filter(|side| *side == "503").count();
        assert!((120..280).contains(&faults), "{faults}");
        let most = split(r#"[{"name": "app", "weight": 0}, {"respond": 503}]"#, Some("side"));
        let (goal, cookie) = most.choose(&request("GET", "/", &[]), |_| false);
        assert!(*goal == Goal::Respond(503) && cookie.is_some());
        assert_eq!(told(most.choose(&request("GET", "/", &[]), |name| name == "app").0), "app");
        let all = split(r#"[{"respond": 500}]"#, None);
        assert!(sides(&all).iter().all(|side| side == "500"));
    }
}
