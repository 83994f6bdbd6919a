//! What this machine has too little of, descriptors above all: a fault of nobody at the other end, and how many
//! connections there is room for.

use std::error::Error;

use nix::libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
use nix::sys::resource::{Resource, getrlimit};

use super::cause::comes_of;

/// Whether a connect failed for want of something on this side: descriptors, ports, memory. It says nothing about the
/// server.
pub(crate) fn is_shortage(fault: &(dyn Error + 'static)) -> bool {
    comes_of(fault, |error| matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | EADDRNOTAVAIL)))
}

/// Connections of clients that there are descriptors for, where each takes one and another one towards its server, and
/// `reserve` are kept for everything else. At least a quarter of what there is; `None` where there is no limit.
pub(crate) fn room_for_connections(reserve: u64) -> Option<usize> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (limit != nix::libc::RLIM_INFINITY).then(|| room_within(limit, reserve))
}

/// How many files may be open at once where a start has raised the limit as far as it may; `None` where there is none.
pub(crate) fn most_files() -> Option<u64> {
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (limit != nix::libc::RLIM_INFINITY).then_some(limit)
}

fn room_within(limit: u64, reserve: u64) -> usize {
    usize::try_from(((limit - reserve.min(limit / 2)) / 2).max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_this_side_lacks_is_told_from_what_the_other_side_does() {
        for code in [EMFILE, ENFILE, ENOBUFS, EADDRNOTAVAIL] {
            assert!(is_shortage(&io::Error::from_raw_os_error(code)), "{code}");
            assert!(is_shortage(&io::Error::other(io::Error::from_raw_os_error(code))), "{code}, wrapped");
        }
        for code in [nix::libc::ECONNREFUSED, nix::libc::ETIMEDOUT, nix::libc::EHOSTUNREACH, nix::libc::ENETUNREACH] {
            assert!(!is_shortage(&io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(!is_shortage(&io::Error::other("nonsense")));
    }

    #[test]
    fn connections_leave_room_for_servers_and_checks() {
        assert_eq!(room_within(1024, 100), 462);
        assert_eq!(room_within(200, 5000), 50, "never less than a quarter");
        assert_eq!(room_within(0, 1), 1);
    }
}
