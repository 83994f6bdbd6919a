//! What clients come back with in place of a full handshake: tickets, sealed here and kept by them.
//!
//! With a key file, gateways that share it open each other's. Its keys are only what keys are made from, a new one for
//! each ticket: so no two gateways can ever use the same one twice, however many tickets they make. What a ticket stands for
//! goes into its key, too: one that was given under other terms does not open.

use std::fmt;
use std::path::Path;

use ::aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ::aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use ::aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::server::ProducesTickets;

use super::{TlsError, read};

/// How long clients are told that a ticket holds.
const LIFETIME: u32 = 12 * 3600;
/// The name of a key, in front of each ticket that it has sealed.
const NAME: usize = 16;
/// What makes the key of one ticket another one than that of the next.
const SALT: usize = 32;
/// The lengths that a key of nginx and HAProxy may have, its name included.
const LENGTHS: [usize; 2] = [48, 80];
const AES_256_KEY: usize = 32;

/// Tickets by the keys of a file.
pub(crate) struct KeyFile {
    keys: Vec<Key>,
    /// What the terms are that tickets stand for.
    terms: Vec<u8>,
}

struct Key {
    name: [u8; NAME],
    secret: Vec<u8>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({} keys)", self.keys.len())
    }
}

impl KeyFile {
    /// Reads keys; the first seals, each opens.
    pub(super) fn load(file: &Path, terms: Vec<u8>) -> Result<(Self, Vec<u8>), TlsError> {
        let bytes = read(file)?;
        let keys = Self::of(&bytes, terms).map_err(|what| TlsError { file: file.to_owned(), what })?;
        Ok((keys, bytes))
    }

    /// The keys that a file holds.
    pub(crate) fn of(bytes: &[u8], terms: Vec<u8>) -> Result<Self, String> {
        Ok(Self { keys: keys(bytes)?, terms })
    }

    /// The key of one ticket, by the file's and what stands in front of it.
    fn key_of(&self, key: &Key, salt: &[u8]) -> Option<(LessSafeKey, Nonce)> {
        struct Length;
        impl KeyType for Length {
            fn len(&self) -> usize {
                AES_256_KEY + NONCE_LEN
            }
        }
        let mut made = [0; AES_256_KEY + NONCE_LEN];
        let pseudorandom = Salt::new(HKDF_SHA256, salt).extract(&key.secret);
        let info = [b"sockgate session ticket", &self.terms[..]];
        pseudorandom.expand(&info, Length).ok()?.fill(&mut made).ok()?;
        let (key, nonce) = made.split_at(AES_256_KEY);
        let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
        Some((LessSafeKey::new(key), Nonce::try_assume_unique_for_key(nonce).ok()?))
    }
}

impl ProducesTickets for KeyFile {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut salt = [0; SALT];
        rand::fill(&mut salt).ok()?;
        let (sealing, nonce) = self.key_of(key, &salt)?;
        let mut sealed = plain.to_vec();
        sealing.seal_in_place_append_tag(nonce, Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name[..], &salt, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (salt, sealed) = rest.split_first_chunk::<SALT>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        let (opening, nonce) = self.key_of(key, salt)?;
        let mut opened = sealed.to_vec();
        let length = opening.open_in_place(nonce, Aad::from(key.name), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

/// The keys of a file: one as it is, as nginx has it, or one in base64 on each line, as HAProxy has them.
fn keys(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let expected = "expected keys of 48 or 80 bytes, each in base64 on a line of its own, or one as it is";
    let key = |bytes: &[u8]| {
        let (name, secret) = bytes.split_first_chunk::<NAME>()?;
        LENGTHS.contains(&bytes.len()).then(|| Key { name: *name, secret: secret.to_vec() })
    };
    if let Some(key) = key(bytes) {
        return Ok(vec![key]);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{expected}; found {} bytes", bytes.len()))?;
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut keys: Vec<Key> = Vec::new();
    for (at, line) in lines {
        let one = STANDARD.decode(line).ok().and_then(|bytes| key(&bytes));
        let one = one.ok_or_else(|| format!("line {at}: {expected}"))?;
        if keys.iter().any(|known| known.name == one.name) {
            return Err(format!("line {at}: found the first 16 bytes of another key, by which tickets are told apart"));
        }
        keys.push(one);
    }
    if keys.is_empty() { Err(format!("{expected}; found none")) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(key: u8, length: usize) -> String {
        STANDARD.encode(vec![key; length]) + "\n"
    }

    fn file(text: &[u8], terms: &[u8]) -> KeyFile {
        KeyFile::of(text, terms.to_vec()).unwrap()
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let (old, new) = (line(1, 48), line(2, 80));
        let before = file(old.as_bytes(), b"");
        let between = file(format!("# two\n\n{old}{new}").as_bytes(), b"");
        let after = file(format!("{new}{old}").as_bytes(), b"");
        let ticket = after.encrypt(b"state").unwrap();
        assert_eq!(after.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(between.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(before.decrypt(&ticket), None, "it has not heard of the new key");
        assert!(after.decrypt(&between.encrypt(b"state").unwrap()).is_some());
        assert_ne!(after.encrypt(b"state").unwrap(), ticket);
    }

    #[test]
    fn a_ticket_of_other_terms_or_another_key_does_not_open() {
        let key = line(1, 48);
        let ticket = file(key.as_bytes(), b"everybody").encrypt(b"state").unwrap();
        assert_eq!(file(key.as_bytes(), b"those with a certificate").decrypt(&ticket), None);
        let mut same_name = vec![1; 48];
        same_name[47] = 2;
        assert_eq!(file(&same_name, b"everybody").decrypt(&ticket), None);
    }

    #[test]
    fn files_of_nginx_and_haproxy_are_read_and_others_are_told_what_is_wrong() {
        for length in LENGTHS {
            assert_eq!(file(&vec![200; length], b"").keys[0].secret.len(), length - NAME);
        }
        let fault = |text: &str| keys(text.as_bytes()).err().unwrap();
        assert!(fault("").contains("found none"));
        assert!(fault("secret").starts_with("line 1: expected keys of 48 or 80 bytes"));
        assert!(fault(&(line(1, 48) + &line(2, 49))).starts_with("line 2: expected"));
        assert!(fault(&(line(1, 48) + &line(1, 80))).starts_with("line 2: found the first 16 bytes"));
        assert!(keys(&[255; 47]).err().unwrap().contains("found 47 bytes"));
    }

    proptest! {
        #[test]
        fn what_is_no_ticket_opens_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..90) {
            let keys = file(line(1, 48).as_bytes(), b"");
            prop_assert_eq!(keys.decrypt(&bytes), None);
            let mut ticket = keys.encrypt(b"some state").unwrap();
            let at = at % ticket.len();
            ticket[at] ^= 1;
            prop_assert_eq!(keys.decrypt(&ticket), None);
            prop_assert_eq!(keys.decrypt(&ticket[..at]), None);
        }
    }
}
