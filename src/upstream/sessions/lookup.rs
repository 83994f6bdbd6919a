//! Asks a server whether it knows a session, by a question that changes nothing there, whatever the answer.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::http::client::{Answer, ask};
use crate::http::write::HeadWriter;
use crate::session::{Known, Question};
use crate::text::Text;
use crate::transport::Transport;
use crate::transport::shortage::is_shortage;
use crate::upstream::peers::OWN;
use crate::upstream::{Endpoint, Server, Upstream};

/// Names and values that say who asks.
pub(crate) type Fields = Vec<(Box<str>, Vec<u8>)>;

/// What servers are asked for one session.
#[derive(Debug)]
pub(crate) struct Questions {
    /// Whether they know it.
    pub(crate) about: Question,
    /// The same of a session that nobody has: who knows that one, too, can't be believed.
    pub(crate) decoy: Question,
    /// What says who asks, as it would go with the client's own request.
    pub(crate) fields: Fields,
}

/// What a server says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Testimony {
    Yes,
    No,
    /// Its answer doesn't tell.
    Untold,
    /// There was none.
    Silence,
    /// It could not be asked, since this machine lacks something; that is no word of the server's.
    Shortage,
}

/// A server as one that is asked: its places, the connections that are kept for it, and what its word is worth.
pub(super) struct Witness {
    places: Semaphore,
    kept: Mutex<Kept>,
    character: Mutex<Character>,
}

#[derive(Default)]
struct Kept {
    connections: Vec<(Transport, Option<Endpoint>, Instant)>,
    /// Somebody closes those that nobody needs.
    swept: bool,
}

#[derive(Default)]
struct Character {
    /// Questions in a row that it did not answer.
    silences: u32,
    /// Until when it isn't asked for that.
    quiet_until: Option<Instant>,
    /// Whether it can be believed, and when that was found out.
    honest: Option<(bool, Instant)>,
    /// When it was found out that it is this very gateway.
    own: Option<Instant>,
}

/// Longest time that one server takes over one question.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for another gateway, which may have to ask its servers.
const PATIENCE_WITH_PEERS: Duration = Duration::from_secs(2);
/// Time from one try to the next where this machine lacks something.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
/// How much of an answer is looked at: the objection is a short text.
const MOST_BODY: usize = 64 * 1024;
/// Questions to one server at once.
const PLACES: usize = 32;
/// Silences in a row after which a server has a rest from questions, and how long.
const SILENCES: u32 = 3;
const REST: Duration = Duration::from_secs(1);
/// How long it is believed that a server can, or can't, be believed.
const REPUTATION: Duration = Duration::from_secs(60);
/// How long a connection is kept where the upstream says nothing of it.
const KEEP: Duration = Duration::from_secs(4);

impl Witness {
    pub(super) fn new() -> Self {
        Self { places: Semaphore::new(PLACES), kept: Mutex::default(), character: Mutex::default() }
    }

    /// A place for one question, once it may be asked anything.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        loop {
            let quiet = self.character().quiet_until;
            if let Some(until) = quiet.filter(|until| *until > Instant::now()) {
                sleep_until(until).await;
            }
            let place = self.places.acquire().await.ok()?;
            if !self.is_silent() {
                return Some(place);
            }
        }
    }

    /// Whether it has not answered lately.
    pub(super) fn is_silent(&self) -> bool {
        self.character().quiet_until.is_some_and(|until| until > Instant::now())
    }

    /// Whether the last question to it went without an answer.
    pub(super) fn fell_silent(&self) -> bool {
        self.character().silences > 0
    }

    /// Whether it is this very gateway, which has been asked already.
    pub(super) fn is_own(&self) -> bool {
        self.character().own.is_some_and(|since| since.elapsed() < REPUTATION)
    }

    fn heard(&self, anything: bool) {
        let mut character = self.character();
        character.silences = if anything { 0 } else { character.silences.saturating_add(1) };
        character.quiet_until = (character.silences >= SILENCES).then(|| Instant::now() + REST);
    }

    fn reputation(&self) -> Option<bool> {
        let (honest, since) = self.character().honest?;
        (since.elapsed() < REPUTATION).then_some(honest)
    }

    fn take(&self, endpoint: &Option<Endpoint>, keep: Duration) -> Option<Transport> {
        let mut kept = self.kept();
        while let Some((connection, to, since)) = kept.connections.pop() {
            if to == *endpoint && since.elapsed() < keep {
                return Some(connection);
            }
        }
        None
    }

    fn keep(self: &Arc<Self>, connection: Transport, to: Option<Endpoint>, keep: Duration) {
        let mut kept = self.kept();
        kept.connections.push((connection, to, Instant::now()));
        if !std::mem::replace(&mut kept.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), keep));
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn character(&self) -> MutexGuard<'_, Character> {
        self.character.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that have been kept for long enough, until there are none.
async fn sweep(witness: Weak<Witness>, keep: Duration) {
    loop {
        sleep(keep).await;
        let Some(witness) = witness.upgrade() else { return };
        let mut kept = witness.kept();
        kept.connections.retain(|(.., since)| since.elapsed() < keep);
        if kept.connections.is_empty() {
            kept.swept = false;
            return;
        }
    }
}

