//! `sockgate health`: one question to the admin address of a running gateway.

use std::process::ExitCode;

use super::ask::{Answer, ask};

pub(super) fn health(admin: &str) -> ExitCode {
    match ask(admin, "GET", "/readyz", b"") {
        Ok(Answer { status: 200, .. }) => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Ok(Answer { body, .. }) => {
            eprintln!("not ready: {}", body.trim());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{admin} does not answer: {error}");
            ExitCode::FAILURE
        }
    }
}
