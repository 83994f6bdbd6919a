//! Fields by which a proxy tells servers who asks, and for what: nobody else may say them.

/// Such fields, in lower case, beside all that begin with `x-forwarded`. Frameworks and servers take the first ones for the
/// client's address, and the last ones for what is asked for.
const ORIGIN_FIELDS: [&str; 11] = [
    "x-real-ip",
    "forwarded",
    "client-ip",
    "x-client-ip",
    "true-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-original-url",
    "x-original-host",
    "x-rewrite-url",
];

/// Whether a field, given in any case, says who asks or for what.
pub fn is_origin(name: &str) -> bool {
    const PREFIX: &[u8] = b"x-forwarded";
    // Asked of each field of each request: most of them go by their first byte.
    match name.as_bytes() {
        [b'x' | b'X', ..]
            if name.as_bytes().get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX)) =>
        {
            true
        }
        [b'x' | b'X' | b'f' | b'F' | b'c' | b'C' | b't' | b'T', ..] => {
            ORIGIN_FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
        }
        _ => false,
    }
}

/// The name that servers may take a field for, which put the fields of a request into variables (CGI, WSGI, Rack, PHP);
/// `None` where it is its own.
pub fn taken_for(name: &str) -> Option<String> {
    name.as_bytes().contains(&b'_').then(|| name.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_say_who_asks_are_known_in_any_case() {
        for name in [
            "X-Forwarded-For",
            "x-forwarded-prefix",
            "X-FORWARDED-SSL",
            "X-Forwarded",
            "X-Forwarded-User",
            "X-Real-Ip",
            "Forwarded",
            "Client-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "Fastly-Client-Ip",
            "x-original-url",
        ] {
            assert!(is_origin(name), "{name}");
        }
        for name in ["", "x", "Cookie", "X-Forward", "Content-Type", "X-Request-Id", "Forwarded-By-Pigeon", "Client"] {
            assert!(!is_origin(name), "{name}");
        }
    }

    #[test]
    fn underscores_are_taken_for_hyphens() {
        assert_eq!(taken_for("X_Forwarded-For").as_deref(), Some("X-Forwarded-For"));
        assert_eq!(taken_for("X-Forwarded-For"), None);
    }
}
