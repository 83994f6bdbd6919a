//! Which media types are compressed.

/// Types as the operator names them, for look-ups. What is one stream of messages is never among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Types {
    whole: Vec<Box<str>>,
    /// With the slash.
    begins: Vec<Box<str>>,
    /// With the plus.
    ends: Vec<Box<str>>,
}

/// Types whose parts are due at once, and are never held back to be compressed.
const STREAMS: [&str; 3] = ["text/event-stream", "multipart/x-mixed-replace", "application/grpc"];

/// Says what is wrong with a type as an operator writes it.
pub(crate) fn checked(named: &str) -> Result<(), String> {
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let good = match (named.strip_suffix("/*"), named.strip_prefix("*+")) {
        (Some(kind), _) => is_token(kind),
        (_, Some(ending)) => is_token(ending),
        _ => named.split_once('/').is_some_and(|(kind, of)| is_token(kind) && is_token(of)),
    };
    if !good {
        return Err(format!("found `{named}`, expected a media type: `text/html`, `text/*` or `*+json`"));
    }
    if STREAMS.contains(&&*named.to_ascii_lowercase()) {
        return Err(format!("`{named}` is a stream of messages, which is never compressed"));
    }
    Ok(())
}

impl Types {
    /// Of these names, which have been checked.
    pub(super) fn new(named: &[String]) -> Self {
        let mut this = Self::default();
        for named in named {
            let named = named.to_ascii_lowercase();
            match (named.strip_suffix('*'), named.strip_prefix('*')) {
                (Some(begins), _) => this.begins.push(begins.into()),
                (None, Some(ends)) => this.ends.push(ends.into()),
                (None, None) => this.whole.push(named.into()),
            }
        }
        this
    }

    /// Whether a `Content-Type` is one of them.
    pub(super) fn has(&self, content_type: &[u8]) -> bool {
        let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let begins = |with: &str| essence.get(..with.len()).is_some_and(|is| is.eq_ignore_ascii_case(with.as_bytes()));
        let ends = |with: &str| {
            essence.len().checked_sub(with.len()).is_some_and(|at| essence[at..].eq_ignore_ascii_case(with.as_bytes()))
        };
        let is = |whole: &str| essence.eq_ignore_ascii_case(whole.as_bytes());
        let named = self.whole.iter().any(|whole| is(whole))
            || self.begins.iter().any(|with| begins(with))
            || self.ends.iter().any(|with| ends(with));
        named && !STREAMS.iter().any(|stream| is(stream)) && !begins("application/grpc+")
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::TYPES;
    use super::*;

    #[test]
    fn types_match_whole_by_their_kind_or_by_their_ending_and_streams_never_do() {
        let types = Types::new(&TYPES.map(str::to_owned));
        for yes in [
            "text/html",
            "Text/HTML; charset=utf-8",
            "application/json",
            "application/problem+json;v=1",
            "image/svg+xml",
        ] {
            assert!(types.has(yes.as_bytes()), "{yes}");
        }
        for no in
            ["text/event-stream", "Text/Event-Stream;x=y", "image/png", "textual/html", "application/jsonp", "", "json"]
        {
            assert!(!types.has(no.as_bytes()), "{no}");
        }
        let all = Types::new(&["multipart/*".to_owned(), "application/*".to_owned()]);
        assert!(
            !all.has(b"multipart/x-mixed-replace") && !all.has(b"application/grpc+proto") && all.has(b"application/x")
        );
    }

    #[test]
    fn what_is_no_type_or_a_stream_is_refused() {
        for good in ["text/html", "text/*", "*+json", "application/vnd.api+json"] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for bad in ["text", "*", "*/*", "text/", "/html", "text/html; charset=utf-8", "*json", "text/event-stream"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
