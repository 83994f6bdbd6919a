//! Conditions of HAProxy (`acl`, `if { … }`) as what a route matches.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::super::draft::{list, literal, one_of, only};

/// What some listeners of a frontend are, for `ssl_fc` and ports.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners {
    pub(super) plain: Vec<String>,
    pub(super) tls: Vec<String>,
}

/// The named conditions of a section; several lines of one name are alternatives.
pub(super) type Named = BTreeMap<String, Vec<Result<Mapping, String>>>;

/// What a condition (`words` behind `if`) makes of a `match`; `Err` says what in it has no counterpart.
pub(super) fn condition(
    words: &[String],
    negate: bool,
    named: &Named,
    listeners: &Listeners,
) -> Result<Mapping, String> {
    let mut alternatives = Vec::new();
    let mut all = Mapping::new();
    let mut rest = words;
    while let Some((word, others)) = rest.split_first() {
        rest = others;
        if word == "or" || word == "||" {
            alternatives.push(std::mem::take(&mut all));
            continue;
        }
        if word == "and" || word == "&&" {
            continue;
        }
        let (not, word) = match word.strip_prefix('!') {
            Some("") if !rest.is_empty() => {
                let word = &rest[0];
                rest = &rest[1..];
                (true, word.as_str())
            }
            Some(word) => (true, word),
            None => (false, word.as_str()),
        };
        let one = if word == "{" {
            let end = rest.iter().position(|word| word == "}").ok_or("it has a `{` that is not closed")?;
            let inside = criterion(&rest[..end], listeners)?;
            rest = &rest[end + 1..];
            inside
        } else {
            by_name(word, named)?
        };
        if one == only("listener", Value::Sequence(Vec::new())) {
            if !not {
                return Err("none of its listeners speaks TLS".to_owned());
            }
        } else {
            join(&mut all, one, not, listeners);
        }
    }
    alternatives.push(all);
    let matched = one_of(alternatives);
    if negate {
        let mut turned = Mapping::new();
        join(&mut turned, matched, true, listeners);
        return Ok(turned);
    }
    Ok(matched)
}

/// Adds what has to hold, too.
fn join(all: &mut Mapping, one: Mapping, not: bool, listeners: &Listeners) {
    if not && one == only("listener", list(&listeners.tls)) && !listeners.plain.is_empty() {
        return join(all, only("listener", list(&listeners.plain)), false, listeners);
    }
    if not {
        push(all, "not", Value::Mapping(one));
        return;
    }
    for (key, value) in one {
        match (key.as_str().unwrap_or_default(), all.get(&key).cloned()) {
            (_, None) => _ = all.insert(key, value),
            ("not", Some(_)) => {
                let more = value.as_sequence().cloned().unwrap_or_else(|| vec![value.clone()]);
                more.into_iter().for_each(|one| push(all, "not", one));
            }
            ("headers" | "headers_regex" | "cookies" | "query", Some(Value::Mapping(mut before)))
                if value.as_mapping().is_some_and(|more| more.keys().all(|name| !before.contains_key(name))) =>
            {
                before.extend(value.as_mapping().cloned().unwrap_or_default());
                all.insert(key, Value::Mapping(before));
            }
            // The same key twice: both have to hold, which a match says of others by the opposite of their opposite.
            (name, Some(_)) => push(all, "not", Value::Mapping(only("not", Value::Mapping(only(name, value))))),
        }
    }
}

fn push(all: &mut Mapping, key: &str, value: Value) {
    let value = match all.get(key) {
        None => value,
        Some(Value::Sequence(list)) => Value::Sequence(list.iter().cloned().chain([value]).collect()),
        Some(one) => Value::Sequence(vec![one.clone(), value]),
    };
    all.insert(key.into(), value);
}

