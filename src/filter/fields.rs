//! The operator's changes to header fields: compiled at load, applied to each message.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::config::{FieldValue, HeaderRules};
use super::template::{Facts, Template};
use super::{Expression, HeaderEdits};

/// The compiled form of a [`HeaderRules`].
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldRules {
    removed: Vec<HeaderName>,
    put: Vec<FieldRule>,
}

/// What is done with the fields of requests, and of their answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct MessageRules {
    /// On the way to the server.
    pub(crate) request: Option<FieldRules>,
    /// On the way to the client.
    pub(crate) response: Option<FieldRules>,
}

impl MessageRules {
    /// Compiles what has been checked already; `None` where nothing is to be done.
    pub(crate) fn build(request: &HeaderRules, response: &HeaderRules) -> Option<Self> {
        let this = Self { request: FieldRules::build(request), response: FieldRules::build(response) };
        (this.request.is_some() || this.response.is_some()).then_some(this)
    }
}

/// One field that comes in.
#[derive(Clone, Debug)]
pub(crate) struct FieldRule {
    name: HeaderName,
    value: Value,
    /// Whether those of its name stay.
    beside: bool,
}

#[derive(Clone, Debug)]
enum Value {
    Fixed(HeaderValue),
    Written(Template),
    Computed(Arc<Expression>),
}

impl FieldRules {
    /// Compiles what has been checked already; `None` where nothing is to be done.
    pub(crate) fn build(said: &HeaderRules) -> Option<Self> {
        if said.is_empty() {
            return None;
        }
        let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok();
        let rule = |(field, said, beside): (&String, &FieldValue, bool)| {
            let value = match said {
                FieldValue::Text(text) => {
                    let template = Template::read(text).ok()?;
                    let fixed = template.constant().and_then(|text| HeaderValue::from_str(text).ok());
                    fixed.map_or(Value::Written(template), Value::Fixed)
                }
                FieldValue::Cel(text) => Value::Computed(Arc::new(Expression::compile_value(text).ok()?)),
            };
            Some(FieldRule { name: name(field)?, value, beside })
        };
        let set = said.set.iter().map(|(name, text)| (name, text, false));
        let add = said.add.iter().flat_map(|(name, texts)| texts.0.iter().map(move |text| (name, text, true)));
        Some(Self {
            removed: said.remove.0.iter().filter_map(|field| name(field)).collect(),
            put: set.chain(add).filter_map(rule).collect(),
        })
    }

    /// Applies them to a message. Those that can't be written yet, since the server is not known, come back.
    pub(crate) fn apply(&self, facts: &impl Facts, edits: &mut HeaderEdits) -> Vec<FieldRule> {
        for name in &self.removed {
            edits.remove(name.clone());
        }
        let mut late = Vec::new();
        for rule in &self.put {
            match &rule.value {
                Value::Written(template) if template.waits_for_server() => {
                    if !rule.beside {
                        edits.remove(rule.name.clone());
                    }
                    let value = Value::Written(template.without_request(facts));
                    late.push(FieldRule { value, ..rule.clone() });
                }
                _ => rule.apply(facts, edits),
            }
        }
        late
    }
}

impl FieldRule {
    /// Whether these rules, which come later, leave nothing of it.
    pub(crate) fn is_undone_by(&self, rules: &FieldRules) -> bool {
        rules.removed.contains(&self.name) || rules.put.iter().any(|rule| !rule.beside && rule.name == self.name)
    }

    /// Applies it to a message.
    pub(crate) fn apply(&self, facts: &impl Facts, edits: &mut HeaderEdits) {
        let value = match &self.value {
            Value::Fixed(value) => Some(value.clone()),
            Value::Written(template) => template.value(facts),
            Value::Computed(expression) => {
                let text = facts.compute(expression);
                let text = text.as_deref().map(str::trim_ascii).filter(|text| !text.is_empty());
                text.and_then(|text| HeaderValue::from_str(text).ok())
            }
        };
        match value {
            Some(value) if self.beside => edits.append(self.name.clone(), value),
            Some(value) => edits.set(self.name.clone(), value),
            None if self.beside => {}
            // What a client sends under this name says nothing either.
            None => edits.remove(self.name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::template::Variable;

    /// Knows the address of the client, and its server once there is one.
    struct Known(Option<&'static str>);

    impl Facts for Known {
        fn put(&self, variable: &Variable, out: &mut Vec<u8>) {
            match variable {
                Variable::ClientIp => out.extend_from_slice(b"192.0.2.1"),
                Variable::ServerName => out.extend_from_slice(self.0.unwrap_or_default().as_bytes()),
                _ => {}
            }
        }

        fn compute(&self, expression: &Expression) -> Option<String> {
            expression.value(&crate::request::Request::nothing(), "/a")
        }
    }

    fn rules(json: &str) -> FieldRules {
        FieldRules::build(&serde_json::from_str(json).unwrap()).unwrap()
    }

    fn told(edits: &HeaderEdits) -> Vec<String> {
        edits.added().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let rules = rules(
            r#"{"remove": ["X-Old", "X-New"], "set": {"X-New": "${client.ip}"}, "add": {"x-new": "b", "x-more": ["1", "2"]}}"#,
        );
        let mut edits = HeaderEdits::default();
        assert!(rules.apply(&Known(None), &mut edits).is_empty());
        assert!(!edits.keeps("x-old") && !edits.keeps("x-new") && edits.keeps("x-more"));
        assert_eq!(told(&edits), ["x-new: 192.0.2.1", "x-more: 1", "x-more: 2", "x-new: b"]);
    }

    #[test]
    fn a_value_that_comes_out_empty_leaves_nobodys_word_standing() {
        let mut edits = HeaderEdits::default();
        rules(r#"{"set": {"X-Name": "${tls.server_name}"}}"#).apply(&Known(None), &mut edits);
        assert!(!edits.keeps("x-name") && told(&edits).is_empty());
    }

    #[test]
    fn what_an_expression_gives_is_a_value_like_any_other() {
        let mut edits = HeaderEdits::default();
        let rules = rules(
            r#"{"set": {"X-Path": {"cel": "request.path + '!'"}, "X-None": {"cel": "request.headers.none"}, "X-Two": {"cel": "'a\\r\\nb: c'"}},
                "add": {"x-more": ["1", {"cel": "1 + 1"}]}}"#,
        );
        assert!(rules.apply(&Known(None), &mut edits).is_empty());
        let mut told = told(&edits);
        told.sort();
        assert_eq!(told, ["x-more: 1", "x-more: 2", "x-path: /a!"]);
        assert!(!edits.keeps("x-none") && !edits.keeps("x-two"));
    }

    #[test]
    fn what_tells_of_the_server_waits_for_it() {
        let rules = rules(r#"{"set": {"X-Served-By": "${server.name} for ${client.ip}"}}"#);
        let mut edits = HeaderEdits::default();
        let late = rules.apply(&Known(None), &mut edits);
        assert!(!edits.keeps("x-served-by") && told(&edits).is_empty());
        late.iter().for_each(|rule| rule.apply(&Known(Some("a")), &mut edits));
        assert_eq!(told(&edits), ["x-served-by: a for 192.0.2.1"]);
    }
}
