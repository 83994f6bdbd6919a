//! Rules of Traefik's routers (``Host(`a.test`) && PathPrefix(`/x`)``) as what a route matches.

use serde_yaml::{Mapping, Value};

use super::super::draft::{list, literal, one_of, only};

/// Parentheses within parentheses that are followed.
const DEEPEST: usize = 32;

/// What a rule says; `Err` with what has no counterpart.
pub(super) fn read(rule: &str) -> Result<Mapping, String> {
    let mut reader = Reader { rest: rule, depth: 0 };
    let matched = reader.any()?;
    reader.space();
    if reader.rest.is_empty() { Ok(matched) } else { Err(format!("found `{}`, expected `&&` or `||`", reader.rest)) }
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn any(&mut self) -> Result<Mapping, String> {
        let mut alternatives = vec![self.all()?];
        while self.eat("||") {
            alternatives.push(self.all()?);
        }
        Ok(one_of(alternatives))
    }

    fn all(&mut self) -> Result<Mapping, String> {
        let mut all = self.one()?;
        while self.eat("&&") {
            for (key, value) in self.one()? {
                match all.get(&key).cloned() {
                    None => _ = all.insert(key, value),
                    Some(Value::Mapping(mut before))
                        if matches!(key.as_str(), Some("headers" | "query" | "headers_regex")) =>
                    {
                        before.extend(value.as_mapping().cloned().unwrap_or_default());
                        all.insert(key, Value::Mapping(before));
                    }
                    Some(before) => {
                        // Both have to hold.
                        let both = |value: Value| match key.as_str() {
                            Some("not") => value,
                            name => Value::Mapping(only("not", Value::Mapping(only(name.unwrap_or_default(), value)))),
                        };
                        let mut list = match all.get("not").cloned() {
                            Some(Value::Sequence(list)) => list,
                            Some(one) => vec![one],
                            None => Vec::new(),
                        };
                        if key.as_str() == Some("not") && list.is_empty() {
                            list.push(before);
                        }
                        list.push(both(value));
                        all.insert("not".into(), Value::Sequence(list));
                    }
                }
            }
        }
        Ok(all)
    }

    fn one(&mut self) -> Result<Mapping, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("it is too deep".to_owned());
        }
        let made = if self.eat("!") {
            let one = self.one()?;
            Ok(only("not", Value::Mapping(one)))
        } else if self.eat("(") {
            let inside = self.any()?;
            if self.eat(")") { Ok(inside) } else { Err("it has a `(` that is not closed".to_owned()) }
        } else {
            self.call()
        };
        self.depth -= 1;
        made
    }

    fn call(&mut self) -> Result<Mapping, String> {
        self.space();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        if !self.eat("(") {
            return Err(format!("found `{name}{}`, expected a call such as Host(`a.test`)", self.rest));
        }
        let mut arguments = Vec::new();
        while !self.eat(")") {
            self.space();
            let quote = self
                .rest
                .chars()
                .next()
                .filter(|c| ['`', '"', '\''].contains(c))
                .ok_or("expected a text in backticks")?;
            let inside = &self.rest[1..];
            let end = inside.find(quote).ok_or("it has a text that is not closed")?;
            arguments.push(inside[..end].to_owned());
            self.rest = &inside[end + 1..];
            self.eat(",");
        }
        matched(name, &arguments)
    }
}

fn matched(name: &str, arguments: &[String]) -> Result<Mapping, String> {
    let texts: Vec<String> = arguments.iter().map(|text| literal(text)).collect();
    let lower: Vec<String> = arguments.iter().map(|text| text.to_lowercase()).collect();
    let whole = |prefix: &String| prefix.ends_with('/') || prefix.rsplit('/').next().is_some_and(|last| last.len() > 2);
    Ok(match (name, arguments) {
        ("Host" | "HostHeader", [_, ..]) => only("host", list(&lower)),
        ("PathPrefix", [path]) if path == "/" => Mapping::new(),
        ("PathPrefix", [_, ..]) if arguments.iter().all(whole) => only("path", list(&texts)),
        ("PathPrefix", [_, ..]) => {
            let expressions: Vec<String> =
                arguments.iter().map(|path| literal(&format!("^{}", regex::escape(path)))).collect();
            only("path_regex", list(&expressions))
        }
        ("Path", [_, ..]) if arguments.iter().all(|path| !path.contains('{')) => only("path_exact", list(&texts)),
        ("PathRegexp", [_, ..]) if arguments.iter().all(|one| regex::Regex::new(one).is_ok()) => {
            only("path_regex", list(&texts))
        }
        ("HostRegexp", [expression]) if regex::Regex::new(expression).is_ok() && !expression.contains('{') => {
            only("headers_regex", only("host", literal(expression)))
        }
        ("Method", [_, ..]) => {
            only("method", list(&arguments.iter().map(|method| method.to_uppercase()).collect::<Vec<_>>()))
        }
        ("Header" | "Headers", [name, value])
            if name.eq_ignore_ascii_case("upgrade") && value.eq_ignore_ascii_case("websocket") =>
        {
            only("upgrade", "websocket")
        }
        ("Header" | "Headers", [name, value]) => only("headers", only(&name.to_lowercase(), literal(value))),
        ("HeaderRegexp" | "HeadersRegexp", [name, value]) if regex::Regex::new(value).is_ok() => {
            only("headers_regex", only(&name.to_lowercase(), literal(value)))
        }
        ("Query", [one]) if one.contains('=') => {
            let (name, value) = one.split_once('=').unwrap_or((one, ""));
            only("query", only(name, literal(value)))
        }
        ("Query", [name]) => only("query", only(name, "*")),
        ("Query", [name, value]) => only("query", only(name, literal(value))),
        ("ClientIP", [_, ..]) => only("client", list(arguments)),
        _ => {
            return Err(format!("`{name}` with {} texts has no counterpart", arguments.len()));
        }
    })
}
