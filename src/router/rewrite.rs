//! Paths that servers get in place of those that clients ask for, and the way back for what answers say.

use std::borrow::Cow;

use regex::Regex;

use super::config;
use super::matcher::regex;
use crate::http::Refusal;
use crate::request::{Path, Request};

/// The compiled form of a `rewrite`.
#[derive(Clone, Debug)]
pub(crate) enum Rewrite {
    /// The first segments of the path, without the final slash, and what stands in their place.
    Prefix { strip: Box<str>, add: Box<str> },
    /// What is found in the path, and what stands in its place.
    Regex { find: Regex, to: Box<str> },
}

impl Rewrite {
    /// Compiles what has been checked already.
    pub(crate) fn build(said: &config::Rewrite) -> Option<Self> {
        let prefix = |prefix: &Option<String>| Box::from(prefix.as_deref().unwrap_or("").trim_end_matches('/'));
        match &said.regex {
            Some(text) => Some(Self::Regex { find: regex(text).ok()?, to: said.to.as_deref().unwrap_or("").into() }),
            None => Some(Self::Prefix { strip: prefix(&said.strip_prefix), add: prefix(&said.add_prefix) }),
        }
    }

    /// The path and query that the server gets; `None` where they are those of the client.
    ///
    /// What the client wrote in another way than the canonical one goes on in that one. A path that servers could read in
    /// two ways is refused where these lead to different rewrites.
    pub(crate) fn target(&self, request: &Request<'_>) -> Result<Option<String>, Refusal> {
        let Path { canonical, loose } = &request.path;
        if !canonical.starts_with('/') {
            return Ok(None);
        }
        let path = match self {
            Self::Prefix { strip, add } => {
                let rest = below(canonical, strip);
                if loose.iter().any(|reading| below(reading, strip).is_some() != rest.is_some()) {
                    return Err(Refusal::AmbiguousPath);
                }
                let Some(rest) = rest else { return Ok(None) };
                if strip.is_empty() && add.is_empty() {
                    return Ok(None);
                }
                joined(add, rest)
            }
            Self::Regex { find, to } => {
                if loose.iter().any(|reading| find.is_match(reading)) {
                    return Err(Refusal::AmbiguousPath);
                }
                match find.replace(canonical, &**to) {
                    Cow::Borrowed(_) => return Ok(None),
                    Cow::Owned(_) if !loose.is_empty() => return Err(Refusal::AmbiguousPath),
                    Cow::Owned(path) => Path::read(&path).map_err(Refusal::BadPath)?.canonical.into_owned(),
                }
            }
        };
        Ok(Some(match request.query {
            Some(query) => format!("{path}?{query}"),
            None => path,
        }))
    }

    /// The prefix that servers do not see.
    pub(crate) fn stripped(&self) -> Option<&str> {
        match self {
            Self::Prefix { strip, .. } => (!strip.is_empty()).then_some(strip),
            Self::Regex { .. } => None,
        }
    }

    /// Where clients find what a server calls by this path, perhaps with more behind it; `None` where that is the same, or
    /// nowhere.
    pub(crate) fn back(&self, path: &str) -> Option<String> {
        let Self::Prefix { strip, add } = self else { return None };
        let end = path.find(['?', '#']).unwrap_or(path.len());
        let (path, more) = path.split_at(end);
        let rest = below(path, add).filter(|_| path.starts_with('/'))?;
        // Servers that have been told of the prefix write it themselves.
        if add.is_empty() && below(path, strip).is_some() {
            return None;
        }
        Some(joined(strip, rest) + more)
    }
}