impl Upstream {
    /// Asks a server whether it knows a session. Only a clear yes is one, of a server that does not say it to everything.
    pub(super) async fn hear(
        &self,
        server: &Server,
        witness: &Arc<Witness>,
        dialect: u64,
        questions: &Questions,
    ) -> Testimony {
        let said = self.testify(server, witness, dialect, &questions.about, &questions.fields).await;
        if said != Testimony::Shortage {
            witness.heard(said != Testimony::Silence);
        }
        // Gateways say it in words that nothing else uses.
        if said != Testimony::Yes || self.are_peers() {
            return said;
        }
        let honest = match witness.reputation() {
            Some(honest) => honest,
            None => match self.testify(server, witness, dialect, &questions.decoy, &questions.fields).await {
                // It was too busy to be tried: what it has said stands.
                Testimony::Silence | Testimony::Shortage => return said,
                decoy => {
                    let honest = decoy != Testimony::Yes;
                    witness.character().honest = Some((honest, Instant::now()));
                    honest
                }
            },
        };
        if honest { said } else { Testimony::Untold }
    }

    async fn testify(
        &self,
        server: &Server,
        witness: &Arc<Witness>,
        dialect: u64,
        first: &Question,
        fields: &Fields,
    ) -> Testimony {
        let Some(protocol) = self.session_protocol() else { return Testimony::Untold };
        self.metrics.session_questions.inc();
        let answer = match self.put(server, witness, first, fields).await {
            Ok(answer) => answer,
            Err(none) => return none,
        };
        if self.are_peers() && answer.body == OWN.as_bytes() {
            witness.character().own = Some(Instant::now());
        }
        let mut known = protocol.is_known(dialect, first, answer.status, &answer.body);
        if let Known::Ask(second) = &known {
            self.metrics.session_questions.inc();
            let answer = match self.put(server, witness, second, fields).await {
                Ok(answer) => answer,
                Err(none) => return none,
            };
            known = protocol.is_known(dialect, second, answer.status, &answer.body);
        }
        match known {
            Known::Yes => Testimony::Yes,
            Known::No => Testimony::No,
            Known::Untold | Known::Ask(_) => Testimony::Untold,
        }
    }

    /// Puts a question on a connection that was kept or a new one. An error says why no answer comes in time.
    async fn put(
        &self,
        server: &Server,
        witness: &Arc<Witness>,
        question: &Question,
        fields: &Fields,
    ) -> Result<Answer, Testimony> {
        let request = self.written(server, question, fields);
        let said = self.config().timeouts.keep_alive;
        let keep = if said.is_zero() { KEEP } else { said };
        let is_head = question.method == "HEAD";
        let in_shortage = AtomicBool::new(false);
        let asking = async {
            let endpoint = server.endpoint();
            let kept = witness.take(&endpoint, keep);
            let was_kept = kept.is_some();
            let mut stream = match kept {
                Some(stream) => stream,
                None => self.connect_at_last(server, &in_shortage).await.ok()?,
            };
            let mut answer = ask(&mut stream, &request, is_head, MOST_BODY).await;
            if answer.is_err() && was_kept {
                // The server has closed it meanwhile; a question may be repeated.
                stream = self.connect_at_last(server, &in_shortage).await.ok()?;
                answer = ask(&mut stream, &request, is_head, MOST_BODY).await;
            }
            let answer = answer.ok()?;
            if answer.reusable {
                witness.keep(stream, endpoint, keep);
            }
            Some(answer)
        };
        let patience = if self.are_peers() { PATIENCE_WITH_PEERS } else { PATIENCE };
        let answer = timeout(patience, asking).await.ok().flatten();
        let why = || if in_shortage.load(Relaxed) { Testimony::Shortage } else { Testimony::Silence };
        answer.ok_or_else(why)
    }

    /// Connects, once there is what that takes; `in_shortage` while there is not.
    async fn connect_at_last(&self, server: &Server, in_shortage: &AtomicBool) -> io::Result<Transport> {
        loop {
            let connected = self.connect(server, None).await;
            let short = connected.as_ref().err().is_some_and(|error| is_shortage(error));
            in_shortage.store(short, Relaxed);
            if !short {
                return connected;
            }
            sleep(SHORTAGE_PAUSE).await;
        }
    }

    /// Says something to a server that it need not answer.
    pub(super) async fn say(&self, server: &Server, witness: &Arc<Witness>, question: &Question, fields: &Fields) {
        let Ok(_place) = witness.places.acquire().await else { return };
        if self.put(server, witness, question, fields).await.is_err() {
            log::debug!("upstream {}: server {} could not be told of a goodbye", self.name, server.name());
        }
    }

    fn written(&self, server: &Server, question: &Question, fields: &Fields) -> Vec<u8> {
        let mut request = HeadWriter::request(question.method, &question.target, 1);
        let brings = |name: &str| question.fields.iter().any(|(brought, _)| brought.eq_ignore_ascii_case(name));
        if !brings("host") && !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request.field("host", self.own_host(server));
        }
        for (name, value) in fields.iter().filter(|(name, _)| !brings(name)) {
            request.field(name, value);
        }
        for (name, value) in &question.fields {
            request.field(name, value);
        }
        if let Some(body) = &question.body {
            request.field("content-length", Text::number(body.len() as u64).as_bytes());
        }
        request.end_with(question.body.as_deref().unwrap_or_default())
    }
}
