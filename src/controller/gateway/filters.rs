//! What the filters of an HTTPRoute's rule make of a route.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::objects::{Cors, Filter, HeaderModifier, HttpTimeouts, MirrorTo, PathTo, RedirectTo, RewriteTo};

/// The filters of a rule, as they are taken up.
#[derive(Clone, Debug, Default)]
pub(super) struct Filters {
    pub(super) request_headers: Option<Value>,
    pub(super) response_headers: Option<Value>,
    pub(super) mirror: Option<MirrorTo>,
    pub(super) redirect: Option<RedirectTo>,
    pub(super) rewrite: Option<RewriteTo>,
    pub(super) cors: Option<Value>,
}

impl Filters {
    /// Reads them.
    ///
    /// # Errors
    /// What there is no way to do, in one plain sentence: without it a request would be another than was meant.
    pub(super) fn read(all: &[Filter]) -> Result<Self, String> {
        let mut read = Self::default();
        for filter in all {
            let kind = filter.kind.as_str();
            let empty = || format!("a filter of the type {kind} says nothing");
            let is_second = match kind {
                "RequestHeaderModifier" => {
                    let said = filter.request_header_modifier.as_ref().ok_or_else(empty)?;
                    read.request_headers.replace(headers(said)).is_some()
                }
                "ResponseHeaderModifier" => {
                    let said = filter.response_header_modifier.as_ref().ok_or_else(empty)?;
                    read.response_headers.replace(headers(said)).is_some()
                }
                "RequestMirror" => {
                    let said = filter.request_mirror.clone().ok_or_else(empty)?;
                    read.mirror.replace(said).is_some()
                }
                "RequestRedirect" => {
                    let said = filter.request_redirect.clone().ok_or_else(empty)?;
                    read.redirect.replace(said).is_some()
                }
                "URLRewrite" => read.rewrite.replace(filter.url_rewrite.clone().ok_or_else(empty)?).is_some(),
                "CORS" => read.cors.replace(cors(filter.cors.as_ref().ok_or_else(empty)?)).is_some(),
                _ => return Err(format!("a filter of the type {kind} is refused")),
            };
            if is_second {
                return Err(format!("a second filter of the type {kind} is refused"));
            }
        }
        if read.redirect.is_some() && read.rewrite.is_some() {
            return Err("RequestRedirect and URLRewrite in one rule are refused".to_owned());
        }
        Ok(read)
    }
}

/// `request_headers` or `response_headers`.
fn headers(said: &HeaderModifier) -> Value {
    let plain = |value: &str| value.replace("${", "$${");
    let set: Map<String, Value> = said.set.iter().map(|one| (one.name.clone(), plain(&one.value).into())).collect();
    let mut add: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in &said.add {
        add.entry(&one.name).or_default().push(plain(&one.value));
    }
    let mut rules = Map::new();
    if !set.is_empty() {
        rules.insert("set".to_owned(), set.into());
    }
    if !add.is_empty() {
        rules.insert("add".to_owned(), json!(add));
    }
    if !said.remove.is_empty() {
        rules.insert("remove".to_owned(), json!(said.remove));
    }
    rules.into()
}

/// `redirect` of a route for a listener of this port, and the `rewrite` beside it. `prefix` is the path that the rule asks for,
/// where it asks for one that others begin with.
///
/// # Errors
/// As [`Filters::read`].
pub(super) fn redirect(said: &RedirectTo, port: u16, prefix: Option<&str>) -> Result<Map<String, Value>, String> {
    let mut redirect = json!({ "status": said.status_code.unwrap_or(302) });
    // A usual port is that of the scheme, which a proxy that ends TLS in front may tell otherwise.
    let port = said.port.or_else(|| (said.scheme.is_none() && !matches!(port, 80 | 443)).then_some(port));
    let keys = [
        ("scheme", said.scheme.clone().map(Value::from)),
        ("host", said.hostname.clone().map(Value::from)),
        ("port", port.map(Value::from)),
    ];
    for (key, value) in keys {
        if let Some(value) = value {
            redirect[key] = value;
        }
    }
    let mut route = Map::from_iter([("redirect".to_owned(), redirect)]);
    if let Some(to) = said.path.as_ref().map(|path| path_to(path, prefix)).transpose()?.flatten() {
        route.insert("rewrite".to_owned(), to);
    }
    Ok(route)
}

