//! The dashboard: one page with its style and its script, inside the program, which asks the API and nothing else.

use super::endpoints::Answer;

/// Nothing from outside, nothing within the page that is not a file of its own, and nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

pub(super) fn page() -> Answer {
    file("text/html; charset=utf-8", include_str!("index.html"))
}

pub(super) fn style() -> Answer {
    file("text/css; charset=utf-8", include_str!("dashboard.css"))
}

pub(super) fn script() -> Answer {
    file("text/javascript; charset=utf-8", include_str!("dashboard.js"))
}

fn file(content_type: &'static str, text: &'static str) -> Answer {
    Answer::of(content_type, text)
        .with("content-security-policy", POLICY)
        .with("x-content-type-options", "nosniff")
        .with("referrer-policy", "no-referrer")
        .with("cross-origin-opener-policy", "same-origin")
}
