//! Sessions of an app of one's own, by what its operator says: where a request names one, and where an answer opens one.

pub mod config;

use std::borrow::Cow;
use std::time::Duration;

use super::protocol::{
    Answered, Arrival, Departure, ENDS_OF_EVENTS, Goodbye, Known, LastWords, NewSession, Question, Reader,
    SessionProtocol, SessionRequest,
};
use crate::request::{Headers, Request};
use crate::wire::json::{PointerReader, Progress};
use config::{Farewell, Learn, Places, Rule};

/// The rules of one upstream, ready for use.
#[derive(Debug)]
pub struct Rules {
    route: Places,
    path: Option<PathRule>,
    learn: Option<LearnRule>,
    lifetime: Duration,
    over: Vec<u16>,
    goodbye: Farewell,
    question: Option<QuestionRule>,
}

/// The longest id that is one.
const LONGEST_ID: usize = 4096;
/// What the id is called in what is said of questions and paths.
pub(crate) const ID: &str = "{id}";

/// By which a client shows who it is.
const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "origin"];

/// What a request is, as its answer has to know.
const NAMED: u64 = 1;

/// Where answers are looked into, one after the other.
#[derive(Debug)]
struct LearnRule {
    header: Option<String>,
    cookie: Option<String>,
    json: Option<PointerReader>,
}

#[derive(Debug)]
struct QuestionRule {
    method: &'static str,
    said: config::Asked,
}

impl Rules {
    /// What the operator has said.
    ///
    /// # Errors
    /// What is wrong with it, by its key within `sessions`, and what was expected.
    pub fn new(said: &Rule) -> Result<Self, (&'static str, String)> {
        let path = said.route.path.as_deref().map(PathRule::new).transpose().map_err(|what| ("route", what))?;
        let learn = said.learn.as_ref().map(LearnRule::new).transpose().map_err(|what| ("learn", what))?;
        let question = said.question.as_ref().map(QuestionRule::new).transpose().map_err(|what| ("question", what))?;
        Ok(Self {
            route: Places {
                header: said.route.header.as_ref().map(|name| name.to_ascii_lowercase()),
                ..said.route.clone()
            },
            path,
            learn,
            lifetime: said.lifetime,
            over: said.over.clone(),
            goodbye: said.goodbye,
            question,
        })
    }

    /// Everything in a request that names a session.
    fn named<'r>(&self, request: &'r Request<'_>, mut found: impl FnMut(&'r str)) {
        let Places { header, query, cookie, .. } = &self.route;
        if let Some(name) = header {
            request.headers.all(name).filter_map(|value| std::str::from_utf8(value).ok()).for_each(&mut found);
        }
        if let (Some(name), Some(query)) = (query, request.query) {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| key == name).for_each(|(_, value)| found(value));
        }
        if let Some(name) = cookie {
            // Browsers send the one with the longest path first, and apps take that.
            request.cookie(name).into_iter().for_each(&mut found);
        }
        if let Some(path) = &self.path {
            path.find(&request.path.canonical).into_iter().for_each(found);
        }
    }
}