/// What follows the prefix in a path that is it, or lies below it.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn joined(prefix: &str, rest: &str) -> String {
    let path = format!("{prefix}{rest}");
    if path.is_empty() { "/".to_owned() } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::request;

    fn rewrite(json: &str) -> Rewrite {
        Rewrite::build(&serde_json::from_str(json).unwrap()).unwrap()
    }

    fn target(rewrite: &Rewrite, target: &str) -> Result<Option<String>, Refusal> {
        rewrite.target(&request("GET", target, &[]))
    }

    #[test]
    fn prefixes_are_stripped_and_added_by_whole_segments() {
        let strip = rewrite(r#"{"strip_prefix": "/app1/"}"#);
        let both = rewrite(r#"{"strip_prefix": "/app1", "add_prefix": "/v2"}"#);
        let add = rewrite(r#"{"add_prefix": "/v2/"}"#);
        for (asked, stripped, replaced, added) in [
            (
                "/app1/socket.io/?EIO=4",
                Some("/socket.io/?EIO=4"),
                Some("/v2/socket.io/?EIO=4"),
                "/v2/app1/socket.io/?EIO=4",
            ),
            ("/app1", Some("/"), Some("/v2"), "/v2/app1"),
            ("/app1/", Some("/"), Some("/v2/"), "/v2/app1/"),
            ("/app11/x", None, None, "/v2/app11/x"),
            ("/x", None, None, "/v2/x"),
            ("//x/../app1/./y%2e?a=/app1", Some("/y.?a=/app1"), Some("/v2/y.?a=/app1"), "/v2/app1/y.?a=/app1"),
            ("/app1/a%2fb", Some("/a%2Fb"), Some("/v2/a%2Fb"), "/v2/app1/a%2Fb"),
        ] {
            assert_eq!(target(&strip, asked), Ok(stripped.map(str::to_owned)), "{asked}");
            assert_eq!(target(&both, asked), Ok(replaced.map(str::to_owned)), "{asked}");
            assert_eq!(target(&add, asked), Ok(Some(added.to_owned())), "{asked}");
        }
        assert_eq!(target(&strip, "*"), Ok(None));
    }

    #[test]
    fn nobody_climbs_out_of_a_prefix() {
        let strip = rewrite(r#"{"strip_prefix": "/app1"}"#);
        for path in ["/app1/..%2Fadmin", "/app1/..;/admin", "/x%2f..%2fapp1/y"] {
            assert_eq!(target(&strip, path), Err(Refusal::AmbiguousPath), "{path}");
        }
        assert_eq!(target(&strip, "/app1/../admin"), Ok(None), "it is no path below the prefix");
    }

    #[test]
    fn what_a_regular_expression_finds_is_replaced() {
        let regex = rewrite(r#"{"regex": "^/users/([0-9]+)(/.*)?$", "to": "/u$2/$1"}"#);
        assert_eq!(target(&regex, "/users/7/photos?x=1"), Ok(Some("/u/photos/7?x=1".to_owned())));
        assert_eq!(target(&regex, "/users/7"), Ok(Some("/u/7".to_owned())));
        assert_eq!(target(&regex, "/users/x"), Ok(None));
        assert_eq!(target(&regex, "/users/7/a%2Fb"), Err(Refusal::AmbiguousPath));
        let gone = rewrite(r#"{"regex": "^/x", "to": ""}"#);
        assert_eq!(target(&gone, "/x/y"), Ok(Some("/y".to_owned())));
        assert!(matches!(target(&gone, "/x"), Err(Refusal::BadPath(_))), "nothing is left of it");
        let doubled = rewrite(r#"{"regex": "^/x", "to": "//evil.example"}"#);
        assert_eq!(target(&doubled, "/x/y"), Ok(Some("/evil.example/y".to_owned())), "a path, and no host");
    }

    #[test]
    fn what_servers_call_by_a_path_is_found_again() {
        let strip = rewrite(r#"{"strip_prefix": "/app1"}"#);
        let both = rewrite(r#"{"strip_prefix": "/app1", "add_prefix": "/v2"}"#);
        for (path, stripped, replaced) in [
            ("/login?next=/", Some("/app1/login?next=/"), None),
            ("/", Some("/app1/"), None),
            ("/app1/x#y", None, None),
            ("/v2/x", Some("/app1/v2/x"), Some("/app1/x")),
            ("/v2", Some("/app1/v2"), Some("/app1")),
            ("x", None, None),
        ] {
            assert_eq!(strip.back(path).as_deref(), stripped, "{path}");
            assert_eq!(both.back(path).as_deref(), replaced, "{path}");
        }
        assert_eq!(rewrite(r#"{"regex": "a", "to": "b"}"#).back("/b"), None);
    }
}
