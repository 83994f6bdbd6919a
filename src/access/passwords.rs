//! Hashes of passwords, as `htpasswd`, `mkpasswd` and `argon2` write them: read once, and computed again for whoever comes.
//!
//! What costs more than anybody should wait for is refused when it is read, so that nobody who guesses can ask for more than
//! the bounds here.

use std::fmt;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use bcrypt::HashParts;
use sha_crypt::ShaCrypt;

/// The largest cost of bcrypt: 2¹⁵ rounds, some 2 s.
const MOST_COST: u32 = 15;
/// The most rounds of SHA-crypt, some 2 s.
const MOST_ROUNDS: u32 = 2_000_000;
/// The most memory of Argon2 in KiB, as RFC 9106 4 recommends where memory is short, and passes over it.
const MOST_MEMORY: u32 = 64 * 1024;
const MOST_PASSES: u32 = 16;
/// The longest name of a user, in bytes.
const LONGEST_NAME: usize = 255;

/// A user, and what their password hashes to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// Who they are.
    pub name: Box<str>,
    hash: Hashed,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Hashed {
    Bcrypt(Box<str>),
    Argon2(Box<str>),
    ShaCrypt(Box<str>),
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({}, ...)", self.name)
    }
}

impl User {
    /// Reads `name:hash`; what stands behind another colon is a remark.
    ///
    /// # Errors
    /// What was found and what was expected, without the hash.
    pub fn read(line: &str) -> Result<Self, String> {
        let (name, rest) = line.split_once(':').ok_or("found no `:`, expected `name:hash`")?;
        let hash = rest.split_once(':').map_or(rest, |(hash, _)| hash);
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(format!(
                "found a name that is none, expected 1 to {LONGEST_NAME} bytes of text before the `:`"
            ));
        }
        let hash = Hashed::read(hash).map_err(|fault| format!("the hash of `{name}`: {fault}"))?;
        Ok(Self { name: name.into(), hash })
    }

    /// `name:hash`, as it is read.
    pub fn text(&self) -> String {
        let (Hashed::Bcrypt(hash) | Hashed::Argon2(hash) | Hashed::ShaCrypt(hash)) = &self.hash;
        format!("{}:{hash}", self.name)
    }

    /// Whether this is their password. Takes as long as the hash was made to take.
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.hash {
            Hashed::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Hashed::Argon2(hash) => {
                PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
            }
            Hashed::ShaCrypt(hash) => ShaCrypt::default().verify_password(password, &**hash).is_ok(),
        }
    }

    /// The memory that this takes, in MiB, rounded up.
    pub(super) fn mebibytes(&self) -> u32 {
        match &self.hash {
            Hashed::Argon2(hash) => {
                let memory = PasswordHash::new(hash).ok().and_then(|hash| argon2::Params::try_from(&hash).ok());
                memory.map_or(1, |params| params.m_cost().div_ceil(1024)).max(1)
            }
            Hashed::Bcrypt(_) | Hashed::ShaCrypt(_) => 1,
        }
    }
}

impl Hashed {
    fn read(hash: &str) -> Result<Self, String> {
        match hash.split('$').nth(1).filter(|_| hash.starts_with('$')) {
            Some("2y" | "2b" | "2a") => {
                let parts: HashParts = hash.parse().map_err(|fault| format!("{fault}"))?;
                match parts.get_cost() {
                    4..=MOST_COST => Ok(Self::Bcrypt(hash.into())),
                    cost => Err(format!("found bcrypt of cost {cost}, expected 4 to {MOST_COST}")),
                }
            }
            Some("argon2id") => {
                let read = PasswordHash::new(hash).map_err(|fault| format!("no Argon2 hash: {fault}"))?;
                let params = argon2::Params::try_from(&read).map_err(|fault| format!("no Argon2 hash: {fault}"))?;
                if read.salt.is_none() || read.hash.is_none() {
                    return Err("no Argon2 hash: it has an end that is missing".to_owned());
                }
                if params.m_cost() > MOST_MEMORY || params.t_cost() > MOST_PASSES {
                    return Err(format!(
                        "found Argon2 with m={},t={}, expected m={MOST_MEMORY},t={MOST_PASSES} at most",
                        params.m_cost(),
                        params.t_cost()
                    ));
                }
                Ok(Self::Argon2(hash.into()))
            }
            Some(kind @ ("5" | "6")) => sha_crypt(kind, hash).map(|()| Self::ShaCrypt(hash.into())),
            _ => Err("found none that is known, expected one of bcrypt ($2y$, as `htpasswd -B` writes it), \
                      Argon2id ($argon2id$) or SHA-crypt ($5$, $6$)"
                .to_owned()),
        }
    }
}

