//! `sockgate config`, `completions` and `man`: what the program carries with it for those who write its configuration, and
//! for the shell.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::Arguments;

/// A text that the program carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Carried {
    /// Every key there is, with its default and what it is for.
    Full,
    /// The shortest that serves a Socket.IO app.
    Minimal,
    /// A JSON Schema, by which editors complete and check.
    Schema,
}

impl Carried {
    fn text(self) -> &'static str {
        match self {
            Self::Full => include_str!("../../conf/full.yaml"),
            Self::Minimal => include_str!("../../conf/minimal.yaml"),
            Self::Schema => include_str!("../../conf/sockgate.schema.json"),
        }
    }
}

pub(super) fn show(which: Carried) -> ExitCode {
    written(which.text().as_bytes())
}

pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "sockgate", &mut text);
    written(&text)
}

/// The page of the manual: the program, then each of its commands.
pub(super) fn man() -> ExitCode {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let mut text = Vec::new();
    let mut page = || {
        let whole = clap_mangen::Man::new(command.clone()).title("SOCKGATE").section("1");
        whole.render_title(&mut text)?;
        whole.render_name_section(&mut text)?;
        whole.render_synopsis_section(&mut text)?;
        whole.render_description_section(&mut text)?;
        for one in command.get_subcommands() {
            writeln!(text, ".SH \"sockgate {}\"", one.get_name())?;
            let one = clap_mangen::Man::new(one.clone());
            one.render_synopsis_section(&mut text)?;
            one.render_description_section(&mut text)?;
            one.render_options_section(&mut text)?;
        }
        whole.render_extra_section(&mut text)
    };
    match page() {
        Ok(()) => written(&under_one_heading(&text)),
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// Sections of commands are parts of that of their command.
fn under_one_heading(page: &[u8]) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    let mut within = false;
    let lines = page.lines().map(|line| {
        within |= line.starts_with(".SH \"sockgate ");
        within &= line != ".SH EXTRA";
        let is_part = within && [".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"].contains(&line);
        if is_part { line.replacen(".SH", ".SS", 1) } else { line.to_owned() }
    });
    let lines: Vec<String> = lines.collect();
    (lines.join("\n") + "\n").into_bytes()
}

/// Who reads no further than the first lines has read what counts.
fn written(text: &[u8]) -> ExitCode {
    let _ = io::stdout().write_all(text);
    ExitCode::SUCCESS
}
