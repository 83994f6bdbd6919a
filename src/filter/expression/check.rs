//! What an expression may be: bounded, and about what is known. Looked at before it is ever run.

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{ParseErrors, Program};

use super::network;

/// The longest text: an expression grows by one level with every two bytes at most, and levels lie on the stack.
const LONGEST: usize = 1024;
/// Levels of a compiled expression.
const DEEPEST: usize = 48;
/// Brackets in each other, counted before anybody recurses into them.
const MOST_BRACKETS: usize = 32;

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Line and column within the expression, from 1; `None` for all of it.
    pub(crate) at: Option<(usize, usize)>,
    pub(crate) what: String,
}

/// A variable, and what of it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) root: &'static str,
    pub(super) fields: Vec<Field>,
}

/// What can be known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    ClientIp,
    Method,
    Host,
    Path,
    Scheme,
    WebSocket,
    ListenerName,
    ListenerPort,
    ServerName,
    Headers(Keys),
    Cookies(Keys),
    Query(Keys),
}

/// Which entries of a map are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    All,
    These(Vec<Box<str>>),
}

/// Every variable that there is.
const VARIABLES: [(&str, &str, Field); 12] = [
    ("client", "ip", Field::ClientIp),
    ("request", "method", Field::Method),
    ("request", "host", Field::Host),
    ("request", "path", Field::Path),
    ("request", "scheme", Field::Scheme),
    ("request", "websocket", Field::WebSocket),
    ("request", "headers", Field::Headers(Keys::All)),
    ("request", "cookies", Field::Cookies(Keys::All)),
    ("request", "query", Field::Query(Keys::All)),
    ("listener", "name", Field::ListenerName),
    ("listener", "port", Field::ListenerPort),
    ("tls", "server_name", Field::ServerName),
];

/// Operators and functions that may be used. Others would cost what nobody has thought of.
const FUNCTIONS: [&str; 31] = [
    "_?_:_",
    "_&&_",
    "_||_",
    "!_",
    "_-_",
    "_+_",
    "_*_",
    "_/_",
    "_%_",
    "_==_",
    "_!=_",
    "_>=_",
    "_<=_",
    "_>_",
    "_<_",
    "-_",
    "_[_]",
    "@in",
    "@not_strictly_false",
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "cidr",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "type",
];

impl Fault {
    pub(super) fn whole(what: impl Into<String>) -> Self {
        Self { at: None, what: what.into() }
    }

    pub(super) fn of_parser(errors: &ParseErrors) -> Self {
        let Some(first) = errors.errors.first() else { return Self::whole("can't be read") };
        let place = usize::try_from(first.pos.0).ok().zip(usize::try_from(first.pos.1).ok());
        let what = first.msg.lines().next().unwrap_or_default();
        Self { at: place.filter(|&(line, _)| line > 0), what: format!("can't be read: {what}") }
    }
}

impl Field {
    pub(super) fn name(&self) -> &'static str {
        let same = |field: &Self| std::mem::discriminant(field) == std::mem::discriminant(self);
        VARIABLES.iter().find(|(_, _, field)| same(field)).map_or("", |(_, name, _)| name)
    }

    fn keys(&mut self) -> Option<&mut Keys> {
        match self {
            Self::Headers(keys) | Self::Cookies(keys) | Self::Query(keys) => Some(keys),
            _ => None,
        }
    }
}

/// Looks at the text before it is parsed.
pub(super) fn source(text: &str) -> Result<(), Fault> {
    if text.len() > LONGEST {
        return Err(Fault::whole(format!("found {} bytes, expected at most {LONGEST}", text.len())));
    }
    let (mut open, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    if deepest > MOST_BRACKETS {
        return Err(Fault::whole(format!("found {deepest} brackets in each other, expected at most {MOST_BRACKETS}")));
    }
    Ok(())
}

/// What a program looks at, if that is allowed.
pub(super) fn uses(program: &Program) -> Result<Vec<Use>, Fault> {
    let mut walk = Walk { program, uses: Vec::new(), bound: Vec::new() };
    walk.see(program.expression(), 0, false)?;
    Ok(walk.uses)
}

struct Walk<'p> {
    program: &'p Program,
    uses: Vec<Use>,
    /// Names that loops have given.
    bound: Vec<&'p str>,
}

