//! Changes to the header fields of a message that passes: a list that whoever writes the head applies.

use http::{HeaderName, HeaderValue};
use log::warn;

use super::hop_by_hop::is_hop_by_hop;

/// Fields to set, to add and to remove, in a head that passes the gateway.
///
/// The fields that frame a message or belong to one connection are the gateway's own: an edit of one is left out, with a
/// warning in the log.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits(Option<Box<Lists>>);

/// Made with the first edit: most messages pass as they are.
#[derive(Clone, Debug, Default)]
struct Lists {
    removed: Vec<HeaderName>,
    added: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Sets a field, in place of all that have its name.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        if is_free(&name) {
            self.remove(name.clone());
            self.lists().added.push((name, value));
        }
    }

    /// Adds a field beside those that have its name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        if is_free(&name) {
            self.lists().added.push((name, value));
        }
    }

    /// Removes every field of this name.
    pub fn remove(&mut self, name: HeaderName) {
        if is_free(&name) {
            let Lists { removed, added } = self.lists();
            added.retain(|(added, _)| *added != name);
            if !removed.contains(&name) {
                removed.push(name);
            }
        }
    }

    /// Passes a field on with other values than those that were sent. What has been said of the field before, and what is
    /// added beside it, stands.
    pub(crate) fn amend(&mut self, name: HeaderName, values: Vec<HeaderValue>) {
        if is_free(&name) && self.keeps(name.as_str()) {
            let Lists { removed, added } = self.lists();
            added.splice(..0, values.into_iter().map(|value| (name.clone(), value)));
            removed.push(name);
        }
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a field that is there already stays, by its name in any case.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        let removed = self.0.as_ref().map(|lists| &lists.removed);
        removed.is_none_or(|removed| !removed.iter().any(|removed| removed.as_str().eq_ignore_ascii_case(name)))
    }

    /// The fields that come in.
    pub(crate) fn added(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        let added = self.0.as_ref().map_or(&[][..], |lists| &lists.added);
        added.iter().map(|(name, value)| (name, value))
    }

    /// The last value that a field is set to.
    pub(crate) fn value(&self, name: &str) -> Option<&HeaderValue> {
        self.0.as_ref()?.added.iter().rev().find(|(added, _)| added == name).map(|(_, value)| value)
    }

    fn lists(&mut self) -> &mut Lists {
        self.0.get_or_insert_default()
    }
}

/// Whether a field may be edited.
fn is_free(name: &HeaderName) -> bool {
    let framing = matches!(name.as_str(), "content-length" | "transfer-encoding");
    let free = !framing && !is_hop_by_hop(name.as_str());
    if !free {
        warn!("a filter may not edit `{name}`: it is the connection's");
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn the_last_word_on_a_field_counts() {
        let name = HeaderName::from_static("x-user");
        let mut edits = HeaderEdits::default();
        assert!(edits.is_empty() && edits.keeps("X-User"));
        edits.append(name.clone(), value("a"));
        edits.append(name.clone(), value("b"));
        assert!(edits.keeps("X-User"), "what is appended leaves what is there");
        assert_eq!(edits.added().count(), 2);
        edits.set(name.clone(), value("c"));
        assert!(!edits.keeps("X-User"));
        assert_eq!(edits.added().collect::<Vec<_>>(), [(&name, &value("c"))]);
        assert_eq!(edits.value("x-user"), Some(&value("c")));
        edits.remove(name);
        assert!(!edits.keeps("x-user") && edits.added().next().is_none());
    }

    #[test]
    fn a_field_with_other_values_is_still_added_to_and_stays_removed() {
        let name = HeaderName::from_static("x-user");
        let mut edits = HeaderEdits::default();
        edits.append(name.clone(), value("more"));
        edits.amend(name.clone(), vec![value("a"), value("b")]);
        assert!(!edits.keeps("x-user"), "what was sent does not pass");
        assert_eq!(edits.added().map(|(_, value)| value).collect::<Vec<_>>(), ["a", "b", "more"]);
        edits.remove(name.clone());
        edits.amend(name, vec![value("c")]);
        assert_eq!(edits.added().count(), 0);
    }

    #[test]
    fn what_frames_a_message_is_nobodys_to_edit() {
        let mut edits = HeaderEdits::default();
        for name in ["content-length", "transfer-encoding", "connection", "upgrade", "te"] {
            edits.set(HeaderName::from_static(name), value("1"));
            edits.append(HeaderName::from_static(name), value("1"));
            edits.remove(HeaderName::from_static(name));
        }
        assert!(edits.is_empty());
    }
}