/// `rewrite` and `host` of a route.
///
/// # Errors
/// As [`Filters::read`].
pub(super) fn rewrite(said: &RewriteTo, prefix: Option<&str>) -> Result<Map<String, Value>, String> {
    let mut route = Map::new();
    if let Some(host) = &said.hostname {
        route.insert("host".to_owned(), host.as_str().into());
    }
    if let Some(to) = said.path.as_ref().map(|path| path_to(path, prefix)).transpose()?.flatten() {
        route.insert("rewrite".to_owned(), to);
    }
    Ok(route)
}

/// `rewrite` of a route; `None` where it would change nothing.
fn path_to(said: &PathTo, prefix: Option<&str>) -> Result<Option<Value>, String> {
    match (said.how.as_str(), &said.replace_full_path, &said.replace_prefix_match, prefix) {
        ("ReplaceFullPath", Some(path), ..) => Ok(Some(json!({ "regex": "^.*$", "to": path.replace('$', "$$") }))),
        ("ReplacePrefixMatch", _, Some(to), Some(prefix)) => {
            let keys = [("strip_prefix", prefix.trim_end_matches('/')), ("add_prefix", to.trim_end_matches('/'))];
            let keys: Map<String, Value> = keys
                .into_iter()
                .filter(|(_, prefix)| !prefix.is_empty())
                .map(|(key, prefix)| (key.to_owned(), prefix.into()))
                .collect();
            Ok((!keys.is_empty()).then(|| keys.into()))
        }
        ("ReplacePrefixMatch", _, Some(_), None) => {
            Err("ReplacePrefixMatch is refused where a match is not of the type PathPrefix".to_owned())
        }
        (how, ..) => {
            Err(format!("a path of the type {how} is refused: expected ReplaceFullPath or ReplacePrefixMatch"))
        }
    }
}

/// `access.cors`.
fn cors(said: &Cors) -> Value {
    let every = said.allow_origins.iter().any(|origin| origin == "*");
    let origins = if every { json!("*") } else { json!(said.allow_origins) };
    // With every origin it would let any site read what belongs to the user.
    let credentials = said.allow_credentials.unwrap_or(false) && !every;
    let max_age = humantime::format_duration(Duration::from_secs(said.max_age.unwrap_or(5))).to_string();
    let mut cors = json!({ "origins": origins, "credentials": credentials, "max_age": max_age });
    let lists = [("methods", &said.allow_methods), ("headers", &said.allow_headers), ("expose", &said.expose_headers)];
    for (key, list) in lists {
        // Without a list: what pages ask for.
        if !list.is_empty() && !list.iter().any(|one| one == "*") {
            cors[key] = json!(list);
        }
    }
    cors
}

/// `timeouts` of a route: the shorter of both, to the head of an answer; zero is none at all.
///
/// # Errors
/// As [`Filters::read`].
pub(super) fn timeouts(said: &HttpTimeouts) -> Result<Option<Value>, String> {
    let read = |text: &Option<String>| match text {
        Some(text) => match humantime::parse_duration(text) {
            Ok(time) => Ok(Some(time)),
            Err(_) if text == "0s" => Ok(Some(Duration::ZERO)),
            Err(_) => Err(format!("the timeout {text} is refused: expected a duration such as 10s")),
        },
        None => Ok(None),
    };
    let all = [read(&said.request)?, read(&said.backend_request)?];
    let shortest = all.iter().flatten().filter(|time| !time.is_zero()).min();
    let time = shortest.or_else(|| all.iter().flatten().next());
    Ok(time.map(|time| json!({ "first_byte": humantime::format_duration(*time).to_string() })))
}