impl SessionProtocol for Rules {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let (mut id, mut is_ambiguous) = (None, false);
        self.named(request, |found| {
            if (1..=LONGEST_ID).contains(&found.len()) {
                is_ambiguous |= *id.get_or_insert(found) != found;
            }
        });
        SessionRequest {
            id,
            opens: id.is_none() == self.learn.is_some(),
            reads_answer: id.is_none() && self.learn.as_ref().is_some_and(|learn| learn.json.is_some()),
            streams: id.is_some(),
            is_ambiguous,
            transport: request.websocket.then_some("websocket"),
            dialect: if id.is_some() { NAMED } else { 0 },
            ..SessionRequest::default()
        }
    }

    fn answered(&self, dialect: u64, status: u16, headers: Headers<'_>) -> Answered {
        let named = dialect == NAMED;
        if named && self.over.contains(&status) {
            return Answered::Refused { code: None, unknown: true };
        }
        // An app may open a session and send its client elsewhere by the same answer.
        if !(200..=399).contains(&status) && status != 101 {
            return Answered::Nothing;
        }
        let opened = |id: &str| Answered::Opened(NewSession::new(id, self.lifetime));
        let Some(LearnRule { header, cookie, json }) = &self.learn else {
            return if named { Answered::Opened(NewSession::named(self.lifetime)) } else { Answered::Nothing };
        };
        if let Some(id) = header.as_ref().and_then(|name| headers.get(name)).and_then(as_id) {
            return opened(id);
        }
        // Whoever logs in may get another one, and whoever logs out none.
        match cookie.as_ref().and_then(|name| set_cookie(headers, name)) {
            Some("") if named => return Answered::Ended,
            Some(value) if let Some(id) = as_id(value.as_bytes()) => return opened(id),
            _ => {}
        }
        match json {
            Some(reader) if !named && status != 101 => {
                Answered::Body(Box::new(JsonReader(reader.clone(), self.lifetime)))
            }
            _ => Answered::Nothing,
        }
    }

    /// A session may have any number of them, beside other requests.
    fn arrival(&self, _dialect: u64) -> Arrival {
        Arrival::Never
    }

    fn unseen_life(&self) -> Duration {
        self.lifetime
    }

    fn clients_make_ids(&self) -> bool {
        self.learn.is_none()
    }

    fn question(&self, _dialect: u64, id: &str, request: &Request<'_>) -> Option<Question> {
        let QuestionRule { method, said } = self.question.as_ref()?;
        // What would be more than an id where it is written down is asked about nowhere.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$'()*+,;=:@%".contains(&byte);
        let stands = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        if !id.bytes().all(stands) || said.path.contains(ID) && !id.bytes().all(is_plain) {
            return None;
        }
        let body = said.body.as_ref().map(|body| Cow::Owned(body.replace(ID, id).into_bytes()));
        let mut question = Question { body, method, ..Question::get(said.path.replace(ID, id)) };
        for (name, value) in &said.headers {
            question = question.with(name.to_ascii_lowercase(), value.replace(ID, id));
        }
        let names: Vec<_> = CREDENTIALS.into_iter().filter(|name| !said.brings(name)).collect();
        question = question.with_those_of(request, &names);
        if let Some(name) = self.route.cookie.as_deref() {
            // That of the client names the session that it asks for, and the question may be about another one.
            with_cookie(&mut question.fields, name, id);
        }
        Some(question)
    }

    fn is_known(&self, _dialect: u64, _question: &Question, status: u16, _body: &[u8]) -> Known {
        let Some(QuestionRule { said, .. }) = &self.question else { return Known::Untold };
        match status {
            status if said.known.contains(&status) => Known::Yes,
            status if said.unknown.contains(&status) => Known::No,
            _ => Known::Untold,
        }
    }

    fn departure(&self) -> Departure {
        match self.goodbye {
            Farewell::Websocket | Farewell::Stream => Departure::Told,
            Farewell::None => Departure::AtDeadline,
        }
    }

    fn last_words(&self, _dialect: u64) -> Option<LastWords> {
        let ends = matches!(self.goodbye, Farewell::Stream);
        ends.then_some(LastWords { words: Cow::Borrowed(b""), behind: ENDS_OF_EVENTS })
    }

    fn over(&self, _dialect: u64) -> Option<Goodbye> {
        let status = *self.over.first()?;
        Some(Goodbye {
            status,
            content_type: "text/plain; charset=utf-8",
            body: Cow::Borrowed(b"The session is over: begin a new one."),
        })
    }
}

impl LearnRule {
    fn new(said: &Learn) -> Result<Self, String> {
        if *said == Learn::default() {
            return Err("expected some of `header`, `cookie` and `json`".to_owned());
        }
        let pointer = |said: &String| {
            let expected = || format!("found `{said}`, expected a JSON pointer such as /session/id");
            PointerReader::new(said).ok_or_else(expected)
        };
        Ok(Self {
            header: said.header.as_ref().map(|name| name.to_ascii_lowercase()),
            cookie: said.cookie.clone(),
            json: said.json.as_ref().map(pointer).transpose()?,
        })
    }
}

