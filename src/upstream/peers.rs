//! Other gateways before the same app, each with servers of its own: how they are known from strangers, and how they are asked
//! which of them has a session.
//!
//! To a gateway its peers are an upstream ([`Config::of_peers`](super::Config)) whose servers are gateways. Sessions that live
//! behind one of them are remembered there, and so are counted, placed and let go nowhere here.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use rand::Rng;

use super::Upstream;
use crate::request::{Headers, Request};
use crate::session::{
    Answered, Arrival, Departure, Goodbye, Known, LastMessage, LastWords, Question, SessionProtocol, SessionRequest,
};
use crate::wire::peer::{Mark, Sealed};

/// Who this gateway is among its peers, and by what it knows them.
pub(crate) struct Peering {
    identity: u128,
    /// The first seals, each one opens; none where the address tells.
    secrets: Vec<hmac::Key>,
}

/// What a gateway answers that is asked for a session: it has it.
pub(crate) const KNOWN: &str = "sockgate: known";
/// None of its servers has it.
pub(crate) const UNKNOWN: &str = "sockgate: unknown";
/// It could not find out.
pub(crate) const UNSURE: &str = "sockgate: unsure";
/// It is the one that asks.
pub(crate) const OWN: &str = "sockgate: own";

/// The shortest secret that can't be tried out, in characters.
const SHORTEST: usize = 32;
/// How far apart clocks may be.
const APART: u64 = 300;

impl Peering {
    /// For one process; `secrets` is the file of what all gateways know.
    ///
    /// # Errors
    /// Why that can't be used.
    pub(crate) fn new(identity: u128, secrets: Option<&Path>) -> Result<Self, String> {
        let Some(file) = secrets else { return Ok(Self { identity, secrets: Vec::new() }) };
        let fault = |what: String| format!("peers.secret_file: {}: {what}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| fault(format!("can't be read: {error}")))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let secrets: Vec<&str> = lines.collect();
        if secrets.is_empty() || secrets.iter().any(|secret| secret.len() < SHORTEST) {
            return Err(fault(format!(
                "expected a secret of {SHORTEST} or more characters in each line, such as `openssl rand -hex 32` makes"
            )));
        }
        let secrets = secrets.into_iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
        Ok(Self { identity, secrets: secrets.collect() })
    }

    /// Who this process is.
    pub(crate) fn identity(&self) -> u128 {
        self.identity
    }

    /// The field of a request for this target that says this.
    pub(crate) fn seal(&self, mark: &Mark, target: &str) -> String {
        let mut field = mark.write();
        let seal = self.secrets.first().map(|key| hmac::sign(key, &sealed(&field, target)));
        field.push(' ');
        match seal {
            Some(seal) => seal.as_ref().iter().for_each(|byte| field.push_str(&format!("{byte:02x}"))),
            None => field.push('-'),
        }
        field
    }

    /// What the field of a request says that comes from this address; `None` where it is not to be believed. Where there is
    /// no secret, `is_peer` says whose address it is.
    pub(crate) fn open(
        &self,
        field: &[u8],
        target: &str,
        from: IpAddr,
        is_peer: impl FnOnce(IpAddr) -> bool,
    ) -> Option<Mark> {
        let Sealed { mark, text, seal } = Sealed::read(field)?;
        if self.secrets.is_empty() {
            return (seal == "-" && is_peer(from.to_canonical())).then_some(mark);
        }
        let tag = bytes_of(seal)?;
        let message = sealed(text, target);
        let is_good = self.secrets.iter().any(|key| hmac::verify(key, &message, &tag).is_ok());
        (is_good && now().abs_diff(mark.at) <= APART).then_some(mark)
    }
}

/// A number that no other process has.
pub(crate) fn new_identity() -> u128 {
    rand::rng().random()
}

/// Seconds of Unix time.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn sealed(text: &str, target: &str) -> Vec<u8> {
    [text.as_bytes(), b" ", target.as_bytes()].concat()
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let two = |at| digits.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    digits.len().is_multiple_of(2).then(|| (0..digits.len()).step_by(2).map(two).collect())?
}

impl Upstream {
    /// Whether its servers are gateways, the peers of another upstream.
    pub(crate) fn are_peers(&self) -> bool {
        self.config.are_peers
    }

    /// Whether a server of it has this address.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.all_servers()
            .iter()
            .any(|server| server.addresses().iter().any(|known| known.ip().to_canonical() == address))
    }
}

/// The protocol of sessions behind peers: as their servers speak it, and nothing of it is begun, asked or ended from here.
pub(super) struct AtPeers(pub(super) Arc<dyn SessionProtocol>);