impl<'p> Walk<'p> {
    fn see(&mut self, expr: &'p IdedExpr, depth: usize, in_loop: bool) -> Result<(), Fault> {
        if depth > DEEPEST {
            return Err(Fault::whole(format!("found more than {DEEPEST} levels: take it apart into several routes")));
        }
        match &expr.expr {
            Expr::Ident(name) if name.starts_with('@') || self.bound.contains(&name.as_str()) => Ok(()),
            Expr::Ident(name) => Err(self.fault(expr, unknown(name))),
            Expr::Literal(_) => Ok(()),
            Expr::Select(select) => match self.variable(expr, None)? {
                true => Ok(()),
                false => self.see(&select.operand, depth + 1, in_loop),
            },
            Expr::Call(call) => {
                if !FUNCTIONS.contains(&call.func_name.as_str()) {
                    let what = format!("unknown function `{}`", call.func_name);
                    return Err(self.fault(expr, what));
                }
                self.literal_where_needed(expr)?;
                if self.looked_up(&call.func_name, &call.args)? {
                    return Ok(());
                }
                let parts = call.target.iter().map(|target| &**target).chain(&call.args);
                parts.into_iter().try_for_each(|part| self.see(part, depth + 1, in_loop))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.see(element, depth + 1, in_loop)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.see(&entry.key, depth + 1, in_loop)?;
                    self.see(&entry.value, depth + 1, in_loop)
                }
                EntryExpr::StructField(field) => self.see(&field.value, depth + 1, in_loop),
            }),
            Expr::Comprehension(_) if in_loop => {
                Err(self
                    .fault(expr, "a loop (`all`, `exists` and the like) lies in another one, which could run for long"))
            }
            Expr::Comprehension(comprehension) => self.see_loop(comprehension, depth),
            Expr::Struct(_) | Expr::Unspecified => Err(self.fault(expr, "found a structure, which nothing here has")),
        }
    }

    fn see_loop(&mut self, comprehension: &'p ComprehensionExpr, depth: usize) -> Result<(), Fault> {
        let ComprehensionExpr { iter_range, iter_var, iter_var2, accu_var, accu_init, loop_cond, loop_step, result } =
            comprehension;
        self.see(iter_range, depth + 1, false)?;
        self.see(accu_init, depth + 1, false)?;
        let before = self.bound.len();
        self.bound.extend([iter_var.as_str(), accu_var.as_str()]);
        self.bound.extend(iter_var2.as_deref());
        for part in [loop_cond, loop_step, result] {
            self.see(part, depth + 1, true)?;
        }
        self.bound.truncate(before);
        Ok(())
    }

    /// Notes that a variable is used, with one entry of it or all; false where this is none.
    fn variable(&mut self, expr: &IdedExpr, key: Option<&str>) -> Result<bool, Fault> {
        let Expr::Select(select) = &expr.expr else { return Ok(false) };
        let root = match &select.operand.expr {
            Expr::Ident(root) if !self.bound.contains(&root.as_str()) => root,
            Expr::Select(_) if key.is_none() && self.is_variable(&select.operand) => {
                return self.variable(&select.operand, Some(&select.field));
            }
            _ => return Ok(false),
        };
        let known = VARIABLES.iter().find(|(of, name, _)| of == root && *name == select.field);
        let Some((root, _, field)) = known else {
            return Err(self.fault(expr, unknown(&format!("{root}.{}", select.field))));
        };
        self.note(root, field, key);
        Ok(true)
    }

    fn is_variable(&self, expr: &IdedExpr) -> bool {
        let Expr::Select(select) = &expr.expr else { return false };
        matches!(&select.operand.expr, Expr::Ident(root) if !self.bound.contains(&root.as_str()))
    }

    fn note(&mut self, root: &'static str, field: &Field, key: Option<&str>) {
        let known = self.uses.iter().position(|one| one.root == root);
        let at = known.unwrap_or_else(|| {
            self.uses.push(Use { root, fields: Vec::new() });
            self.uses.len() - 1
        });
        let fields = &mut self.uses[at].fields;
        let same = |other: &Field| std::mem::discriminant(other) == std::mem::discriminant(field);
        let place = fields.iter().position(same).unwrap_or_else(|| {
            let mut field = field.clone();
            if let Some(keys) = field.keys() {
                *keys = Keys::These(Vec::new());
            }
            fields.push(field);
            fields.len() - 1
        });
        let Some(keys) = fields[place].keys() else { return };
        match (keys, key) {
            (Keys::These(names), Some(key)) if !names.iter().any(|name| **name == *key) => names.push(key.into()),
            (Keys::These(_) | Keys::All, Some(_)) => {}
            (keys, None) => *keys = Keys::All,
        }
    }

    /// Notes an entry of a map that is looked up by a text that stands in the expression; false where this is none.
    fn looked_up(&mut self, function: &str, args: &'p [IdedExpr]) -> Result<bool, Fault> {
        let (("_[_]", [map, key]) | ("@in", [key, map])) = (function, args) else { return Ok(false) };
        match text_of(key) {
            Some(key) if self.is_variable(map) => self.variable(map, Some(key)),
            _ => Ok(false),
        }
    }

    /// Patterns and networks stand in the expression, and are good: what a client says is no pattern.
    fn literal_where_needed(&self, expr: &IdedExpr) -> Result<(), Fault> {
        let Expr::Call(call) = &expr.expr else { return Ok(()) };
        let literal = || {
            let text = call.args.last().and_then(text_of);
            text.ok_or_else(|| self.fault(expr, format!("`{}` takes a text that stands here", call.func_name)))
        };
        match call.func_name.as_str() {
            "matches" => match regex::RegexBuilder::new(literal()?).size_limit(MOST_REGEX).build() {
                Ok(_) => Ok(()),
                Err(_) => Err(self.fault(expr, "expected a regular expression")),
            },
            "cidr" => match network::read(literal()?) {
                Some(_) => Ok(()),
                None => Err(self.fault(expr, "expected a network such as 10.0.0.0/8, or an address")),
            },
            _ => Ok(()),
        }
    }

    fn fault(&self, expr: &IdedExpr, what: impl Into<String>) -> Fault {
        let source = self.program.source_info();
        let at = source.offset_for(expr.id).map(|(start, _)| {
            let before: Vec<char> = source.source.chars().take(start as usize).collect();
            let line = 1 + before.iter().filter(|&&c| c == '\n').count();
            (line, 1 + before.iter().rev().take_while(|&&c| c != '\n').count())
        });
        Fault { at, what: what.into() }
    }
}

/// The most memory that a pattern may take.
const MOST_REGEX: usize = 1 << 18;

fn text_of(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn unknown(name: &str) -> String {
    let fields: Vec<String> = VARIABLES
        .iter()
        .filter(|(root, ..)| *root == name)
        .map(|(root, field, _)| format!("`{root}.{field}`"))
        .collect();
    if !fields.is_empty() {
        return format!("found `{name}`, expected one of {}", fields.join(", "));
    }
    let known: Vec<String> = VARIABLES.iter().map(|(root, field, _)| format!("`{root}.{field}`")).collect();
    format!("unknown variable `{name}`, expected one of {}", known.join(", "))
}
