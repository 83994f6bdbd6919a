//! The Flash socket policy: the request that a Flash player opens with, and the XML that lets it speak; no I/O.

use bytes::Bytes;
use std::fmt;

/// What a Flash player sends before it opens a socket, on port 843 or on the port that it wants to speak to.
pub const REQUEST: &[u8] = b"<policy-file-request/>\0";

/// How far a policy request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyRequest {
    /// The start of one: wait for more.
    Incomplete,
    /// A whole one, with its NUL.
    Complete,
    /// Not a policy request.
    Other,
}

/// Judges `bytes`, which are all that the client has sent so far. What follows a whole request is ignored.
pub fn read(bytes: &[u8]) -> PolicyRequest {
    if bytes.starts_with(REQUEST) {
        PolicyRequest::Complete
    } else if REQUEST.starts_with(bytes) {
        PolicyRequest::Incomplete
    } else {
        PolicyRequest::Other
    }
}

/// A socket policy, rendered once and then only copied out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy(Bytes);

/// One `<allow-access-from>`: who may connect, and to which ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// A host name, an address, `*.example.com` or `*`.
    pub domain: String,
    /// `*`, or ports and ranges: `80,443,8000-8100`.
    pub ports: String,
}

impl Policy {
    /// A policy of these rules, in this order. No rule at all is a policy that lets nobody in.
    ///
    /// # Errors
    /// Refuses a domain that is empty or holds blanks or control characters, and ports that are not a list of ports.
    pub fn from_rules(rules: &[AllowRule]) -> Result<Self, InvalidPolicy> {
        let mut elements = String::new();
        for AllowRule { domain, ports } in rules {
            if domain.is_empty() || domain.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(InvalidPolicy::Domain(domain.clone()));
            }
            if !is_port_list(ports) {
                return Err(InvalidPolicy::Ports(ports.clone()));
            }
            let domain = escape_attribute(domain);
            elements += &format!("<allow-access-from domain=\"{domain}\" to-ports=\"{ports}\"/>");
        }
        Ok(Self(render(&elements)))
    }

    /// An operator's own policy file, sent as it is. A NUL at its end is allowed and not sent twice.
    ///
    /// # Errors
    /// Refuses what no Flash player would read: an empty file, one beyond [`LONGEST_FILE`] bytes, one with a NUL
    /// inside, and one without a `<cross-domain-policy`.
    pub fn from_xml(xml: &[u8]) -> Result<Self, InvalidPolicy> {
        let xml = xml.strip_suffix(b"\0").unwrap_or(xml);
        if xml.trim_ascii().is_empty() {
            return Err(InvalidPolicy::Empty);
        }
        if xml.len() > LONGEST_FILE {
            return Err(InvalidPolicy::TooLong(xml.len()));
        }
        if xml.contains(&0) {
            return Err(InvalidPolicy::NulInside);
        }
        const ELEMENT: &[u8] = b"<cross-domain-policy";
        if !xml.windows(ELEMENT.len()).any(|part| part == ELEMENT) {
            return Err(InvalidPolicy::NotAPolicy);
        }
        Ok(Self([xml, b"\0"].concat().into()))
    }

    /// The bytes to send, ending in the NUL that Flash waits for; then close the connection.
    pub fn answer(&self) -> &[u8] {
        &self.0
    }
}

/// The longest policy that Flash players read: 20 KiB.
pub const LONGEST_FILE: usize = 20 * 1024;

/// Why a policy was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidPolicy {
    /// The file is empty.
    Empty,
    /// The file has this many bytes, which are too many.
    TooLong(usize),
    /// A NUL ends the policy for a Flash player, and there is text behind one.
    NulInside,
    /// There is no `<cross-domain-policy` in the file.
    NotAPolicy,
    /// This is not a domain.
    Domain(String),
    /// This is not `*` or a list of ports.
    Ports(String),
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the policy file is empty"),
            Self::TooLong(found) => {
                write!(f, "the policy file has {found} bytes, and Flash reads at most {LONGEST_FILE}")
            }
            Self::NulInside => write!(f, "the policy file has a NUL inside, where Flash would stop reading"),
            Self::NotAPolicy => write!(f, "the policy file has no <cross-domain-policy> element"),
            Self::Domain(found) => {
                write!(f, "{found:?} is not a domain: expected a host name, an address, \"*.example.com\" or \"*\"")
            }
            Self::Ports(found) => write!(f, "{found:?} is not a list of ports: expected \"*\" or \"80,443,8000-8100\""),
        }
    }
}

impl std::error::Error for InvalidPolicy {}

/// The document around the rules, in the order and without the line breaks of the `policyfile` package that
/// Socket.IO 0.9 uses. That package still names macromedia.com and leaves the NUL out; players take both forms.
fn render(elements: &str) -> Bytes {
    const HEAD: &str = "<?xml version=\"1.0\"?>\
        <!DOCTYPE cross-domain-policy SYSTEM \"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd\">\
        <cross-domain-policy>";
    [HEAD, elements, "</cross-domain-policy>\0"].concat().into()
}

