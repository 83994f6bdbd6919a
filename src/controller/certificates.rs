//! Certificates in Secrets, and the names that each is shown for.

use super::Terms;
use super::draft::{Certificate, Named};
use super::world::World;
use crate::listener::tls;

/// Whether a name in a certificate is good for a host.
pub(super) fn is_for(name: &str, host: &str) -> bool {
    let below = |name: &str| host.split_once('.').is_some_and(|(_, rest)| rest == name);
    name == host || name.strip_prefix("*.").is_some_and(below) || host.is_empty()
}

/// The chain and the key of a Secret, both in PEM, and the names in the certificate.
pub(super) fn pair(world: &World, secret: &Named) -> Result<([Vec<u8>; 2], Vec<String>), String> {
    let found = world.secrets.get(secret).ok_or("is not there, or is not of the type kubernetes.io/tls")?;
    let data = |key: &str| {
        let bytes = found.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
        bytes.filter(|bytes| !bytes.is_empty()).ok_or_else(|| format!("has no {key}"))
    };
    let pair = [data("tls.crt")?, data("tls.key")?];
    let names = tls::try_pair(&pair).map_err(|fault| format!("can't be used: {fault}"))?;
    Ok((pair, names))
}

/// The certificate for whoever asks for a name that nobody has.
pub(crate) fn default_certificate(world: &World, terms: &Terms) -> Result<Option<Certificate>, String> {
    let Some(secret) = &terms.default_certificate else { return Ok(None) };
    let (pair, _) = pair(world, secret).map_err(|why| format!("the Secret {secret} {why}"))?;
    Ok(Some(Certificate { secret: secret.clone(), names: Vec::new(), pair }))
}
