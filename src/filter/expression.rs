//! Conditions and values in CEL, the Common Expression Language: checked when they are loaded, so that none can end the process, run
//! away, or ask for what nobody knows.
//!
//! What bounds an expression is bounded here: its length, how deep it goes, and that no loop lies in another. What it costs
//! grows with the request that it looks at.

mod check;
mod network;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use cel::common::types::{CelBool, CelInt, CelMap, CelMapKey, CelString};
use cel::common::value::Val;
use cel::{Context, Env, ExecutionError, Program, Value};
use log::warn;

pub(crate) use check::Fault;
use check::{Field, Keys, Use};

use crate::metrics;
use crate::request::Request;

/// One compiled condition, or value.
#[derive(Debug)]
pub struct Expression {
    text: Box<str>,
    gives: Gives,
    program: Program,
    /// What of a request it looks at: nothing else is told to it.
    uses: Vec<Use>,
    /// When a failure was told last, in seconds of the process, plus one.
    told: AtomicU64,
}

/// What an expression is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gives {
    /// True or false.
    Condition,
    /// A text, or what can be written as one.
    Text,
}

/// Two that read the same are the same.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.gives) == (&other.text, other.gives)
    }
}

impl Eq for Expression {}

/// What expressions are compiled and run with: the standard library, and `cidr`.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    if let Err(error) = network::declare(&mut env) {
        // It has been tried by the tests, with this very library.
        warn!("expressions: {error}");
    }
    Arc::new(env)
});

/// Seconds between two lines in the log about the failures of one expression.
const TOLD_AGAIN: u64 = 60;

impl Expression {
    /// Compiles a condition, and tries it on a request that says nothing.
    pub(crate) fn compile(text: &str) -> Result<Self, Fault> {
        Self::compile_to(Gives::Condition, text)
    }

    /// Compiles what gives a text, a number or a truth value, and tries it on a request that says nothing.
    pub(crate) fn compile_value(text: &str) -> Result<Self, Fault> {
        Self::compile_to(Gives::Text, text)
    }

    fn compile_to(gives: Gives, text: &str) -> Result<Self, Fault> {
        let (program, uses) = parse(text)?;
        let this = Self { text: text.into(), gives, program, uses, told: AtomicU64::new(0) };
        this.rehearse()?;
        Ok(this)
    }

    /// Whether it holds. Where it fails it does not, which is counted, and told in the log once a minute; that a field is
    /// not there is no failure.
    pub(crate) fn holds(&self, request: &Request<'_>, path: &str) -> bool {
        match self.run(request, path) {
            Ok(Value::Bool(holds)) => holds,
            Err(ExecutionError::NoSuchKey(_)) => false,
            Ok(other) => {
                self.failed(&format!("it gives a value of type {}", other.type_of()));
                false
            }
            Err(error) => {
                self.failed(&error.to_string());
                false
            }
        }
    }

    /// The text that it gives; `None` where it asks for a field that is not there, gives `null`, or fails. A failure is
    /// counted, and told in the log once a minute.
    pub(crate) fn value(&self, request: &Request<'_>, path: &str) -> Option<String> {
        match self.run(request, path) {
            Ok(value) => match written(&value) {
                Ok(text) => text,
                Err(()) => {
                    self.failed(&format!("it gives a value of type {}", value.type_of()));
                    None
                }
            },
            Err(ExecutionError::NoSuchKey(_)) => None,
            Err(error) => {
                self.failed(&error.to_string());
                None
            }
        }
    }

    fn failed(&self, why: &str) {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        metrics::expression_failures().inc();
        let now = START.elapsed().as_secs() + 1;
        let told = self.told.load(Ordering::Relaxed);
        let due = told == 0 || now >= told + TOLD_AGAIN;
        if due && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let lacks = if self.gives == Gives::Condition { "does not hold" } else { "gives nothing" };
            warn!("expression `{}` {lacks}, since it fails: {why}", self.text);
        }
    }

    fn run(&self, request: &Request<'_>, path: &str) -> Result<Value, ExecutionError> {
        let mut context = Context::with_env(Arc::clone(&ENV));
        for one in &self.uses {
            context.add_variable_as_val(one.root, Box::new(CelMap::from(one.fields(request, path))));
        }
        self.program.execute(&context)
    }

    /// Finds faults of types, which only show when it is run.
    fn rehearse(&self) -> Result<(), Fault> {
        let nothing = Request::nothing();
        match self.run(&nothing, "/") {
            Ok(Value::Bool(_)) | Err(ExecutionError::NoSuchKey(_) | ExecutionError::FunctionError { .. }) => Ok(()),
            Ok(value) if self.gives == Gives::Text && written(&value).is_ok() => Ok(()),
            Ok(other) => {
                let expected = if self.gives == Gives::Condition { "true or false" } else { "a text" };
                Err(Fault::whole(format!("gives a value of type {}, expected {expected}", other.type_of())))
            }
            Err(error) if self.gives == Gives::Condition => Err(Fault::whole(format!("can't hold: {error}"))),
            Err(error) => Err(Fault::whole(format!("can't give a text: {error}"))),
        }
    }
}

