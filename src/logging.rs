//! The log for operators: what it tells, which can be changed while the gateway runs.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use log::{Log, Metadata, Record};

/// The log of this process, where the program has not brought its own.
static LOG: OnceLock<Switch> = OnceLock::new();

/// Writes what the filter of the moment lets pass.
struct Switch(Arc<ArcSwap<Filtered>>);

struct Filtered {
    filter: String,
    logger: env_logger::Logger,
}

/// Starts the log on standard error; `RUST_LOG` chooses what it tells, or else `usual`.
pub(crate) fn start(usual: &str) {
    let filter = std::env::var(env_logger::DEFAULT_FILTER_ENV).ok().filter(|filter| !filter.is_empty());
    let filtered = Filtered::new(filter.as_deref().unwrap_or(usual));
    let most = filtered.logger.filter();
    let shared = Arc::new(ArcSwap::from_pointee(filtered));
    let switch = Switch(Arc::clone(&shared));
    // A program that has brought its own keeps it.
    if log::set_boxed_logger(Box::new(switch)).is_ok() {
        log::set_max_level(most);
        let _ = LOG.set(Switch(shared));
    }
}

/// What is told at this moment; `None` where the log is a program's own.
pub(crate) fn filter() -> Option<String> {
    LOG.get().map(|log| log.0.load().filter.clone())
}

/// Tells this from now on: a level, or levels of parts, such as `info,sockgate::upstream=debug`.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub(crate) fn set_filter(filter: &str) -> Result<(), String> {
    check(filter)?;
    let log = LOG.get().ok_or("the log is a program's own, which decides what it tells")?;
    let filtered = Filtered::new(filter);
    let most = filtered.logger.filter();
    log.0.store(Arc::new(filtered));
    log::set_max_level(most);
    Ok(())
}

/// What `env_logger` would pass over with a word on standard error.
fn check(filter: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let expected = "expected a level (off, error, warn, info, debug or trace), or levels of parts such as \
                    `info,sockgate::upstream=debug`";
    if filter.is_empty() {
        return Err(format!("found nothing, {expected}"));
    }
    for part in filter.split(',') {
        let (target, level) = part.split_once('=').unwrap_or(("sockgate", part));
        let is_target =
            !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte));
        if !is_target || !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!("found `{part}`, {expected}"));
        }
    }
    Ok(())
}

impl Filtered {
    fn new(filter: &str) -> Self {
        let mut builder = env_logger::Builder::new();
        let logger = builder.parse_filters(filter).target(env_logger::Target::Stderr).build();
        Self { filter: filter.to_owned(), logger }
    }
}

impl Log for Switch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.load().logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.0.load().logger.log(record);
    }

    fn flush(&self) {
        self.0.load().logger.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_told_what_one_is() {
        for good in ["info", "DEBUG", "info,sockgate=debug", "sockgate::upstream=trace", "warn,pingora-core=off"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "loud", "sockgate=loud", "info,", "=info", "a b=info", "info,sockgate"] {
            assert!(check(bad).unwrap_err().contains("expected a level"), "{bad}");
        }
    }
}
