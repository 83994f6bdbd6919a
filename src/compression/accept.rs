//! What a client says that it takes, and whether a page of another site may have made it ask.

use super::Coding;
use crate::request::Headers;

/// Of these codings, in order of preference, the one that `Accept-Encoding` likes best (RFC 9110 12.5.3). `None`: as it is.
pub(super) fn best(headers: &Headers<'_>, known: &[Coding]) -> Option<Coding> {
    let mut weights = [None::<u16>; 3];
    let mut others = 0;
    for value in headers.all("accept-encoding") {
        for element in value.split(|&byte| byte == b',') {
            let mut parts = element.split(|&byte| byte == b';');
            let name = parts.next().unwrap_or_default().trim_ascii();
            let weight = parts.find_map(quality).unwrap_or(1000);
            if name == b"*" {
                others = weight;
            }
            for (at, coding) in known.iter().enumerate().take(weights.len()) {
                let same = name.eq_ignore_ascii_case(coding.as_str().as_bytes())
                    // What it was called before (RFC 9110 8.4.1.3).
                    || *coding == Coding::Gzip && name.eq_ignore_ascii_case(b"x-gzip");
                if same {
                    weights[at] = Some(weight);
                }
            }
        }
    }
    let mut best = (0, None);
    for (coding, weight) in known.iter().zip(weights) {
        let weight = weight.unwrap_or(others);
        if weight > best.0 {
            best = (weight, Some(*coding));
        }
    }
    best.1
}

/// The codings that a client takes rather than none, the one that it likes best first; among equals what is smaller as a
/// rule.
pub(super) fn in_order(headers: &Headers<'_>) -> Vec<Coding> {
    let mut left = vec![Coding::Br, Coding::Zstd, Coding::Gzip];
    let mut order = Vec::new();
    while let Some(coding) = best(headers, &left) {
        left.retain(|other| *other != coding);
        order.push(coding);
    }
    order
}

/// The weight in thousandths; what is none counts as not taken.
fn quality(parameter: &[u8]) -> Option<u16> {
    let (name, value) = parameter.split_at(parameter.iter().position(|&byte| byte == b'=')?);
    if !name.trim_ascii().eq_ignore_ascii_case(b"q") {
        return None;
    }
    let weight = std::str::from_utf8(&value[1..]).ok().and_then(|text| text.trim().parse::<f32>().ok());
    let weight = weight.filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0);
    // Between 0 and 1000, as it has been looked at.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some((weight * 1000.0) as u16)
}

/// Whether a secret of the client's and what somebody else has chosen may meet in the answer: then its compressed length
/// tells of the secret, a guess at a time (BREACH). That takes a page of another site that makes a browser ask, with
/// credentials that the browser adds by itself. Browsers say where a request comes from (Fetch Metadata); of one that
/// does not say, only what has nothing to choose is safe.
pub(super) fn is_exposed(method: &str, target: &str, headers: &Headers<'_>) -> bool {
    let ambient = |value: &[u8]| {
        let scheme = value.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        // A token in a header is a script's to send, and another site's script has none.
        !scheme.eq_ignore_ascii_case(b"bearer")
    };
    if headers.get("cookie").is_none() && !headers.get("authorization").is_some_and(ambient) {
        return false;
    }
    match headers.get("sec-fetch-site") {
        Some(b"same-origin" | b"none") => false,
        Some(_) => true,
        None => method != "GET" || target.contains('?'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Br, Coding::Gzip];

    fn with(fields: &[(&str, &str)], check: impl FnOnce(&Headers<'_>)) {
        let fields: Vec<_> =
            fields.iter().map(|&(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        check(&Headers::Fields(&fields));
    }

    #[test]
    fn a_client_gets_the_coding_that_it_likes_best_and_of_equals_the_preferred() {
        for (said, expected) in [
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip, deflate, br", Some(Coding::Br)),
            ("gzip;q=1.0, br;q=0.9", Some(Coding::Gzip)),
            ("X-GZIP", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("*;q=0.5, zstd;q=0, gzip ; Q=0.7", Some(Coding::Gzip)),
            ("zstd;q=0, *;q=0.1", Some(Coding::Br)),
            ("gzip;q=0, *;q=0", None),
            ("gzip;q=2, br;q=x, zstd;q=-1", None),
            ("identity, deflate", None),
            ("", None),
        ] {
            with(&[("Accept-Encoding", said)], |headers| assert_eq!(best(headers, &ALL), expected, "{said}"));
        }
        with(&[], |headers| assert_eq!(best(headers, &ALL), None, "nothing said"));
        let lines = [("accept-encoding", "br;q=0.1"), ("Accept-Encoding", "gzip")];
        with(&lines, |headers| assert_eq!(best(headers, &ALL), Some(Coding::Gzip), "two lines are one list"));
        with(&[("accept-encoding", "br, gzip")], |headers| {
            assert_eq!(best(headers, &[Coding::Gzip]), ALL.last().copied())
        });
    }

    #[test]
    fn what_another_sites_page_may_have_made_a_browser_ask_with_credentials_is_told_apart() {
        let (cookie, site) = (("Cookie", "a=b"), "Sec-Fetch-Site");
        for (method, target, fields, exposed) in [
            ("GET", "/?q=x", &[][..], false),
            ("GET", "/?q=x", &[cookie], true),
            ("GET", "/", &[cookie], false),
            ("POST", "/", &[cookie], true),
            ("POST", "/?q=x", &[cookie, (site, "same-origin")], false),
            ("GET", "/?q=x", &[cookie, (site, "none")], false),
            ("GET", "/", &[cookie, (site, "cross-site")], true),
            ("GET", "/", &[cookie, (site, "same-site")], true),
            ("GET", "/", &[cookie, (site, "else")], true),
            ("POST", "/?q=x", &[(site, "cross-site")], false),
            ("GET", "/?q=x", &[("Authorization", "Basic YTpi")], true),
            ("GET", "/?q=x", &[("Authorization", "Bearer t")], false),
            ("GET", "/?q=x", &[("Authorization", "Bearer t"), cookie], true),
        ] {
            with(fields, |headers| {
                assert_eq!(is_exposed(method, target, headers), exposed, "{method} {target} {fields:?}");
            });
        }
    }
}
