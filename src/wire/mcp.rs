//! What ids of MCP's sessions look like, and where the older transport says them.

/// The longest id that is one. Servers may choose what they like, a signed token for one.
pub const LONGEST_ID: usize = 4096;

/// Whether a text may be the id of a session: visible ASCII (Streamable HTTP, "Session Management").
pub fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The session in the query of the URL that clients of the older transport post to, as it is written there. No revision says
/// how the parameter is called: it is one of the names that the official SDKs use.
pub fn id_of_endpoint(query: &str) -> Option<&str> {
    const NAMES: [&str; 3] = ["sessionId", "session_id", "sessionid"];
    let query = query.split('#').next().unwrap_or_default();
    let named = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| NAMES.contains(name));
    named.map(|(_, id)| id).filter(|id| is_id(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_visible_ascii_of_some_length() {
        assert!(is_id("a") && is_id("~!") && is_id(&"x".repeat(LONGEST_ID)));
        assert!(!is_id("") && !is_id("a b") && !is_id("a\u{7f}") && !is_id("\u{fc}"));
        assert!(!is_id(&"x".repeat(LONGEST_ID + 1)));
    }

    #[test]
    fn the_session_of_an_endpoint_is_the_first_parameter_of_such_a_name() {
        assert_eq!(id_of_endpoint("sessionId=a&session_id=b"), Some("a"));
        assert_eq!(id_of_endpoint("x=1&session_id=b#c"), Some("b"));
        assert_eq!(id_of_endpoint("xsessionId=a"), None);
        assert_eq!(id_of_endpoint("sessionId="), None);
        assert_eq!(id_of_endpoint("sessionId"), None);
    }
}
