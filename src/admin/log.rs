//! What the log for operators tells, changed while the gateway runs.

use ::http::StatusCode;

use super::endpoints::{Answer, Request};
use super::shape::{taken, told};
use crate::logging;

told! {
    /// What the log tells.
    LogTold {
        /// A level, or levels of parts, such as `info,sockgate::upstream=debug`; null where a program has brought its log.
        filter: Option<String>,
    }
}

taken! {
    /// What the log is to tell.
    LogAsked {
        /// A level (off, error, warn, info, debug or trace), or levels of parts.
        filter: String,
    }
}

pub(super) fn answer() -> Answer {
    Answer::json(&LogTold { filter: logging::filter() })
}

pub(super) fn set(request: &Request) -> Answer {
    let asked: LogAsked = match request.json() {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let example = "for example { \"filter\": \"info,sockgate::upstream=debug\" }";
    let Some(filter) = asked.filter else {
        return Answer::fault(StatusCode::BAD_REQUEST, "the body: expected the key `filter`").hint(example);
    };
    match logging::set_filter(&filter) {
        Ok(()) => {
            ::log::info!("the log tells `{filter}` from now on, since an operator says so");
            answer()
        }
        Err(fault) if logging::filter().is_none() => Answer::fault(StatusCode::CONFLICT, fault),
        Err(fault) => Answer::fault(StatusCode::BAD_REQUEST, format!("filter: {fault}")).hint(example),
    }
}