/// Whether a text is `*`, or ports and ranges of ports such as `80,443,8000-8100`.
pub(crate) fn is_port_list(text: &str) -> bool {
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|&port| digits && port > 0)
    };
    text == "*"
        || text.split(',').all(|item| match item.split_once('-') {
            Some((from, to)) => matches!((port(from), port(to)), (Some(from), Some(to)) if from <= to),
            None => port(item).is_some(),
        })
}

fn escape_attribute(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&apos;",
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(domain: &str, ports: &str) -> AllowRule {
        AllowRule { domain: domain.into(), ports: ports.into() }
    }

    #[test]
    fn every_proper_prefix_of_the_request_is_incomplete() {
        for end in 0..REQUEST.len() {
            assert_eq!(read(&REQUEST[..end]), PolicyRequest::Incomplete);
        }
        assert_eq!(read(REQUEST), PolicyRequest::Complete);
        assert_eq!(read(b"<policy-file-request/>\0\r\n"), PolicyRequest::Complete);
        assert_eq!(read(b"<policy-file-request/>\r\n"), PolicyRequest::Other);
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), PolicyRequest::Other);
    }

    #[test]
    fn the_default_is_the_answer_of_socket_io_0_9_and_a_nul() {
        // The output of policyfile 0.0.6 for its default origins.
        let policyfile = "<?xml version=\"1.0\"?><!DOCTYPE cross-domain-policy SYSTEM \
            \"http://www.macromedia.com/xml/dtds/cross-domain-policy.dtd\"><cross-domain-policy>\
            <allow-access-from domain=\"*\" to-ports=\"*\"/></cross-domain-policy>";
        let expected = policyfile.replace("www.macromedia.com", "www.adobe.com") + "\0";
        assert_eq!(Policy::from_rules(&[rule("*", "*")]).unwrap().answer(), expected.as_bytes());
    }

    #[test]
    fn rules_keep_their_order_and_cannot_break_out_of_their_attribute() {
        let policy = Policy::from_rules(&[rule("*.example.com", "80,8000-8100"), rule("a\"/><b&'", "843")]).unwrap();
        let text = String::from_utf8(policy.answer().to_vec()).unwrap();
        assert!(text.ends_with(
            "<cross-domain-policy>\
             <allow-access-from domain=\"*.example.com\" to-ports=\"80,8000-8100\"/>\
             <allow-access-from domain=\"a&quot;/&gt;&lt;b&amp;&apos;\" to-ports=\"843\"/>\
             </cross-domain-policy>\0"
        ));
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for domain in ["", "a b", "a\0", "a\n"] {
            assert_eq!(Policy::from_rules(&[rule(domain, "*")]), Err(InvalidPolicy::Domain(domain.into())));
        }
        for ports in ["", "0", "65536", "+80", "80,", "90-80", "80-", "1-2-3", "*,80", "http"] {
            assert_eq!(Policy::from_rules(&[rule("*", ports)]), Err(InvalidPolicy::Ports(ports.into())));
        }
    }

    #[test]
    fn a_file_is_sent_as_it_is_with_exactly_one_nul() {
        let xml = b"<?xml version=\"1.0\"?>\n<cross-domain-policy/>\n";
        let policy = Policy::from_xml(xml).unwrap();
        assert_eq!(policy.answer(), [&xml[..], b"\0"].concat());
        assert_eq!(Policy::from_xml(policy.answer()), Ok(policy));
    }

    #[test]
    fn a_file_that_flash_would_not_read_is_refused() {
        assert_eq!(Policy::from_xml(b" \n\0"), Err(InvalidPolicy::Empty));
        assert_eq!(Policy::from_xml(b"<cross-domain-policy>\0</cross-domain-policy>"), Err(InvalidPolicy::NulInside));
        assert_eq!(Policy::from_xml(b"<html></html>"), Err(InvalidPolicy::NotAPolicy));
        let mut longest = b"<cross-domain-policy/>".to_vec();
        longest.resize(LONGEST_FILE, b' ');
        assert!(Policy::from_xml(&longest).is_ok());
        longest.push(b' ');
        assert_eq!(Policy::from_xml(&longest), Err(InvalidPolicy::TooLong(LONGEST_FILE + 1)));
    }

    proptest! {
        #[test]
        fn an_answer_has_one_nul_and_as_many_rules_as_asked(domains in prop::collection::vec("[!-~]{1,20}", 0..5)) {
            let rules: Vec<_> = domains.iter().map(|domain| rule(domain, "1-65535")).collect();
            let policy = Policy::from_rules(&rules).unwrap();
            let text = std::str::from_utf8(policy.answer()).unwrap();
            prop_assert_eq!(text.find('\0'), Some(text.len() - 1));
            prop_assert_eq!(text.matches("<allow-access-from").count(), rules.len());
            prop_assert_eq!(text.matches('"').count(), 4 + 4 * rules.len());
        }
    }
}
