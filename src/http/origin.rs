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
    let name = name.as_bytes();
    let Some(&first) = name.first() else { return false };
    // Most fields go by their first byte.
    match first | 0x20 {
        b'x' => name.get(..11).is_some_and(|begin| begin.eq_ignore_ascii_case(b"x-forwarded")) || is_one_of(name),
        b'c' | b'f' | b't' => is_one_of(name),
        _ => false,
    }
}

fn is_one_of(name: &[u8]) -> bool {
    ORIGIN_FIELDS.iter().any(|field| field.len() == name.len() && name.eq_ignore_ascii_case(field.as_bytes()))
}

/// The name that servers may take a field for, which put the fields of a request into variables (CGI, WSGI, Rack, PHP);
/// `None` where it is its own.
pub fn taken_for(name: &str) -> Option<String> {
    has_underscore(name.as_bytes()).then(|| name.replace('_', "-"))
}

/// Eight bytes at a time: it is asked of each field of each request.
fn has_underscore(name: &[u8]) -> bool {
    const EACH: u64 = u64::MAX / 0xff;
    // A byte is zero if a borrow goes through it that its own highest bit does not explain.
    let any_zero = |word: u64| word.wrapping_sub(EACH) & !word & (EACH << 7) != 0;
    let (words, rest) = name.as_chunks();
    let found = |word: &[u8; 8]| any_zero(u64::from_ne_bytes(*word) ^ (EACH * u64::from(b'_')));
    words.iter().any(found) || rest.contains(&b'_')
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
