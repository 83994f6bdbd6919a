//! Turns configurations of other proxies into one of ours: what both know is carried over, and every other line stands as a
//! comment where it would belong, with the reason.

mod draft;
mod haproxy;
mod nginx;
mod stunnel;
#[cfg(test)]
mod tests;
mod traefik;

use std::fmt;

/// The proxies whose files are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Source {
    /// `haproxy.cfg`.
    Haproxy,
    /// `nginx.conf`, or a file of `sites-enabled`.
    Nginx,
    /// A file of `http` and `tcp`, of `entryPoints`, or of both, in YAML.
    Traefik,
    /// `stunnel.conf`.
    Stunnel,
}

/// What has become of a file.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The new file, comments included.
    pub(crate) yaml: String,
    /// How many lines of the old one are only in its comments.
    pub(crate) left_out: usize,
    /// The numbers of those that kept somebody out.
    pub(crate) guards: Vec<usize>,
}

/// A file that can't be read as one of its kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// From 1.
    pub(crate) line: usize,
    /// What was found, and what was expected.
    pub(crate) what: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// Reads `text` as a file of `source` that is called `name`.
///
/// # Errors
/// What can't be read at all. What can be, but has no counterpart here, is in the comments.
pub(crate) fn import(source: Source, name: &str, text: &str) -> Result<Imported, Unreadable> {
    let draft = match source {
        Source::Haproxy => haproxy::read(text)?,
        Source::Nginx => nginx::read(text)?,
        Source::Traefik => traefik::read(text)?,
        Source::Stunnel => stunnel::read(text)?,
    };
    Ok(draft.finish(name))
}