fn by_name(name: &str, named: &Named) -> Result<Mapping, String> {
    match name {
        "TRUE" => return Ok(Mapping::new()),
        "HTTP" | "HTTP_1.1" => return Ok(Mapping::new()),
        "METH_GET" => return Ok(only("method", list(&["GET", "HEAD"]))),
        "METH_POST" => return Ok(only("method", "POST")),
        "METH_OPTIONS" => return Ok(only("method", "OPTIONS")),
        "LOCALHOST" => return Ok(only("client", "127.0.0.0/8")),
        _ => {}
    }
    let lines = named.get(name).ok_or_else(|| format!("no `acl {name}` stands before it"))?;
    let alternatives = lines.iter().cloned().collect::<Result<Vec<_>, _>>()?;
    Ok(one_of(alternatives))
}

/// What `hdr(Host) -i example.com` and the like match.
pub(super) fn criterion(words: &[String], listeners: &Listeners) -> Result<Mapping, String> {
    let (first, rest) = words.split_first().ok_or("an empty condition")?;
    let mut flags: Vec<&str> = Vec::new();
    let mut values: Vec<&str> = Vec::new();
    let mut rest = rest.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        match word {
            "-m" => flags.extend(rest.next()),
            "-f" => return Err("its values are in a file".to_owned()),
            "--" => values.extend(rest.by_ref()),
            _ if word.starts_with('-') && word.len() == 2 => flags.push(word),
            _ => values.push(word),
        }
    }
    let (name, argument) = match first.split_once('(') {
        Some((name, argument)) => (name, argument.trim_end_matches(')')),
        None => (first.as_str(), ""),
    };
    // `req.hdr`, `req.cook` and so on are the same as without what they come from.
    let name = name.strip_prefix("req.").or_else(|| name.strip_prefix("req_")).unwrap_or(name);
    let (name, by) = match ["_beg", "_end", "_dir", "_sub", "_reg", "_dom", "_str"]
        .iter()
        .find_map(|by| name.strip_suffix(by).map(|name| (name, &by[1..])))
    {
        Some(split) => split,
        None => (name, flags.iter().copied().find(|flag| !flag.starts_with('-')).unwrap_or("str")),
    };
    let any_case = flags.contains(&"-i");
    let argument = argument.split(',').next().unwrap_or_default();
    let regexes = |form: &dyn Fn(&str) -> String| {
        let case = if any_case { "(?i)" } else { "" };
        values.iter().map(|value| literal(&format!("{case}{}", form(value)))).collect::<Vec<_>>()
    };
    let escaped = |value: &str| regex::escape(value);
    let texts = || values.iter().map(|value| literal(value)).collect::<Vec<_>>();
    let needs_values = || {
        if values.is_empty() { Err(format!("`{first}` is compared with nothing")) } else { Ok(()) }
    };
    match (name, by) {
        ("ssl_fc", _) if values.is_empty() => Ok(only("listener", list(&listeners.tls))),
        ("ssl_fc_sni" | "ssl_sni", "str") => Ok(only("server_name", list(&lower(&values)))),
        ("ssl_fc_sni" | "ssl_sni", "end") => Ok(only("server_name", list(&ends_of_hosts(&values)?))),
        ("path", _) if !values.is_empty() => match by {
            "str" if !any_case => Ok(only("path_exact", list(&texts()))),
            "str" => Ok(only("path_regex", list(&regexes(&|value| format!("^{}$", escaped(value)))))),
            // Whole segments, where that is the same.
            "beg"
                if !any_case
                    && values.iter().all(|value| {
                        value.ends_with('/') || value.rsplit('/').next().is_some_and(|last| last.len() > 2)
                    }) =>
            {
                Ok(only("path", list(&texts())))
            }
            "beg" => Ok(only("path_regex", list(&regexes(&|value| format!("^{}", escaped(value)))))),
            "end" => Ok(only("path_regex", list(&regexes(&|value| format!("{}$", escaped(value)))))),
            "reg" => Ok(only("path_regex", list(&regexes(&str::to_owned)))),
            "sub" => Ok(only("path_regex", list(&regexes(&escaped)))),
            "dir" => {
                Ok(only("path_regex", list(&regexes(&|value| format!("/{}(/|$)", escaped(value.trim_matches('/')))))))
            }
            _ => Err(format!("`{first}` has no counterpart")),
        },
        ("url" | "uri", "beg") if !any_case => Ok(only("path", list(&texts()))),
        ("method", "str") => {
            Ok(only("method", list(&values.iter().map(|value| value.to_ascii_uppercase()).collect::<Vec<_>>())))
        }
        ("src", _) if !values.is_empty() => Ok(only("client", list(&values))),
        ("dst_port", _) if values.iter().all(|value| value.parse::<u16>().is_ok()) && !values.is_empty() => {
            let ports = values.iter().filter_map(|value| value.parse::<u16>().ok()).map(Value::from).collect();
            Ok(only("port", Value::Sequence(ports)))
        }
        ("hdr" | "fhdr", _) if argument.eq_ignore_ascii_case("host") => {
            needs_values()?;
            match by {
                "str" => Ok(only("host", list(&lower(&values)))),
                "dom" | "sub" if values.iter().all(|value| value.contains('.')) => {
                    let both = values
                        .iter()
                        .flat_map(|value| [value.to_ascii_lowercase(), format!("*.{}", value.to_ascii_lowercase())]);
                    Ok(only("host", list(&both.collect::<Vec<_>>())))
                }
                "end" => Ok(only("host", list(&ends_of_hosts(&values)?))),
                "beg" => Ok(header_regex(
                    "host",
                    &values.iter().map(|value| literal(&format!("(?i)^{}", escaped(value)))).collect::<Vec<_>>(),
                )),
                "reg" => Ok(header_regex("host", &regexes(&str::to_owned))),
                _ => Err(format!("`{first}` has no counterpart")),
            }
        }
        ("hdr" | "fhdr", _)
            if argument.eq_ignore_ascii_case("upgrade")
                && values.iter().any(|value| value.eq_ignore_ascii_case("websocket")) =>
        {
            Ok(only("upgrade", "websocket"))
        }
        // What an upgrade says beside `Upgrade`.
        ("hdr" | "fhdr", _)
            if argument.eq_ignore_ascii_case("connection")
                && values.iter().all(|value| value.eq_ignore_ascii_case("upgrade")) =>
        {
            Ok(only("upgrade", "websocket"))
        }
        ("hdr_cnt", _) | ("hdr" | "fhdr", "found") => Ok(only("headers", only(&argument.to_ascii_lowercase(), "*"))),
        ("hdr" | "fhdr", "str") if values.len() == 1 && !any_case => {
            Ok(only("headers", only(&argument.to_ascii_lowercase(), literal(values[0]))))
        }
        ("hdr" | "fhdr", "str" | "beg" | "end" | "sub" | "reg") if !values.is_empty() => Ok(header_regex(
            &argument.to_ascii_lowercase(),
            &regexes(&|value| match by {
                "str" => format!("^{}$", escaped(value)),
                "beg" => format!("^{}", escaped(value)),
                "end" => format!("{}$", escaped(value)),
                "sub" => escaped(value),
                _ => value.to_owned(),
            }),
        )),
        ("cook", "found") => Ok(only("cookies", only(argument, "*"))),
        ("cook", "str") if values.len() == 1 => Ok(only("cookies", only(argument, literal(values[0])))),
        ("urlp" | "url_param", "found") => Ok(only("query", only(argument, "*"))),
        ("urlp" | "url_param", "str") if values.len() == 1 => Ok(only("query", only(argument, literal(values[0])))),
        _ => Err(format!("`{first}` has no counterpart")),
    }
}

fn lower(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| value.to_ascii_lowercase()).collect()
}

fn ends_of_hosts(values: &[&str]) -> Result<Vec<String>, String> {
    let end = |value: &&str| value.strip_prefix('.').map(|rest| format!("*.{}", rest.to_ascii_lowercase()));
    values
        .iter()
        .map(end)
        .collect::<Option<_>>()
        .ok_or_else(|| "an end of a host begins with a dot here: `*.example.com`".to_owned())
}

/// One of the expressions has to find something.
fn header_regex(name: &str, expressions: &[String]) -> Mapping {
    let one = match expressions {
        [one] => one.clone(),
        several => several.iter().map(|one| format!("(?:{one})")).collect::<Vec<_>>().join("|"),
    };
    only("headers_regex", only(name, one))
}
