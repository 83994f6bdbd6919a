//! `sockgate health`: one question to the admin address of a running gateway.

use std::process::ExitCode;

use super::ask::{Answer, Door, run};

pub(super) fn health(admin: &str) -> ExitCode {
    let door = match Door::at(admin) {
        Ok(door) => door,
        Err(fault) => {
            eprintln!("{admin}: {fault}");
            return ExitCode::FAILURE;
        }
    };
    match run(door.ask("GET", "/readyz", b"")).and_then(|answer| answer) {
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