impl SessionProtocol for AtPeers {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        self.0.read(request)
    }

    fn answered(&self, dialect: u64, status: u16, headers: Headers<'_>) -> Answered {
        self.0.answered(dialect, status, headers)
    }

    fn is_client_goodbye(&self, dialect: u64, body: &[u8]) -> bool {
        self.0.is_client_goodbye(dialect, body)
    }

    fn is_server_goodbye(&self, dialect: u64, end: &[u8], whole: bool) -> bool {
        self.0.is_server_goodbye(dialect, end, whole)
    }

    fn arrival(&self, dialect: u64) -> Arrival {
        self.0.arrival(dialect)
    }

    fn clients_make_ids(&self) -> bool {
        self.0.clients_make_ids()
    }

    fn unseen_life(&self) -> Duration {
        self.0.unseen_life()
    }

    /// What gateways say; the question itself is made where the request is known.
    fn is_known(&self, _dialect: u64, _question: &Question, status: u16, body: &[u8]) -> Known {
        match body {
            _ if status != 200 => Known::Untold,
            body if body == KNOWN.as_bytes() => Known::Yes,
            body if body == UNKNOWN.as_bytes() || body == OWN.as_bytes() => Known::No,
            _ => Known::Untold,
        }
    }

    fn is_usual_path(&self, path: &str) -> bool {
        self.0.is_usual_path(path)
    }

    fn path_of_sessions<'p>(&self, path: &'p str) -> &'p str {
        self.0.path_of_sessions(path)
    }

    fn goodbye(&self, dialect: u64, request: &Request<'_>) -> Option<Goodbye> {
        self.0.goodbye(dialect, request)
    }

    fn says_goodbye(&self, dialect: u64, request: &Request<'_>) -> bool {
        self.0.says_goodbye(dialect, request)
    }

    fn last_words(&self, dialect: u64) -> Option<LastWords> {
        self.0.last_words(dialect)
    }

    fn last_message(&self, dialect: u64) -> Option<LastMessage> {
        self.0.last_message(dialect)
    }

    fn departure(&self) -> Departure {
        self.0.departure()
    }

    fn over(&self, dialect: u64) -> Option<Goodbye> {
        self.0.over(dialect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark {
            from: 1,
            at: now(),
            client: "192.0.2.1:4711".parse().unwrap(),
            port: 80,
            listener: "web".to_owned(),
            tls: None,
            server_name: None,
            request_id: String::new(),
            asks: None,
        }
    }

    fn with_secret(folder: &tempfile::TempDir, text: &str) -> Result<Peering, String> {
        let file = folder.path().join("secret");
        std::fs::write(&file, text).unwrap();
        Peering::new(1, Some(&file))
    }

    #[test]
    fn a_seal_opens_with_the_secret_for_its_target_and_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = ("n".repeat(32), "o".repeat(32));
        let ours = with_secret(&folder, &format!("{new}\n{old}\n")).unwrap();
        let theirs = with_secret(&folder, &old).unwrap();
        let from = "10.0.0.9".parse().unwrap();
        let field = theirs.seal(&mark(), "/a");
        let nobody = |_| panic!("the address is not asked for");
        assert!(ours.open(field.as_bytes(), "/a", from, nobody).is_some());
        assert!(ours.open(field.as_bytes(), "/b", from, nobody).is_none(), "for another target");
        assert!(theirs.open(ours.seal(&mark(), "/a").as_bytes(), "/a", from, nobody).is_none(), "by a secret unknown");
        let late = Mark { at: now() - APART - 5, ..mark() };
        assert!(ours.open(theirs.seal(&late, "/a").as_bytes(), "/a", from, nobody).is_none(), "too old");
        let unsealed = Peering::new(1, None).unwrap().seal(&mark(), "/a");
        assert!(ours.open(unsealed.as_bytes(), "/a", from, nobody).is_none(), "without a seal");
    }

    #[test]
    fn without_a_secret_the_address_tells() {
        let peering = Peering::new(1, None).unwrap();
        let field = peering.seal(&mark(), "/a");
        let open =
            |from: &str| peering.open(field.as_bytes(), "/a", from.parse().unwrap(), |ip| ip.to_string() == "10.0.0.1");
        assert_eq!((open("::ffff:10.0.0.1").is_some(), open("10.0.0.2").is_some()), (true, false));
    }

    #[test]
    fn a_secret_that_can_be_tried_out_is_refused_and_not_told() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "\n \n", "short", &format!("{}\nshort", "n".repeat(32))] {
            let fault = with_secret(&folder, text).err().unwrap();
            assert!(fault.contains("expected a secret") && !fault.contains("short\""), "{fault}");
        }
    }
}
