//! Values with variables, such as `${client.ip}`: read once, and written for each request.

use http::HeaderValue;

use super::Expression;
use crate::request::is_token;

/// A text and the variables in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Variable(Variable),
}

/// What the gateway knows of a request, and can tell. The names in the configuration are those of [`NAMES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    ClientIp,
    ClientPort,
    CertificateSubject,
    CertificateNames,
    CertificateFingerprint,
    ListenerName,
    ListenerPort,
    RequestId,
    Method,
    Scheme,
    Host,
    /// The canonical path, as routes match it.
    Path,
    /// Path and query as the client sent them.
    Target,
    Header(Box<str>),
    Cookie(Box<str>),
    Query(Box<str>),
    RouteName,
    UpstreamName,
    /// Known once a server has been found.
    ServerName,
    TlsVersion,
    TlsCipher,
    TlsServerName,
}

/// The variables that have a name of their own.
const NAMES: [(&str, Variable); 19] = [
    ("client.ip", Variable::ClientIp),
    ("client.port", Variable::ClientPort),
    ("client.cert.subject", Variable::CertificateSubject),
    ("client.cert.names", Variable::CertificateNames),
    ("client.cert.fingerprint", Variable::CertificateFingerprint),
    ("listener.name", Variable::ListenerName),
    ("listener.port", Variable::ListenerPort),
    ("request.id", Variable::RequestId),
    ("request.method", Variable::Method),
    ("request.scheme", Variable::Scheme),
    ("request.host", Variable::Host),
    ("request.path", Variable::Path),
    ("request.target", Variable::Target),
    ("route.name", Variable::RouteName),
    ("upstream.name", Variable::UpstreamName),
    ("server.name", Variable::ServerName),
    ("tls.version", Variable::TlsVersion),
    ("tls.cipher", Variable::TlsCipher),
    ("tls.server_name", Variable::TlsServerName),
];

/// Who knows what variables stand for.
pub(crate) trait Facts {
    /// Writes what the variable stands for; nothing, where there is nothing.
    fn put(&self, variable: &Variable, out: &mut Vec<u8>);

    /// What an expression gives; nothing, where the request is not known any more.
    fn compute(&self, _expression: &Expression) -> Option<String> {
        None
    }
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A `${` has no `}`.
    Open,
    /// Nothing has this name.
    Unknown(String),
}

impl Template {
    /// Reads a text. `$${` stands for a `${` that begins no variable; any other `$` for itself.
    pub(crate) fn read(text: &str) -> Result<Self, Fault> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("$${") {
                plain.push_str("${");
                rest = after;
            } else if let Some(after) = rest.strip_prefix("${") {
                let (name, after) = after.split_once('}').ok_or(Fault::Open)?;
                let variable = Variable::named(name).ok_or_else(|| Fault::Unknown(name.to_owned()))?;
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
                }
                pieces.push(Piece::Variable(variable));
                rest = after;
            } else {
                plain.push('$');
                rest = &rest[1..];
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Ok(Self(pieces))
    }

    /// The text, where it has no variables.
    pub(crate) fn constant(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it can be written only once a server has been found.
    pub(crate) fn waits_for_server(&self) -> bool {
        self.variables().any(|variable| *variable == Variable::ServerName)
    }

    /// The variables in it.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Variable(variable) => Some(variable),
        })
    }

    /// The text for one request, as the value of a field; `None` where it is empty, or could be none.
    pub(crate) fn value(&self, facts: &impl Facts) -> Option<HeaderValue> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Variable(variable) => facts.put(variable, &mut out),
            }
        }
        let value = out.trim_ascii();
        (!value.is_empty()).then(|| HeaderValue::from_bytes(value).ok()).flatten()
    }

    /// The same template with all that is known already written out, but for the name of the server.
    pub(crate) fn without_request(&self, facts: &impl Facts) -> Self {
        let known = |piece: &Piece| match piece {
            Piece::Variable(variable) if *variable != Variable::ServerName => {
                let mut out = Vec::new();
                facts.put(variable, &mut out);
                Piece::Text(String::from_utf8_lossy(&out).into())
            }
            piece => piece.clone(),
        };
        Self(self.0.iter().map(known).collect())
    }
}

impl Variable {
    fn named(name: &str) -> Option<Self> {
        if let Some((_, variable)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Some(variable.clone());
        }
        let field = |name: &str| is_token(name).then(|| Box::from(name.to_ascii_lowercase()));
        if let Some(name) = name.strip_prefix("request.headers.") {
            return field(name).map(Self::Header);
        }
        if let Some(name) = name.strip_prefix("request.cookies.") {
            return is_token(name).then(|| Self::Cookie(name.into()));
        }
        let name = name.strip_prefix("request.query.").filter(|name| !name.is_empty())?;
        Some(Self::Query(name.into()))
    }

    /// Every name, as it is told in a sentence.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        let of_request = ["request.headers.NAME", "request.cookies.NAME", "request.query.NAME"];
        NAMES.into_iter().map(|(name, _)| name).chain(of_request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells the name of each variable in brackets, and nothing of cookies.
    struct Told;

    impl Facts for Told {
        fn put(&self, variable: &Variable, out: &mut Vec<u8>) {
            match variable {
                Variable::Cookie(_) => {}
                Variable::Header(name) => out.extend_from_slice(format!("<{name}>").as_bytes()),
                Variable::Query(_) => out.extend_from_slice(b"a\r\nb: c"),
                variable => {
                    let name = NAMES.iter().find(|(_, known)| known == variable).unwrap().0;
                    out.extend_from_slice(format!("<{name}>").as_bytes());
                }
            }
        }
    }

    fn written(text: &str) -> Option<String> {
        Template::read(text).unwrap().value(&Told).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn variables_are_replaced_wherever_they_stand() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${client.ip}", "<client.ip>"),
            ("for=${client.ip};host=${request.host}", "for=<client.ip>;host=<request.host>"),
            ("${request.headers.X-Tenant}!", "<x-tenant>!"),
            ("$5, $${client.ip}, $", "$5, ${client.ip}, $"),
        ] {
            assert_eq!(written(text).as_deref(), Some(expected), "{text}");
        }
        for (name, _) in NAMES {
            assert_eq!(written(&format!("${{{name}}}")), Some(format!("<{name}>")));
        }
    }

    #[test]
    fn what_is_empty_or_would_begin_another_field_is_no_value() {
        assert_eq!(written("${request.cookies.a}"), None);
        assert_eq!(written("x ${request.query.a}"), None);
        assert_eq!(written(""), None);
    }

    #[test]
    fn unknown_variables_are_named() {
        for (text, fault) in [
            ("${client.ip", Fault::Open),
            ("${client.name}", Fault::Unknown("client.name".to_owned())),
            ("${request.headers.}", Fault::Unknown("request.headers.".to_owned())),
            ("${request.cookies.a b}", Fault::Unknown("request.cookies.a b".to_owned())),
            ("${}", Fault::Unknown(String::new())),
        ] {
            assert_eq!(Template::read(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn what_is_known_early_is_kept_for_when_the_server_is() {
        let template = Template::read("${client.ip}/${server.name}").unwrap();
        assert!(template.waits_for_server());
        let early = template.without_request(&Told);
        assert_eq!(early.variables().collect::<Vec<_>>(), [&Variable::ServerName]);
        assert_eq!(early.value(&Told).unwrap(), "<client.ip>/<server.name>");
    }
}
