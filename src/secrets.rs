//! Files that are in no file system: what the Secrets of a cluster hold, by names such as `secret://chat/web/tls.crt`. They
//! are never written anywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What the names of such files begin with.
pub const SCHEME: &str = "secret://";

/// Files that are in no file system.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(Arc<BTreeMap<String, Vec<u8>>>);

impl Secrets {
    /// What a file holds, whether it is one of these or of the file system.
    ///
    /// # Errors
    /// It is not there, or can't be read.
    pub fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        match file.to_str().filter(|name| name.starts_with(SCHEME)) {
            Some(name) => self.0.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into()),
            None => std::fs::read(file),
        }
    }
}

/// Whether a file is of no file system.
pub fn is_secret(file: &Path) -> bool {
    file.to_str().is_some_and(|name| name.starts_with(SCHEME))
}

impl FromIterator<(String, Vec<u8>)> for Secrets {
    fn from_iter<T: IntoIterator<Item = (String, Vec<u8>)>>(files: T) -> Self {
        Self(Arc::new(files.into_iter().collect()))
    }
}

/// Tells no more than their names.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_their_names_and_never_told() {
        let name = "secret://chat/web/tls.key".to_owned();
        let secrets: Secrets = [(name.clone(), b"hush".to_vec())].into_iter().collect();
        assert_eq!(secrets.read(Path::new(&name)).unwrap(), b"hush");
        assert!(secrets.read(Path::new("secret://chat/web/tls.crt")).is_err());
        assert!(secrets.read(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").as_path()).is_ok());
        assert_eq!(format!("{secrets:?}"), format!("{{{name:?}}}"));
    }
}