impl QuestionRule {
    fn new(said: &config::Asked) -> Result<Self, String> {
        const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PUT", "OPTIONS"];
        let Some(method) = METHODS.into_iter().find(|&method| method == said.method) else {
            return Err(format!("found the method `{}`, expected GET, HEAD, POST, PUT or OPTIONS", said.method));
        };
        Ok(Self { method, said: said.clone() })
    }
}

/// A path that has the session in one of its segments.
#[derive(Debug)]
struct PathRule(Vec<Segment>);

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Named(String),
    Any,
    Id,
}

impl PathRule {
    fn new(said: &str) -> Result<Self, String> {
        let wrong = || format!("found the path `{said}`, expected one such as /rooms/{ID}");
        let segments = said.strip_prefix('/').ok_or_else(wrong)?.split('/').map(|segment| match segment {
            ID => Ok(Segment::Id),
            "*" => Ok(Segment::Any),
            _ if segment.is_empty() || segment.contains(['{', '}', '*', '?', '#']) => Err(wrong()),
            _ => Ok(Segment::Named(segment.to_owned())),
        });
        let segments = segments.collect::<Result<Vec<_>, _>>()?;
        if segments.iter().filter(|segment| **segment == Segment::Id).count() != 1 {
            return Err(wrong());
        }
        Ok(Self(segments))
    }

    fn find<'p>(&self, path: &'p str) -> Option<&'p str> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let mut id = None;
        for expected in &self.0 {
            let segment = segments.next()?;
            match expected {
                Segment::Named(name) if *name != *segment => return None,
                Segment::Named(_) | Segment::Any => {}
                Segment::Id => id = Some(segment),
            }
        }
        id
    }
}

/// Reads the id out of an answer.
struct JsonReader(PointerReader, Duration);

impl Reader for JsonReader {
    fn read(&mut self, bytes: &[u8], is_end: bool) -> Option<Answered> {
        match self.0.push(bytes) {
            Progress::NeedMore => is_end.then_some(Answered::Nothing),
            Progress::NotThere => Some(Answered::Nothing),
            Progress::Found(id) => {
                let id = as_id(id.as_bytes()).map(|id| Answered::Opened(NewSession::new(id, self.1)));
                Some(id.unwrap_or(Answered::Nothing))
            }
        }
    }
}

fn as_id(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|id| (1..=LONGEST_ID).contains(&id.len()))
}

/// The value that an answer sets a cookie to (RFC 6265 5.2); empty where it takes the cookie away.
fn set_cookie<'a>(headers: Headers<'a>, name: &str) -> Option<&'a str> {
    let set = headers.all("set-cookie").filter_map(|value| std::str::from_utf8(value).ok()).filter_map(|cookie| {
        let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
        let (key, value) = pair.split_once('=')?;
        let no_age = |attribute: &str| {
            attribute.split_once('=').is_some_and(|(name, age)| {
                name.trim().eq_ignore_ascii_case("max-age") && age.trim().starts_with(['0', '-'])
            })
        };
        let is_gone = attributes.split(';').any(no_age);
        (key.trim() == name).then_some(if is_gone { "" } else { value.trim() })
    });
    // Of several the client keeps the last.
    set.last()
}

/// Puts a session into the cookie that names it.
fn with_cookie(fields: &mut Vec<(Cow<'static, str>, Vec<u8>)>, name: &str, id: &str) {
    let known: Vec<String> = fields
        .iter()
        .filter(|(field, _)| field == "cookie")
        .filter_map(|(_, value)| std::str::from_utf8(value).ok())
        .flat_map(|cookies| cookies.split(';'))
        .map(str::trim)
        .filter(|pair| pair.split_once('=').is_none_or(|(key, _)| key != name))
        .map(str::to_owned)
        .collect();
    fields.retain(|(field, _)| field != "cookie");
    let cookies = known.into_iter().chain([format!("{name}={id}")]).filter(|pair| !pair.is_empty());
    fields.push(("cookie".into(), cookies.collect::<Vec<_>>().join("; ").into_bytes()));
}

#[cfg(test)]
mod tests;
