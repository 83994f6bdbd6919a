//! One order, from the account to the certificate.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AccountCredentials, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};

use super::storage::{Stored, folder, write};
use crate::listener::tls::config::{Acme, Challenge, ExternalAccount};

/// Why there is no certificate.
#[derive(Debug)]
pub(super) enum OrderError {
    /// The authority says no.
    Refused(String),
    /// It could not be reached, or said nothing that could be understood.
    Unreached(String),
    /// It took too long.
    Late,
    /// The folder can't be used.
    Storage(std::io::Error),
}

impl OrderError {
    /// Whether asking again soon would only make things worse.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(what) => write!(f, "the authority refuses: {what}"),
            Self::Unreached(what) => write!(f, "the authority can't be asked: {what}"),
            Self::Late => f.write_str("the authority took too long"),
            Self::Storage(error) => write!(f, "the folder can't be used: {error}"),
        }
    }
}

impl From<Error> for OrderError {
    fn from(error: Error) -> Self {
        match error {
            // Refused on purpose now and then, to be tried again.
            Error::Api(problem) if problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:badNonce") => {
                Self::Unreached(problem.to_string())
            }
            Error::Api(problem) if problem.status.is_some_and(|status| status >= 500) => {
                Self::Unreached(problem.to_string())
            }
            Error::Api(problem) => Self::Refused(problem.to_string()),
            Error::Timeout(_) => Self::Late,
            other => Self::Unreached(chain(&other)),
        }
    }
}

/// What an error says, with what lies behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// How often it is asked whether the authority is done, and for how long.
const POLLING: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(180));

/// Files that are there for as long as an authority may ask for them.
#[derive(Default)]
struct Placed(Vec<PathBuf>);

impl Placed {
    fn place(&mut self, path: PathBuf, text: &str) -> Result<(), OrderError> {
        write(&path, text.as_bytes()).map_err(OrderError::Storage)?;
        self.0.push(path);
        Ok(())
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Orders a certificate, in the place of this one where the authority knows it, and puts it in its place.
pub(super) async fn order(said: &Acme, before: Option<CertificateIdentifier<'_>>) -> Result<(), OrderError> {
    let account = account(said).await?;
    let identifiers: Vec<_> = said.domains.iter().cloned().map(Identifier::Dns).collect();
    let anew = || NewOrder::new(&identifiers);
    let replacing = match before {
        Some(before) => account.new_order(&anew().replaces(before)).await.ok(),
        None => None,
    };
    let mut order = match replacing {
        Some(order) => order,
        // It has been replaced already, or the authority does not ask.
        None => account.new_order(&anew()).await?,
    };
    // Taken away when the order is over, however it ends.
    let mut placed = Placed::default();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        prove(said, authorization?, &mut placed).await?;
    }
    if order.poll_ready(&POLLING).await? != OrderStatus::Ready {
        return Err(OrderError::Refused(faults(&mut order).await));
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLLING).await?;
    let both = format!("{key}\n{chain}");
    // Whatever is wrong with it is better found before it takes the place of one that works.
    let is_whole = Stored::parse(both.as_bytes()).is_some_and(|stored| stored.has(&said.domains));
    let pem = said.pem().filter(|_| is_whole);
    let pem = pem.ok_or_else(|| OrderError::Unreached("the certificate is not the one that was ordered".to_owned()))?;
    write(&pem, both.as_bytes()).map_err(OrderError::Storage)
}

/// Gets ready to prove that a name is served here, and says so.
async fn prove(said: &Acme, mut authorization: AuthorizationHandle<'_>, placed: &mut Placed) -> Result<(), OrderError> {
    if authorization.status == AuthorizationStatus::Valid {
        return Ok(());
    }
    let kind = match said.challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    };
    let offered = authorization.challenge(kind);
    let none = || OrderError::Refused("it does not offer this challenge".to_owned());
    let mut challenge = offered.ok_or_else(none)?;
    let authorized = challenge.key_authorization();
    match said.challenge {
        Challenge::Http01 => {
            // It becomes the name of a file.
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            let token = challenge.token.clone();
            if token.is_empty() || !token.bytes().all(is_plain) {
                return Err(OrderError::Unreached("a token that is none".to_owned()));
            }
            placed.place(said.token_file(&token), authorized.as_str())?;
        }
        Challenge::TlsAlpn01 => {
            let domain = challenge.identifier().to_string().to_ascii_lowercase();
            if !said.domains.contains(&domain) {
                return Err(OrderError::Unreached(format!("asked to prove `{domain}`, which was not ordered")));
            }
            let proof = proof(&domain, authorized.digest().as_ref());
            let proof = proof.map_err(|error| OrderError::Unreached(error.to_string()))?;
            placed.place(said.proof_file(&domain), &proof)?;
        }
    }
    Ok(challenge.set_ready().await?)
}

/// The certificate that is shown in the handshake that an authority asks by (RFC 8737 3).
fn proof(domain: &str, digest: &[u8]) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(vec![domain.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    Ok(key.serialize_pem() + &params.self_signed(&key)?.pem())
}

/// What an authority found wrong.
async fn faults(order: &mut Order) -> String {
    let mut faults = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        if let Ok(state) = authorization.refresh().await {
            let problems = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            faults.extend(problems.map(|problem| format!("{name}: {problem}")));
        }
    }
    if faults.is_empty() { "the order is invalid".to_owned() } else { faults.join("; ") }
}

/// The key of an account that the authority knows already.
fn external(said: &ExternalAccount) -> Result<ExternalAccountKey, OrderError> {
    let text = std::fs::read_to_string(&said.hmac_file).map_err(OrderError::Storage)?;
    let key = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('=')).map_err(|error| {
        let what = format!("{}: found no key in base64url: {error}", said.hmac_file.display());
        OrderError::Storage(std::io::Error::other(what))
    })?;
    Ok(ExternalAccountKey::new(said.key_id.clone(), &key))
}

/// The account of this folder with the authority; a new one, where there is none.
pub(super) async fn account(said: &Acme) -> Result<Account, OrderError> {
    let builder = || match &said.ca {
        Some(ca) => Account::builder_with_root(ca),
        None => Account::builder(),
    };
    let customer = said.eab.as_ref().map(|eab| format!("#{}", eab.key_id)).unwrap_or_default();
    let number = digest::digest(&digest::SHA256, format!("{}{customer}", said.directory).as_bytes());
    let number: String = number.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let file = said.storage.join(format!("account-{number}.json"));
    folder(&said.storage).map_err(OrderError::Storage)?;
    let known = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<AccountCredentials>(&text).ok());
    if let Some(known) = known {
        return Ok(builder()?.from_credentials(known).await?);
    }
    let contact = said.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = said.eab.as_ref().map(external).transpose()?;
    let (account, credentials) = builder()?.create(&new, said.directory.clone(), external.as_ref()).await?;
    let text = serde_json::to_vec_pretty(&credentials).map_err(|error| OrderError::Unreached(error.to_string()))?;
    write(&file, &text).map_err(OrderError::Storage)?;
    Ok(account)
}
