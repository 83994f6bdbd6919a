//! What an answer says of the server's own paths and host, as its client has to hear it.

use http::header::{CONTENT_LOCATION, LOCATION, SET_COOKIE};
use http::{HeaderName, HeaderValue};

use crate::filter::HeaderEdits;
use crate::request::Headers;
use crate::router::Rewrite;

/// How the request was changed on its way.
#[derive(Clone, Debug)]
pub(super) struct Back {
    pub(super) rewrite: Option<Rewrite>,
    /// The host that the server was asked for.
    pub(super) asked: Box<str>,
    /// The scheme and host that the client asks for.
    pub(super) public: (&'static str, Box<str>),
}

impl Back {
    /// Changes what the fields of an answer say.
    pub(super) fn change(&self, headers: Headers<'_>, edits: &mut HeaderEdits) {
        for name in [LOCATION, CONTENT_LOCATION] {
            self.each(name, headers, edits, |value| self.location(value));
        }
        if self.rewrite.is_some() {
            self.each(SET_COOKIE, headers, edits, |value| self.cookie(value));
        }
    }

    /// Changes those values of a field that have to be.
    fn each(
        &self,
        name: HeaderName,
        headers: Headers<'_>,
        edits: &mut HeaderEdits,
        change: impl Fn(&str) -> Option<String>,
    ) {
        let changed = |value: &[u8]| std::str::from_utf8(value).ok().and_then(&change);
        if !headers.all(name.as_str()).any(|value| changed(value).is_some()) {
            return;
        }
        let values = headers.all(name.as_str()).filter_map(|value| match changed(value) {
            Some(changed) => HeaderValue::try_from(changed).ok(),
            None => HeaderValue::from_bytes(value).ok(),
        });
        edits.amend(name.clone(), values.collect());
    }

    fn path(&self, path: &str) -> Option<String> {
        self.rewrite.as_ref()?.back(path)
    }

    /// A reference (RFC 3986 4.1): one to another host is left alone.
    fn location(&self, value: &str) -> Option<String> {
        let (scheme, rest) = match value.split_once("//") {
            Some((scheme @ "", rest)) => (scheme, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http:") || scheme.eq_ignore_ascii_case("https:") => {
                (scheme, rest)
            }
            _ => return self.path(value),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (own_scheme, own) = (self.public.0, &*self.public.1);
        if !own.is_empty() && authority.eq_ignore_ascii_case(own) {
            return Some(format!("{scheme}//{authority}{}", self.path(path)?));
        }
        if !authority.eq_ignore_ascii_case(&self.asked) {
            return None;
        }
        let path = self.path(path).unwrap_or_else(|| path.to_owned());
        Some(if own.is_empty() { path } else { format!("{own_scheme}://{own}{path}") })
    }

    /// A cookie (RFC 6265 4.1) with another `Path`. One whose name forbids any but `/` stays as it is.
    fn cookie(&self, value: &str) -> Option<String> {
        if value.get(..7).is_some_and(|name| name.eq_ignore_ascii_case("__Host-")) {
            return None;
        }
        let is_path = |attribute: &str| {
            attribute.split_once('=').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("path"))
        };
        let mut changed = false;
        let attributes = value.split(';').enumerate().map(|(place, attribute)| {
            let path =
                attribute.split_once('=').filter(|_| place > 0 && is_path(attribute)).map(|(_, path)| path.trim());
            let Some(back) = path.and_then(|path| self.path(path)) else { return attribute.to_owned() };
            changed = true;
            // With a slash behind it, the prefix itself would get no cookie.
            let back = if path == Some("/") { back.trim_end_matches('/') } else { &*back };
            format!(" Path={}", if back.is_empty() { "/" } else { back })
        });
        let value = attributes.collect::<Vec<_>>().join(";");
        changed.then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::config;

    fn back(json: &str) -> Back {
        let said: config::Rewrite = serde_json::from_str(json).unwrap();
        Back {
            rewrite: Rewrite::build(&said),
            asked: "app.internal:8080".into(),
            public: ("https", "www.example.com".into()),
        }
    }

    fn changed(back: &Back, fields: &[(&str, &str)]) -> Vec<String> {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        let mut edits = HeaderEdits::default();
        back.change(Headers::Fields(&fields), &mut edits);
        edits.added().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn redirects_come_back_to_where_the_client_is() {
        let back = back(r#"{"strip_prefix": "/app1"}"#);
        for (said, told) in [
            ("/login", Some("/app1/login")),
            ("/login?next=%2F#x", Some("/app1/login?next=%2F#x")),
            ("/app1/login", None),
            ("login", None),
            ("?x", None),
            ("http://app.internal:8080/x", Some("https://www.example.com/app1/x")),
            ("http://app.internal:8080", Some("https://www.example.com")),
            ("//APP.internal:8080/x", Some("https://www.example.com/app1/x")),
            ("http://www.example.com/x", Some("http://www.example.com/app1/x")),
            ("https://www.example.com/app1/x", None),
            ("https://elsewhere.example/x", None),
            ("ftp://app.internal:8080/x", None),
        ] {
            let told: Vec<String> = told.into_iter().map(|told| format!("location: {told}")).collect();
            assert_eq!(changed(&back, &[("Location", said)]), told, "{said}");
        }
    }

    #[test]
    fn cookies_come_back_to_the_paths_that_clients_ask_for() {
        let back = back(r#"{"strip_prefix": "/app1"}"#);
        for (said, told) in [
            ("a=1; Path=/; HttpOnly", Some("a=1; Path=/app1; HttpOnly")),
            ("a=1;path=/x;Secure", Some("a=1; Path=/app1/x;Secure")),
            ("a=1; Path=/app1", None),
            ("a=1", None),
            ("path=/; Secure", None),
            ("__Host-a=1; Path=/; Secure", None),
        ] {
            let told: Vec<String> = told.into_iter().map(|told| format!("set-cookie: {told}")).collect();
            assert_eq!(changed(&back, &[("Set-Cookie", said)]), told, "{said}");
        }
        let several = [("Set-Cookie", "a=1"), ("set-cookie", "b=2; Path=/")];
        assert_eq!(changed(&back, &several), ["set-cookie: a=1", "set-cookie: b=2; Path=/app1"], "all of them stay");
    }
}
