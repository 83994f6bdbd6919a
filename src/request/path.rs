//! Paths as servers read them: the canonical copy that routes are matched against, while the original is forwarded.
//!
//! Servers disagree on two things: whether `%2F` and `\` separate segments, and whether a segment ends at a `;`, behind
//! which Java's servers look for parameters. Where a path holds one, every reading is kept; a router that would decide
//! differently for two of them refuses the request (see [`crate::router`]).

use std::borrow::Cow;
use std::fmt;

/// A path and how it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// Unreserved characters decoded, dot segments resolved, empty segments dropped (RFC 3986 6.2.2); a `%` that begins no
    /// escape is one itself.
    pub canonical: Cow<'a, str>,
    /// The other readings, where they make a difference: with `%2F`, `%5C` and `\` taken for separators, without what
    /// stands behind a `;` or `%3B` in its segment, and both in either order.
    pub loose: Vec<String>,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not begin with `/`.
    NotAbsolute,
    /// Its dot segments climb above the root.
    AboveRoot,
    /// Its dot segments remove an encoded separator, so that it matters which of the two is read first.
    OverSeparator,
    /// It holds a control character, plain or encoded.
    ControlCharacter,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not begin with /",
            Self::AboveRoot => "the path climbs above the root",
            Self::OverSeparator => "the path has dot segments behind an encoded separator",
            Self::ControlCharacter => "the path holds a control character",
        })
    }
}

impl std::error::Error for Refused {}

impl<'a> Path<'a> {
    /// Reads a path (no query); borrows it whole in the usual case, where it is canonical as it stands.
    pub fn read(path: &'a str) -> Result<Self, Refused> {
        if path == "*" {
            return Ok(Self { canonical: Cow::Borrowed(path), loose: Vec::new() });
        }
        if !path.starts_with('/') {
            return Err(Refused::NotAbsolute);
        }
        if is_plain(path.as_bytes()) {
            return Ok(Self { canonical: Cow::Borrowed(path), loose: Vec::new() });
        }
        let canonical = resolve(&decode(path, false)?)?;
        let separated = resolve(&decode(path, true)?)?;
        // Some servers resolve dot segments before they decode separators, and once more after it.
        if resolve(&decode(&canonical, true)?)? != separated {
            return Err(Refused::OverSeparator);
        }
        let mut loose = vec![separated];
        if has_parameters(path) {
            for cut in [Cut::Plain, Cut::Encoded] {
                let without = without_parameters(path, cut);
                loose.push(resolve(&decode(&without, false)?)?);
                loose.push(resolve(&decode(&without, true)?)?);
                loose.push(resolve(&without_parameters(&decode(path, true)?, cut))?);
                loose.push(resolve(&without_parameters(&canonical, cut))?);
            }
            // Dot segments that a cut has uncovered may have left a separator, which is decoded then.
            for reading in loose.clone() {
                loose.push(resolve(&decode(&reading, true)?)?);
            }
        }
        loose.sort_unstable();
        loose.dedup();
        loose.retain(|reading| *reading != canonical);
        Ok(Self { canonical: Cow::Owned(canonical), loose })
    }
}

/// What a server takes for the beginning of a segment's parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// `;`
    Plain,
    /// `;` and `%3B`
    Encoded,
}

fn has_parameters(path: &str) -> bool {
    path.contains(';') || path.contains("%3b") || path.contains("%3B")
}

/// Cuts the parameters off each segment.
fn without_parameters(path: &str, cut: Cut) -> String {
    let mut kept = String::with_capacity(path.len());
    for (place, segment) in path.split('/').enumerate() {
        let ends = [";", "%3b", "%3B"].into_iter().take(if cut == Cut::Plain { 1 } else { 3 });
        let end = ends.filter_map(|mark| segment.find(mark)).min().unwrap_or(segment.len());
        if place > 0 {
            kept.push('/');
        }
        kept.push_str(&segment[..end]);
    }
    kept
}

/// Whether nothing in the path needs a second look: no escapes, no empty or dot segments, no odd bytes.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &byte in path {
        match byte {
            b'%' | b'\\' | b';' | 0..=0x20 | 0x7f => return false,
            b'/' | b'.' if after_slash => return false,
            _ => after_slash = byte == b'/',
        }
    }
    true
}

/// Decodes the escapes of unreserved characters; with `loose`, those of separators too, and turns `\` into `/`.
fn decode(path: &str, loose: bool) -> Result<String, Refused> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%').then(|| bytes.get(at + 1..at + 3).and_then(escape)).flatten();
        at += if escaped.is_some() { 3 } else { 1 };
        match escaped.unwrap_or(byte) {
            0..=0x1f | 0x7f => return Err(Refused::ControlCharacter),
            b'/' | b'\\' if loose => decoded.push(b'/'),
            // With what is decoded behind it, it could become an escape that nobody sent.
            b'%' if escaped.is_none() => decoded.extend(b"%25"),
            plain if escaped.is_none() || is_unreserved(plain) => decoded.push(plain),
            _ => decoded.extend(bytes[at - 3..at].iter().map(u8::to_ascii_uppercase)),
        }
    }
    Ok(String::from_utf8_lossy(&decoded).into_owned())
}

/// RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn escape(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(value(digits[0])? * 16 + value(digits[1])?).ok()
}

/// Resolves dot segments and drops empty ones; a final slash stays.
fn resolve(path: &str) -> Result<String, Refused> {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or(Refused::AboveRoot)?;
            }
            _ => segments.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in &segments {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if directory || segments.is_empty() {
        resolved.push('/');
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(path: &str) -> String {
        Path::read(path).unwrap().canonical.into_owned()
    }

    #[test]
    fn usual_paths_are_borrowed_as_they_stand() {
        for path in ["/", "/socket.io/", "/a/b.c", "/a~b_c-d", "/ü", "/a..b", "*"] {
            let read = Path::read(path).unwrap();
            assert!(matches!(read.canonical, Cow::Borrowed(same) if same == path), "{path}");
            assert!(read.loose.is_empty());
        }
    }

    #[test]
    fn equal_paths_read_the_same() {
        for (written, read) in [
            ("//socket.io///x", "/socket.io/x"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/%73ocket%2Eio/", "/socket.io/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a%20b%c3%bc", "/a%20b%C3%BC"),
            ("/100%", "/100%25"),
            ("/%zz", "/%25zz"),
            ("/a/%%32e%%32e/b", "/a/%252e%252e/b"),
            ("/.well-known/x", "/.well-known/x"),
        ] {
            assert_eq!(canonical(written), read, "{written}");
        }
    }

    #[test]
    fn encoded_separators_keep_both_readings() {
        let read = Path::read("/api%2fadmin/..%5Cx").unwrap();
        assert_eq!(read.canonical, "/api%2Fadmin/..%5Cx");
        assert_eq!(read.loose, ["/api/x"]);
        assert_eq!(Path::read("/a\\b").unwrap().loose, ["/a/b"]);
    }

    #[test]
    fn segments_with_parameters_keep_every_reading() {
        for (path, loose) in [
            ("/admin;x", &["/admin"] as &[&str]),
            ("/admin%3bx/y", &["/admin/y"]),
            ("/;/admin", &["/admin"]),
            ("/.;/admin", &["/admin"]),
            ("/x/..;/admin", &["/admin"]),
            ("/admin/..;/x", &["/x"]),
            ("/a;b%2Fc", &["/a", "/a/c", "/a;b/c"]),
            // Whoever cuts at a plain `;` only climbs out of another segment.
            ("/admin;/%3b/../x", &["/admin/x", "/admin;/x", "/x"]),
        ] {
            let read = Path::read(path).unwrap();
            for expected in loose {
                let known = read.canonical == *expected || read.loose.iter().any(|reading| reading == expected);
                assert!(known, "{path}: {expected} is not among {read:?}");
            }
        }
        assert_eq!(Path::read("/a;b").unwrap().canonical, "/a;b", "it is what the client asked for");
        assert_eq!(Path::read("/..;/x"), Err(Refused::AboveRoot));
        assert_eq!(Path::read("/a%2Fb/..;/..%2f."), Err(Refused::AboveRoot), "once the cut has been made");
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Path::read("/.."), Err(Refused::AboveRoot));
        assert_eq!(Path::read("/a/%2e%2e/%2e%2e/b"), Err(Refused::AboveRoot));
        assert_eq!(Path::read("/..%2f"), Err(Refused::AboveRoot));
        assert_eq!(Path::read("/a%2fb/../c"), Err(Refused::OverSeparator));
        assert_eq!(Path::read("/a%2fb%5cc/../..%2f.."), Err(Refused::AboveRoot));
        assert_eq!(Path::read("/a%2fb/../x/..%2fadmin"), Err(Refused::OverSeparator));
        assert_eq!(Path::read("/a%00"), Err(Refused::ControlCharacter));
        assert_eq!(Path::read("/a\u{1}"), Err(Refused::ControlCharacter));
        assert_eq!(Path::read("a"), Err(Refused::NotAbsolute));
        assert_eq!(Path::read(""), Err(Refused::NotAbsolute));
    }

    proptest! {
        #[test]
        fn a_canonical_path_is_its_own_canonical_form(path in "/[a-c./%2eEfF5C;3b\\\\]{0,24}") {
            if let Ok(read) = Path::read(&path) {
                for reading in &read.loose {
                    let again = Path::read(reading).map(|again| again.canonical.into_owned());
                    prop_assert_eq!(again.as_deref(), Ok(&**reading));
                }
                let again = Path::read(&read.canonical).unwrap();
                prop_assert_eq!(&again.canonical, &read.canonical);
                prop_assert!(!read.canonical.split('/').skip(1).any(|segment| segment == "." || segment == ".."));
            }
        }

        #[test]
        fn no_path_panics(path in ".{0,64}") {
            let _ = Path::read(&path);
        }
    }
}
