//! Conditions in the status of an object: what holds of it, for which of its words, since when and why.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// The longest text: an API server takes some more, and nobody reads as much.
const LONGEST: usize = 2000;

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Its name, such as `Accepted`.
    pub(crate) kind: &'static str,
    pub(crate) holds: bool,
    /// One word, for machines.
    pub(crate) reason: &'static str,
    /// For people; empty where there is nothing to say.
    pub(crate) message: String,
}

impl Condition {
    /// It holds, for the usual reason.
    pub(crate) fn holds(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, holds: true, reason, message: String::new() }
    }

    /// It does not hold.
    pub(crate) fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }

    /// Whether it says that something is wrong.
    pub(crate) fn is_bad(&self) -> bool {
        // Those two are there only to say so.
        self.holds == matches!(self.kind, "Conflicted" | "PartiallyInvalid")
    }

    /// The same as an object has it; the time is kept of one that is there and says the same.
    fn written(&self, generation: i64, before: &[Value]) -> Value {
        let status = if self.holds { "True" } else { "False" };
        let known = before.iter().find(|known| known["type"] == self.kind && known["status"] == status);
        let since = known.and_then(|known| known["lastTransitionTime"].as_str()).map(str::to_owned);
        // Seconds are as fine as an API server keeps it.
        let now = || Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!({
            "type": self.kind,
            "status": status,
            "reason": self.reason,
            "message": self.message.chars().take(LONGEST).collect::<String>(),
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or_else(now),
        })
    }
}

/// Conditions as an object has them; those of others that stand there stay.
pub(crate) fn written(conditions: &[Condition], generation: i64, before: &Value) -> Value {
    let before = before.as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = conditions.iter().map(|condition| condition.written(generation, before));
    let is_known = |one: &&Value| {
        // Once said by this gateway, and not so now.
        let once = matches!(one["type"].as_str(), Some("PartiallyInvalid"));
        once || conditions.iter().any(|condition| one["type"] == condition.kind)
    };
    ours.chain(before.iter().filter(|one| !is_known(one)).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_for_as_long_as_it_says_the_same() {
        let before = json!([
            { "type": "Accepted", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            { "type": "ResolvedRefs", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            { "type": "Other", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            { "type": "PartiallyInvalid", "status": "True" },
        ]);
        let now = [
            Condition::holds("Accepted", "Accepted"),
            Condition::fails("ResolvedRefs", "BackendNotFound", "the Service a/b is not there"),
        ];
        let written = written(&now, 7, &before);
        assert_eq!(written[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(written[0]["observedGeneration"], 7);
        assert_ne!(written[1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(written[1]["message"], "the Service a/b is not there");
        let kinds: Vec<_> = written.as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Accepted", "ResolvedRefs", "Other"], "another's stays, and what was once said goes");
    }
}
