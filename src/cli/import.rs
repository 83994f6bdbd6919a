//! `sockgate import`: the configuration of another proxy as one of ours.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use crate::import::{Source, import as read};

pub(super) fn import(source: Source, file: &Path) -> ExitCode {
    let from_stdin = file == Path::new("-");
    let name = if from_stdin { "standard input".to_owned() } else { file.display().to_string() };
    let text = if from_stdin {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{name}: cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    match read(source, &name, &text) {
        Ok(imported) => {
            print!("{}", imported.yaml);
            match imported.left_out {
                0 => eprintln!("{name}: everything is carried over"),
                1 => eprintln!("{name}: one line is not carried over; its comment says why"),
                many => eprintln!("{name}: {many} lines are not carried over; their comments say why"),
            }
            for line in imported.guards {
                eprintln!("warning: {name}:{line}: it kept somebody out, and is not carried over");
            }
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("{name}:{fault}");
            ExitCode::from(2)
        }
    }
}
