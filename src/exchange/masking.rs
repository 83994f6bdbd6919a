//! What the log does not say of a target: whoever reads it could speak as the client.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Words in the names of parameters whose values are secrets.
const SECRETS: [&str; 16] = [
    "auth",
    "authorization",
    "code",
    "credential",
    "credentials",
    "jwt",
    "key",
    "pass",
    "passwd",
    "password",
    "pwd",
    "session",
    "sid",
    "sig",
    "signature",
    "token",
];
/// The same at the end of words that run together, such as `accesstoken`.
const ENDINGS: [&str; 6] = ["apikey", "auth", "password", "secret", "sessionid", "token"];
/// In place of a secret.
const MASK: &str = "...";
/// The shortest id of a session that is looked for outside of parameters that are masked by name. Shorter ones could be
/// guessed, and look like other things.
const SHORTEST_ID: usize = 8;

/// The target without the secrets in its query; `more` are names of parameters that are secrets, too.
pub(super) fn without_secrets<'t>(target: &'t str, more: &[Box<str>]) -> Cow<'t, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    let is_secret = |pair| is_secret(pair, more);
    if !pairs(query).any(|pair| pair.split_once('=').is_some_and(is_secret)) {
        return Cow::Borrowed(target);
    }
    let mut masked = String::with_capacity(target.len());
    masked.push_str(path);
    masked.push('?');
    for pair in pairs(query) {
        match pair.split_once('=') {
            Some((name, value)) if is_secret((name, value)) => {
                masked.push_str(name);
                masked.push('=');
                masked.push_str(MASK);
                masked.push_str(&value[value.trim_end_matches(SEPARATORS).len()..]);
            }
            _ => masked.push_str(pair),
        }
    }
    Cow::Owned(masked)
}

/// The target without the id of its session, where that is a segment of the path or the value of a parameter.
pub(super) fn without_id(target: &str, id: &str) -> Option<String> {
    if id.len() < SHORTEST_ID || !target.contains(id) {
        return None;
    }
    let begins = |before: &str| before.is_empty() || before.ends_with(['/', '=']);
    let ends = |after: &str| after.is_empty() || after.starts_with(['/', '?', '&', ';', '#']);
    let mut masked = String::with_capacity(target.len());
    let mut from = 0;
    for (at, _) in target.match_indices(id) {
        if begins(&target[..at]) && ends(&target[at + id.len()..]) {
            masked.push_str(&target[from..at]);
            masked.push_str(MASK);
            from = at + id.len();
        }
    }
    masked.push_str(&target[from..]);
    Some(masked)
}

const SEPARATORS: [char; 2] = ['&', ';'];

/// The parameters of a query, each with the separator behind it.
fn pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split_inclusive(SEPARATORS)
}

fn is_secret((name, value): (&str, &str), more: &[Box<str>]) -> bool {
    let named = |name: &str| more.iter().any(|secret| **secret == *name) || words(name).any(is_secret_word);
    // As its server reads it: nobody hides a name by writing a letter of it in another way.
    let decoded = || percent_decode_str(name).decode_utf8_lossy();
    !value.trim_end_matches(SEPARATORS).is_empty() && (named(name) || name.contains('%') && named(&decoded()))
}

fn is_secret_word(word: &str) -> bool {
    let ends_with = |ending: &str| {
        let before = word.len().checked_sub(ending.len());
        before.is_some_and(|before| word.as_bytes()[before..].eq_ignore_ascii_case(ending.as_bytes()))
    };
    SECRETS.iter().any(|secret| word.eq_ignore_ascii_case(secret)) || ENDINGS.into_iter().any(ends_with)
}

/// The words of a name: `accessToken`, `access_token` and `access-token` have two.
fn words(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        if rest.is_empty() {
            return None;
        }
        let mut small = false;
        let end = rest.find(|c: char| {
            let ends = !c.is_ascii_alphanumeric() || small && c.is_ascii_uppercase();
            small = c.is_ascii_lowercase();
            ends
        });
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_parameters_with_telling_names_are_masked_and_no_others() {
        for (target, masked) in [
            ("/x?token=abc&y=1", "/x?token=...&y=1"),
            ("/x?y=1;auth=abc", "/x?y=1;auth=..."),
            ("/x?access_token=a&accessToken=b&accesstoken=c", "/x?access_token=...&accessToken=...&accesstoken=..."),
            ("/x?X-Amz-Signature=a&api_key=b&apiKey=c&JWT=d", "/x?X-Amz-Signature=...&api_key=...&apiKey=...&JWT=..."),
            ("/x?to%6ben=a&%6Bey=b", "/x?to%6ben=...&%6Bey=..."),
            ("/x?auth[token]=a&auth%5Btoken%5D=b", "/x?auth[token]=...&auth%5Btoken%5D=..."),
            ("/socket.io/?EIO=4&sid=abc&transport=polling", "/socket.io/?EIO=4&sid=...&transport=polling"),
            ("/x?clientSecret=a&password=b=c&PASS=d", "/x?clientSecret=...&password=...&PASS=..."),
        ] {
            assert_eq!(without_secrets(target, &[]), masked);
        }
        for target in [
            "/x",
            "/token/abc",
            "/x?",
            "/x?token",
            "/x?token=&y=1",
            "/x?author=ann&monkey=1&compass=n&tokens_used=7",
            "/x?EIO=4&transport=polling&t=P9xYz",
        ] {
            assert!(matches!(without_secrets(target, &[]), Cow::Borrowed(same) if same == target), "{target}");
        }
    }

    #[test]
    fn names_of_the_operators_choice_are_masked_by_their_whole_name() {
        let more = [Box::from("ticket")];
        assert_eq!(without_secrets("/x?ticket=a&tickets=b&tick%65t=c", &more), "/x?ticket=...&tickets=b&tick%65t=...");
    }

    #[test]
    fn an_id_is_masked_where_it_stands_alone_and_a_short_one_nowhere_else() {
        let long = "Zm9vYmFyYmF6";
        let masked = |target: &str, id: &str| without_id(target, id);
        assert_eq!(masked(&format!("/socket.io/1/websocket/{long}"), long).unwrap(), "/socket.io/1/websocket/...");
        assert_eq!(
            masked(&format!("/a/{long}/b?s={long}&x=a{long}"), long).unwrap(),
            format!("/a/.../b?s=...&x=a{long}")
        );
        assert_eq!(masked("/socket.io/?EIO=4&sid=4", "4"), None, "`EIO` is 4 all the same");
        assert_eq!(masked("/elsewhere", long), None);
    }
}