/// Whether a SHA-crypt hash is whole, and what it costs: what reads it only says so when a password is there.
fn sha_crypt(kind: &str, hash: &str) -> Result<(), String> {
    let mut fields = hash.split('$').skip(2).peekable();
    if let Some(rounds) = fields.peek().and_then(|field| field.strip_prefix("rounds=")) {
        match rounds.parse() {
            Ok(sha_crypt::Params::ROUNDS_MIN..=MOST_ROUNDS) => {}
            _ => {
                let least = sha_crypt::Params::ROUNDS_MIN;
                return Err(format!("found SHA-crypt of {rounds:.20} rounds, expected {least} to {MOST_ROUNDS}"));
            }
        }
        fields.next();
    }
    let is_crypt = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/'));
    let length = if kind == "5" { 43 } else { 86 };
    match (fields.next(), fields.next(), fields.next()) {
        (Some(salt), Some(end), None) if salt.len() <= 16 && is_crypt(salt) && end.len() == length && is_crypt(end) => {
            Ok(())
        }
        _ => Err(format!("found SHA-crypt that is cut, expected ${kind}$, a salt, $, and {length} characters")),
    }
}

/// Reads a file of users: one in each line, and lines that `#` begins.
///
/// # Errors
/// The first line that is wrong: its number, and why.
pub(super) fn read(text: &str) -> Result<Vec<User>, (usize, String)> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| User::read(line.trim_end()).map_err(|fault| (number, fault))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made outside (Python's `bcrypt` and `argon2-cffi`, `openssl passwd`): see `tests/it/access/vectors/README.md`.
    const USERS: &str = include_str!("../../tests/it/access/vectors/users.htpasswd");

    #[test]
    fn what_other_programs_have_hashed_is_verified() {
        let users = read(USERS).unwrap();
        let names: Vec<&str> = users.iter().map(|user| &*user.name).collect();
        assert_eq!(names, ["bcrypt-y", "bcrypt-b", "argon2id", "sha256", "sha512", "rounds", "jürgen"]);
        for user in &users {
            assert!(user.verify(format!("pass:{}", user.name).as_bytes()), "{user:?}");
            for wrong in [String::new(), "pass".to_owned(), format!("pass:{} ", user.name), "x".repeat(5000)] {
                assert!(!user.verify(wrong.as_bytes()), "{user:?}: {wrong:.20}");
            }
        }
        let takes: Vec<u32> = users.iter().map(User::mebibytes).collect();
        assert_eq!(takes, [1, 1, 8, 1, 1, 1, 1]);
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_told_and_never_shown() {
        let tail = "LQv3c1yqBWVHxkd0LHAkCOYz6TtxMQJqhN8/LewKyNiLXCtC9y8Ay";
        let end = "a".repeat(86);
        for (line, told) in [
            ("ann", "found no `:`, expected `name:hash`".to_owned()),
            (":x", "found a name that is none, expected 1 to 255 bytes of text before the `:`".to_owned()),
            (&format!("ann:$2y$16${tail}"), "the hash of `ann`: found bcrypt of cost 16, expected 4 to 15".to_owned()),
            (
                &format!("ann:$6$rounds=9999999$abc${end}"),
                "the hash of `ann`: found SHA-crypt of 9999999 rounds, expected 1000 to 2000000".to_owned(),
            ),
            (
                "ann:$5$abc$def",
                "the hash of `ann`: found SHA-crypt that is cut, expected $5$, a salt, $, and 43 characters".to_owned(),
            ),
            (
                "ann:$argon2id$v=19$m=1048576,t=3,p=4$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA",
                "the hash of `ann`: found Argon2 with m=1048576,t=3, expected m=65536,t=16 at most".to_owned(),
            ),
        ] {
            assert_eq!(User::read(line).unwrap_err(), told);
        }
        for weak in
            ["secret", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "$apr1$x$y", "$1$x$y", "$2x$05$a", "$argon2i$v=19$x", ""]
        {
            let told = User::read(&format!("ann:{weak}")).unwrap_err();
            assert!(told.contains("expected one of bcrypt"), "{told}");
        }
        assert!(User::read("ann:$2y$05$short").is_err() && User::read("ann:$argon2id$v=19$m=8").is_err());
        let bad = read(&format!("# users\n\nann:$2y$05${tail}:of the office\nbob:secret\n")).unwrap_err();
        assert!(bad.0 == 4 && !bad.1.contains("secret"), "{bad:?}");
        assert!(!format!("{:?}", User::read(&format!("ann:$2y$05${tail}")).unwrap()).contains("LQv3"));
    }
}
