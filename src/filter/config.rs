//! What the operator says about header fields of requests and answers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::http::config::OneOrMany;

/// `request_headers` and `response_headers`: first `remove`, then `set`, then `add`. Values may hold variables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderRules {
    /// Fields in place of all that have their name. A value that comes out empty leaves the field out.
    pub set: BTreeMap<String, String>,
    /// Fields beside those that have their name.
    pub add: BTreeMap<String, OneOrMany>,
    /// Names of fields that do not pass.
    pub remove: OneOrMany,
}

impl HeaderRules {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.0.is_empty()
    }
}

/// `routes[].files`: files of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The folder.
    pub root: PathBuf,
    /// The file that stands for a folder. Default `index.html`.
    #[serde(default = "index")]
    pub index: String,
    /// The file in place of those that are not there, but for names with a dot: an app in the browser knows which page it
    /// is. Default: none.
    #[serde(default)]
    pub fallback: Option<String>,
}

fn index() -> String {
    "index.html".to_owned()
}
