//! Environment variables inside values: `${NAME}`, `${NAME:-default}`, and `$$` for a dollar sign. A name with a dot is no
//! variable of the environment's: `${client.ip}` is left to whoever reads the value.

use std::borrow::Cow;

/// The text with every variable replaced by its value, or a sentence that says which one cannot be.
pub(super) fn expand<'a>(text: &'a str, env: &dyn Fn(&str) -> Option<String>) -> Result<Cow<'a, str>, String> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((inside, after)) = after.split_once('}') else {
                return Err(format!("found `${{{after}`, expected a `}}` that closes it"));
            };
            if is_of_requests(inside) {
                expanded.push_str(&format!("${{{inside}}}"));
            } else {
                expanded.push_str(&variable(inside, env)?);
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    Ok(Cow::Owned(expanded))
}

/// Whether a name is one of those that stand for something else in each request.
fn is_of_requests(inside: &str) -> bool {
    inside.starts_with(|c: char| c.is_ascii_lowercase()) && inside.contains('.') && !inside.contains(":-")
}

/// As in a shell, a variable that is set to nothing counts as not set.
fn variable(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !well_formed {
        return Err(format!("found `${{{inside}}}`, expected ${{NAME}} or ${{NAME:-default}} (`$$` is a dollar sign)"));
    }
    env(name)
        .filter(|value| !value.is_empty())
        .or_else(|| default.map(str::to_owned))
        .ok_or_else(|| {
            format!(
                "the environment variable `{name}` is not set, and `${{{name}}}` has no default: set it, or write ${{{name}:-default}}"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let env = |name: &str| match name {
            "HOST" => Some("10.0.0.7".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        expand(text, &env).map(Cow::into_owned)
    }

    #[test]
    fn variables_are_replaced_wherever_they_stand() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${HOST}:80", "10.0.0.7:80"),
            ("${HOST}${HOST}", "10.0.0.710.0.0.7"),
            ("${NONE:-fallback}", "fallback"),
            ("${NONE:-}", ""),
            ("${EMPTY:-fallback}", "fallback"),
            ("${HOST:-unused}", "10.0.0.7"),
            ("${NONE:-127.0.0.1:80}", "127.0.0.1:80"),
            ("costs $$5, or $5, or $", "costs $5, or $5, or $"),
            ("$${HOST}", "${HOST}"),
            ("${client.ip}, ${HOST}", "${client.ip}, 10.0.0.7"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_says_so() {
        for (text, fault) in [
            ("${NONE}", "`NONE` is not set"),
            ("${EMPTY}", "`EMPTY` is not set"),
            ("${HOST", "expected a `}`"),
            ("${}", "expected ${NAME}"),
            ("${1A}", "expected ${NAME}"),
            ("${HOST-x}", "expected ${NAME}"),
            ("${HOST.x}", "expected ${NAME}"),
        ] {
            let what = expanded(text).unwrap_err();
            assert!(what.contains(fault), "{text}: {what}");
        }
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        let env = |name: &str| (name == "A").then(|| "${B}$$".to_owned());
        assert_eq!(expand("${A}", &env).as_deref(), Ok("${B}$$"));
    }
}
