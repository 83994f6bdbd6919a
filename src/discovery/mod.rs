//! Where servers are found that the configuration does not list: each source that it can name, as a
//! [`Discovery`](crate::Discovery).

mod dns;
mod file;

use crate::upstream::Source;
use crate::upstream::config::Servers;

/// Opens the source that a configuration names; `None` where it lists its servers.
///
/// # Errors
/// Why it can't be used, in one plain sentence.
pub fn open(said: &Servers) -> Result<Option<Source>, String> {
    match said {
        Servers::List(_) => Ok(None),
        Servers::File(said) => file::open(said).map(Some),
        Servers::Dns(said) => Ok(Some(dns::of_host(said))),
        Servers::Srv(said) => Ok(Some(dns::of_service(said))),
    }
}