/// How many of a hundred requests are mirrored.
pub(super) fn percent(said: &MirrorTo) -> u8 {
    match (said.percent, &said.fraction) {
        (Some(percent), _) => percent,
        (None, Some(fraction)) => {
            let whole = u64::from(fraction.denominator.unwrap_or(100).max(1));
            u8::try_from((u64::from(fraction.numerator) * 100).div_ceil(whole)).unwrap_or(100).min(100)
        }
        (None, None) => 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to<T: serde::de::DeserializeOwned>(json: Value) -> T {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_port_is_that_of_the_listener_where_no_scheme_is_said() {
        for (said, expected) in [
            (json!({ "hostname": "a.test" }), json!({ "status": 302, "host": "a.test", "port": 8080 })),
            (json!({ "scheme": "https" }), json!({ "status": 302, "scheme": "https" })),
            (
                json!({ "scheme": "https", "port": 8443, "statusCode": 301 }),
                json!({ "status": 301, "scheme": "https", "port": 8443 }),
            ),
        ] {
            assert_eq!(redirect(&to(said), 8080, None).unwrap()["redirect"], expected);
        }
        for usual in [80, 443] {
            let said = to(json!({ "hostname": "a.test" }));
            assert_eq!(redirect(&said, usual, None).unwrap()["redirect"], json!({ "status": 302, "host": "a.test" }));
        }
    }

    #[test]
    fn a_path_is_replaced_as_a_whole_or_by_its_prefix() {
        let path = |said: Value, prefix| path_to(&to(said), prefix);
        let prefix = |to: &str| json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": to });
        let strip = json!({ "strip_prefix": "/a", "add_prefix": "/b" });
        assert_eq!(path(prefix("/b"), Some("/a/")).unwrap(), Some(strip));
        assert_eq!(path(prefix("/"), Some("/a")).unwrap(), Some(json!({ "strip_prefix": "/a" })));
        assert_eq!(path(prefix("/"), Some("/")).unwrap(), None);
        assert!(path(prefix("/b"), None).is_err());
        let full = json!({ "type": "ReplaceFullPath", "replaceFullPath": "/x$1" });
        assert_eq!(path(full, None).unwrap(), Some(json!({ "regex": "^.*$", "to": "/x$$1" })));
    }

    #[test]
    fn the_shorter_time_counts_and_zero_is_none() {
        let times = |request: &str, backend: &str| {
            timeouts(&to(json!({ "request": request, "backendRequest": backend }))).unwrap().unwrap()["first_byte"]
                .clone()
        };
        assert_eq!(times("10s", "500ms"), "500ms");
        assert_eq!(times("0s", "1m"), "1m");
        assert_eq!(times("0s", "0s"), "0s");
        assert!(timeouts(&to(json!({ "request": "soon" }))).is_err());
    }

    #[test]
    fn shares_of_copies_are_in_percent() {
        for (said, expected) in [
            (json!({}), 100),
            (json!({ "percent": 20 }), 20),
            (json!({ "fraction": { "numerator": 1, "denominator": 4 } }), 25),
            (json!({ "fraction": { "numerator": 1, "denominator": 1000 } }), 1),
        ] {
            assert_eq!(percent(&to(said)), expected);
        }
    }

    #[test]
    fn variables_of_the_file_are_none_of_a_routes() {
        let said = to(
            json!({ "set": [{ "name": "x-a", "value": "${client.ip}" }], "add": [{ "name": "x-b", "value": "1" }, { "name": "x-b", "value": "2" }], "remove": ["x-c"] }),
        );
        assert_eq!(
            headers(&said),
            json!({ "set": { "x-a": "$${client.ip}" }, "add": { "x-b": ["1", "2"] }, "remove": ["x-c"] })
        );
    }
}
