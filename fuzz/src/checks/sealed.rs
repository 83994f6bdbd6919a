//! What holds for any bytes that come back as something that only the gateway can have made: cookies, and tickets of TLS.

use rustls::server::ProducesTickets;

use crate::affinity::CookieAffinity;
use crate::affinity::config::{CookieConfig, Secret};
use crate::listener::tls::tickets::KeyFile;

/// A value that is read is the one that is written for its server, and nobody but the gateway writes a signed one.
pub fn cookies(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let secret = Secret::try_from("a secret of the checks alone".to_owned()).ok();
    for config in [CookieConfig::default(), CookieConfig { secret, ..CookieConfig::default() }] {
        let cookie = CookieAffinity::new(&config, "upstream");
        let written = |server: u64| {
            let field = cookie.set(server, false, false);
            let value = field.split_once('=').and_then(|(_, rest)| rest.split_once(';'));
            value.map(|(value, _)| value.to_owned()).expect("a value and its attributes")
        };
        if let Some(server) = cookie.read(&text) {
            assert_eq!(written(server), text, "each server has one value");
        }
        let Some(server) = bytes.first_chunk().map(|server| u64::from_be_bytes(*server)) else { continue };
        let value = written(server);
        assert_eq!(cookie.read(&value), Some(server));
        // One byte of it made another.
        let mut changed = value.into_bytes();
        let Some(&[at, byte, ..]) = bytes.get(8..) else { continue };
        let at = usize::from(at) % changed.len();
        if config.secret.is_some() && changed[at] != byte {
            changed[at] = byte;
            assert_eq!(cookie.read(&String::from_utf8_lossy(&changed)), None);
        }
    }
}

/// Keys that are read open what they have sealed, under the same terms and no others, and nothing that was changed; no ticket
/// of anybody else's opens.
pub fn ticket_keys(bytes: &[u8]) {
    let own = KeyFile::of(&[7; 80], b"terms".to_vec()).expect("a key");
    assert_eq!(own.decrypt(bytes), None, "a ticket that was not made here");
    let Ok(keys) = KeyFile::of(bytes, b"terms".to_vec()) else { return };
    let ticket = keys.encrypt(b"a session").expect("a ticket");
    assert_eq!(keys.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
    let other = KeyFile::of(bytes, b"others".to_vec()).expect("the same keys");
    assert_eq!(other.decrypt(&ticket), None);
    for at in (0..ticket.len()).step_by(5) {
        let mut changed = ticket.clone();
        changed[at] ^= 1;
        assert_eq!(keys.decrypt(&changed), None, "byte {at}");
    }
}