/// A value as a text; `None` for `null`.
fn written(value: &Value) -> Result<Option<String>, ()> {
    Ok(Some(match value {
        Value::String(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(is) => is.to_string(),
        Value::Null => return Ok(None),
        _ => return Err(()),
    }))
}

/// Parses and checks a text. The parser recurses into what it reads, and into its errors: for as long as a text may be,
/// that takes less than the stack of this thread.
fn parse(text: &str) -> Result<(Program, Vec<Use>), Fault> {
    check::source(text)?;
    let parse = || {
        let program = ENV.compile(text).map_err(|errors| Fault::of_parser(&errors))?;
        let uses = check::uses(&program)?;
        Ok((program, uses))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, parse);
        let parsed = thread.ok().and_then(|thread| thread.join().ok());
        parsed.unwrap_or_else(|| Err(Fault::whole("can't be read: the parser gives up")))
    })
}

/// Reserved, not taken, while an expression is parsed.
const STACK: usize = 256 << 20;

type Fields<'v> = HashMap<CelMapKey<'v>, Box<dyn Val + 'v>>;

impl Use {
    /// The fields of one variable, as far as they are looked at.
    fn fields<'v>(&'v self, request: &'v Request<'_>, path: &'v str) -> Fields<'v> {
        let mut fields = Fields::with_capacity(self.fields.len());
        for field in &self.fields {
            fields.insert(CelMapKey::from(field.name()), field.value(request, path));
        }
        fields
    }
}

impl Field {
    fn value<'v>(&'v self, request: &'v Request<'_>, path: &'v str) -> Box<dyn Val + 'v> {
        let text = |text: &'v str| -> Box<dyn Val + 'v> { Box::new(CelString::from(text)) };
        match self {
            Self::ClientIp => Box::new(CelString::from(request.client.to_string())),
            Self::Method => text(request.method),
            Self::Host => text(request.host.as_deref().unwrap_or_default()),
            Self::Path => text(path),
            Self::Scheme => text(if request.secure { "https" } else { "http" }),
            Self::WebSocket => Box::new(CelBool::from(request.websocket)),
            Self::ListenerName => text(request.listener),
            Self::ListenerPort => Box::new(CelInt::from(i64::from(request.port))),
            Self::ServerName => text(request.server_name.unwrap_or_default()),
            Self::Headers(keys) => map(headers(keys, request)),
            Self::Cookies(keys) => map(cookies(keys, request)),
            Self::Query(keys) => map(query(keys, request)),
        }
    }
}

fn map<'v>(entries: impl Iterator<Item = (Cow<'v, str>, Cow<'v, str>)>) -> Box<dyn Val + 'v> {
    let mut fields = Fields::new();
    for (name, value) in entries {
        let key = match name {
            Cow::Borrowed(name) => CelMapKey::from(name),
            Cow::Owned(name) => CelMapKey::from(name),
        };
        // The first of a name is the one that counts.
        fields.entry(key).or_insert_with(|| Box::new(CelString::from(value)));
    }
    Box::new(CelMap::from(fields))
}

type Entries<'v> = Box<dyn Iterator<Item = (Cow<'v, str>, Cow<'v, str>)> + 'v>;

fn headers<'v>(keys: &'v Keys, request: &'v Request<'_>) -> Entries<'v> {
    match keys {
        Keys::These(names) => Box::new(
            names
                .iter()
                .filter_map(|name| Some((Cow::Borrowed(&**name), String::from_utf8_lossy(request.headers.get(name)?)))),
        ),
        Keys::All => {
            let mut all = Vec::new();
            request.headers.each(|name, value| {
                all.push((
                    Cow::Owned(name.to_ascii_lowercase()),
                    Cow::Owned(String::from_utf8_lossy(value).into_owned()),
                ));
            });
            Box::new(all.into_iter())
        }
    }
}

fn cookies<'v>(keys: &'v Keys, request: &'v Request<'_>) -> Entries<'v> {
    match keys {
        Keys::These(names) => Box::new(
            names.iter().filter_map(|name| Some((Cow::Borrowed(&**name), Cow::Borrowed(request.cookie(name)?)))),
        ),
        Keys::All => {
            let fields = request.headers.all("cookie").filter_map(|field| std::str::from_utf8(field).ok());
            let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
            Box::new(pairs.map(|(name, value)| (name.into(), value.into())))
        }
    }
}

fn query<'v>(keys: &'v Keys, request: &'v Request<'_>) -> Entries<'v> {
    match keys {
        Keys::These(names) => Box::new(
            names.iter().filter_map(|name| Some((Cow::Borrowed(&**name), Cow::Borrowed(request.query_value(name)?)))),
        ),
        Keys::All => {
            let pairs = request.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
            Box::new(pairs.map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (name.into(), value.into())
            }))
        }
    }
}

#[cfg(test)]
mod tests;
