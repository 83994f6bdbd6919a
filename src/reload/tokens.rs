//! The tokens that the admin address takes: read from their file when a configuration is loaded, and kept as hashes.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};

/// The shortest that can't be tried out, in characters.
const SHORTEST: usize = 16;

/// Reads a file of tokens, one a line, so that an old one and a new one can hold at once.
///
/// # Errors
/// Why they can't be used.
pub(super) fn load(file: &Path) -> Result<Vec<[u8; 32]>, String> {
    let fail = |what: String| format!("admin.token_file: {}: {what}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| fail(format!("can't be read: {error}")))?;
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let mut tokens = Vec::new();
    for (number, token) in lines.filter(|(_, token)| !token.is_empty()) {
        if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fail(format!(
                "line {number}: expected a token of {SHORTEST} or more visible ASCII characters, such as `openssl rand \
                 -hex 32` makes"
            )));
        }
        tokens.push(hash(token.as_bytes()));
    }
    if tokens.is_empty() {
        return Err(fail("expected at least one token".to_owned()));
    }
    Ok(tokens)
}

/// What is kept of a token, and compared.
pub(crate) fn hash(token: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_by_line_and_short_ones_refused_without_telling_them() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let file = folder.path().join("token");
            std::fs::write(&file, text).unwrap();
            load(&file)
        };
        let tokens = read("\n0123456789abcdef\n  fedcba9876543210 \n").unwrap();
        assert_eq!(tokens, [hash(b"0123456789abcdef"), hash(b"fedcba9876543210")]);
        for (text, told) in
            [("", "at least one"), ("0123456789abcdef\nsecret", "line 2"), ("with a space in it", "line 1")]
        {
            let fault = read(text).unwrap_err();
            assert!(fault.contains(told) && !fault.contains("secret\n"), "{fault}");
        }
        assert!(load(Path::new("/nowhere/token")).unwrap_err().contains("/nowhere/token: can't be read"));
    }
}
