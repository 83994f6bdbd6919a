//! What is allowed but hardly meant: a name for each, by which it can be silenced, and why it is told at all.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::fault::nearest;

/// `lint`: what of it stays silent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names of warnings that are not told. Default: all are.
    pub allow: Vec<Lint>,
}

macro_rules! lints {
    ($($lint:ident $name:literal $why:literal)*) => {
        /// One thing that is warned of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Lint {
            $(#[doc = $why] $lint,)*
        }

        impl Lint {
            /// All of them, in the order of their names.
            pub const ALL: &[Self] = &[$(Self::$lint,)*];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$lint => $name,)*
                }
            }

            /// Why it is told.
            pub const fn why(self) -> &'static str {
                match self {
                    $(Self::$lint => $why,)*
                }
            }
        }
    };
}

lints! {
    AddressesOverlap "addresses-overlap"
        "Two listeners want one port, one of them at every address: the system may refuse to bind both."
    AllServersDrain "all-servers-drain"
        "Every server of an upstream drains, so that new work goes to them all the same."
    AuthorityNotUsed "authority-not-used"
        "`ca` is given, and `verify: false` beside it: nothing is verified against it."
    CertificateEarly "certificate-early"
        "A certificate, or a list or answer beside one, is not valid yet."
    CertificateEnds "certificate-ends"
        "A certificate, or a list or answer beside one, ends soon: within 14 days, or the last quarter of a short life."
    CertificateExpired "certificate-expired"
        "A certificate, or a list or answer beside one, has expired."
    CertificateHost "certificate-host"
        "A route is for a host that no certificate of its listeners is for: browsers refuse to go there."
    ConnectTimeoutLong "connect-timeout-long"
        "A server that is gone is waited for that long before another one is tried; 5s will do."
    DelayOverDeadline "delay-over-deadline"
        "`drain.delay` takes all the time that `drain.deadline` leaves: all is cut before anything could leave."
    DrainWithoutPace "drain-without-pace"
        "A pace is said for goodbyes that `goodbye: false` forbids."
    FileLimit "file-limit"
        "More connections are allowed than the limit of open files lets in; each takes two."
    FilesFolder "files-folder"
        "The folder whose files a route serves is not there: every request is answered 404."
    FlashPolicyEmpty "flash-policy-empty"
        "The policy lets no Flash player in."
    FlashPolicyUnused "flash-policy-unused"
        "A policy is said that no listener answers with."
    HashUnused "hash-unused"
        "Values are named to hash that the balance does not look at: that takes `balance: client_ip`."
    HeadTimeoutOff "head-timeout-off"
        "Without a limit for heads, clients that send one byte by byte hold their connections for ever."
    HealthTimeoutLong "health-timeout-long"
        "A check may take longer than the time from one to the next: a server that hangs is asked less often than said."
    KeysInPlain "keys-in-plain"
        "The keys that tokens are verified with come by plain http: whoever stands between can bring others."
    LogFileUnused "log-file-unused"
        "A file is named for a log whose `format` is `off`."
    NoRoutes "no-routes"
        "There are no routes: every HTTP request is answered 404."
    NobodysTraces "nobodys-traces"
        "Traces of trusted proxies are to be gone on with, and no proxy is trusted."
    OneServer "one-server"
        "An upstream has one server, on another host: when that is down, or a new version comes, nobody is served."
    OverBeyondDeadline "over-beyond-deadline"
        "Goodbyes are to be spread over more time than `drain.deadline` leaves."
    PeersUnused "peers-unused"
        "Peers are named where there are no sessions, or a secret for them where there are none."
    PingTimeoutUnused "ping-timeout-unused"
        "`ping_timeout` is said, and nobody is asked: that takes `ping_interval`."
    QuestionUnused "question-unused"
        "Servers are to be asked for sessions, and there is only one."
    QueueUnused "queue-unused"
        "Nothing ever waits in the queue: no server has `max_connections`."
    ReadableByOthers "readable-by-others"
        "A key or another secret stands in a file that every user of the machine can read."
    RedirectToItself "redirect-to-itself"
        "A redirect sends clients of a listener to where they are."
    ServerLeftOut "server-left-out"
        "An entry in a file of servers is none, and is left out."
    SessionRateUnused "session-rate-unused"
        "Something is said of how new sessions wait, and none ever does: that takes `rate`."
    SessionsStay "sessions-stay"
        "Nothing tells the sessions of a server that drains to leave, so that they stay for as long as they like."
    SessionsUnknown "sessions-unknown"
        "A path at which sessions are usually opened leads to an upstream whose `kind` knows of none: polls of one \
         session go to any server."
    StapleUnused "staple-unused"
        "The OCSP response that is named is not one for the certificate: nothing is stapled."
    TimeoutUnderHeartbeat "timeout-under-heartbeat"
        "A time is shorter than the pauses between two heartbeats: sessions that live are cut."
    TokensInPlain "tokens-in-plain"
        "Tokens for the admin address pass without TLS: whoever sees one has it."
    TraceHeadersInPlain "trace-headers-in-plain"
        "What tells a collector who sends spans passes by plain http: whoever sees it can send others."
    TrustsEverybody "trusts-everybody"
        "Every address counts as a trusted proxy: any client can then claim any address."
    UpstreamUnused "upstream-unused"
        "No route and no listener leads to an upstream."
    UriOverHead "uri-over-head"
        "The limit of URIs is above that of heads, which holds before."
    ZoneUnused "zone-unused"
        "Servers have zones, and the gateway has none of its own at the top level."
}

impl FromStr for Lint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(found) = Self::ALL.iter().find(|lint| lint.as_str() == text) {
            return Ok(*found);
        }
        let hint = match nearest(text, Self::ALL.iter().map(|lint| lint.as_str())) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "expected the name of one, which stands in [ ] behind it".to_owned(),
        };
        Err(format!("unknown warning `{text}`, {hint}"))
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Lint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Lint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_read_as_they_are_written() {
        assert!(Lint::ALL.windows(2).all(|two| two[0].as_str() < two[1].as_str()));
        for lint in Lint::ALL {
            assert_eq!(lint.to_string().parse(), Ok(*lint));
            let kebab = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(lint.as_str().bytes().all(kebab) && lint.why().ends_with('.'), "{lint}");
        }
    }

    /// The page has every name with the words that are here, in the same order, and none besides.
    #[test]
    fn the_page_lists_them_all() {
        let page = include_str!("../../docs/lint.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = Lint::ALL.iter().map(|lint| format!("| `{lint}` | {} |", lint.why())).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        let fault = "one-servers".parse::<Lint>().unwrap_err();
        assert_eq!(fault, "unknown warning `one-servers`, did you mean `one-server`?");
        assert!("colour".parse::<Lint>().unwrap_err().contains("expected the name"));
    }
}
