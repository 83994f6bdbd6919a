//! Why a route does not match: every condition that does not hold, with what was found and what was expected.

use super::{Matcher, Value};
use crate::request::Request;
use crate::router::config::{Match, OneOrMany};

impl Matcher {
    /// The conditions that do not hold, each in a sentence; none where the route matches. `said` is what it was compiled of.
    pub(in crate::router) fn why_not(&self, said: &Match, request: &Request<'_>, path: &str) -> Vec<String> {
        let mut why = Vec::new();
        let one_of = |list: &[String]| list.join(" or ");
        let or_none = |found: Option<&str>| found.map_or_else(|| "none".to_owned(), |found| format!("`{found}`"));
        if !self.path_matches(path) {
            let prefixes = said.path.0.iter().map(|path| format!("below {path}"));
            let exact = said.path_exact.0.iter().map(|path| format!("exactly {path}"));
            let found = said.path_regex.0.iter().map(|regex| format!("one that {regex} finds something in"));
            let expected: Vec<String> = prefixes.chain(exact).chain(found).collect();
            why.push(format!("the path is {path}, not {}", one_of(&expected)));
        }
        if !self.host_matches(request.host.as_deref()) {
            why.push(format!("the host is {}, not {}", or_none(request.host.as_deref()), one_of(&said.host.0)));
        }
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method == request.method) {
            why.push(format!("the method is {}, not {}", request.method, one_of(&self.methods)));
        }
        if self.websocket && !request.websocket {
            why.push("it opens no WebSocket".to_owned());
        }
        if !self.listeners.is_empty() && !self.listeners.iter().any(|name| name == request.listener) {
            why.push(format!("it comes in by listener {}, not {}", request.listener, one_of(&self.listeners)));
        }
        let value = |value: &Value| match value {
            Value::Any => "any value".to_owned(),
            Value::Is(text) => format!("`{text}`"),
        };
        for (name, expected) in self.headers.iter().filter(|(name, value)| !value.matches_header(request, name)) {
            let found = request.headers.get(name).map(String::from_utf8_lossy);
            why.push(format!("field {name} is {}, not {}", or_none(found.as_deref()), value(expected)));
        }
        for (name, expected) in &self.query {
            let found = request.query_value(name);
            let holds = match expected {
                Value::Any => found.is_some(),
                Value::Is(text) => found == Some(text),
            };
            if !holds {
                why.push(format!("parameter {name} is {}, not {}", or_none(found), value(expected)));
            }
        }
        let Some(more) = self.more.as_ref().filter(|more| !more.matches(request, path)) else { return why };
        if !more.clients.is_empty() && !more.clients.iter().any(|network| network.contains(&request.client)) {
            why.push(format!("the client is {}, not of {}", request.client, one_of(&said.client.0)));
        }
        if !more.ports.is_empty() && !more.ports.contains(&request.port) {
            let ports: Vec<String> = more.ports.iter().map(u16::to_string).collect();
            why.push(format!("the port is {}, not {}", request.port, one_of(&ports)));
        }
        if !more.server_names.is_empty() && !request.server_name.is_some_and(|name| more.name_matches(name)) {
            let OneOrMany(names) = &said.server_name;
            why.push(format!("the name in TLS is {}, not {}", or_none(request.server_name), one_of(names)));
        }
        for (name, expected) in &more.cookies {
            let found = request.cookie(name);
            let holds = match expected {
                Value::Any => found.is_some(),
                Value::Is(text) => found == Some(text),
            };
            if !holds {
                why.push(format!("cookie {name} is {}, not {}", or_none(found), value(expected)));
            }
        }
        for (name, regex) in &more.headers {
            if !request.headers.all(name).any(|value| regex.is_match(value)) {
                why.push(format!("{regex} finds nothing in field {name}"));
            }
        }
        if let (Some(when), Some(said)) = (&more.when, &said.when)
            && !when.holds(request, path)
        {
            why.push(format!("`when` does not hold: {said}"));
        }
        if let Some(at) = more.not.iter().position(|matcher| matcher.matches(request, path)) {
            why.push(format!("`not` holds, by its entry {}", at + 1));
        }
        if !more.any.is_empty() && !more.any.iter().any(|matcher| matcher.matches(request, path)) {
            why.push("none of `any` holds".to_owned());
        }
        why
    }
}
