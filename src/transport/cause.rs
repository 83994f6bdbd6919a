//! What the system says is behind a connect that failed.

use std::error::Error;
use std::io;

/// Whether a connect failed since nobody listens there, which is certain: a network that is broken says something else, or
/// nothing.
pub(crate) fn is_refusal(fault: &(dyn Error + 'static)) -> bool {
    comes_of(fault, |error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Whether there is such an error of the system behind a fault.
pub(super) fn comes_of(fault: &(dyn Error + 'static), is_it: impl Fn(&io::Error) -> bool) -> bool {
    let mut cause = Some(fault);
    while let Some(fault) = cause {
        cause = match fault.downcast_ref::<io::Error>() {
            Some(error) if is_it(error) => return true,
            Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => fault.source(),
        };
    }
    false
}
