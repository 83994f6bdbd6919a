//! The id of a request: the one that a trusted proxy gave it, or one of the gateway's own.

use std::sync::OnceLock;

use crate::text::Text;

/// The id of a request.
#[derive(Debug, Default)]
pub enum RequestId {
    /// It has none.
    #[default]
    None,
    /// The one that it came with.
    Given(Box<str>),
    /// 128 random bits, drawn when somebody asks: where no server and no log is told, nobody does.
    Own(OnceLock<Box<str>>),
}

impl RequestId {
    /// A new one.
    pub fn own() -> Self {
        Self::Own(OnceLock::new())
    }

    /// The id as servers and the log have it; empty where there is none.
    pub fn as_str(&self) -> &str {
        match self {
            Self::None => "",
            Self::Given(id) => id,
            Self::Own(id) => id.get_or_init(|| Box::from(&*Text::hexadecimal(rand::random()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_its_own_stays_the_same_and_is_no_others() {
        let (one, two) = (RequestId::own(), RequestId::own());
        assert_eq!(one.as_str(), one.as_str());
        assert!(one.as_str().len() == 32 && one.as_str() != two.as_str());
        assert_eq!(RequestId::default().as_str(), "");
    }
}
