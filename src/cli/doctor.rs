//! `sockgate doctor`: what is wrong with a deployment, seen from outside, and how it is mended.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use crate::doctor::{Finding, Target, Weight};

pub(super) fn doctor(target: &Target, as_json: bool) -> ExitCode {
    let live = std::io::stderr().is_terminal();
    let findings = target.examine(&|doing| {
        if live {
            eprint!("\r\x1b[2K{doing} …");
        } else {
            eprintln!("{doing}");
        }
    });
    if live {
        eprint!("\r\x1b[2K");
    }
    let is_well = findings.iter().all(|finding| finding.weight != Weight::Fault);
    let text = if as_json {
        serde_json::to_string_pretty(&findings).map(|text| text + "\n").unwrap_or_default()
    } else {
        tell(&findings)
    };
    // Who reads no further than the first line has read what counts.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The verdict first, then what is wrong and how it is mended, then what is well.
fn tell(findings: &[Finding]) -> String {
    let count = |weight| findings.iter().filter(|finding| finding.weight == weight).count();
    let mut text = match (count(Weight::Fault), count(Weight::Care)) {
        (0, 0) => "All is well.\n".to_owned(),
        (0, 1) => "It works; one thing is to be looked at.\n".to_owned(),
        (0, cares) => format!("It works; {cares} things are to be looked at.\n"),
        (1, _) => "There is one fault.\n".to_owned(),
        (faults, _) => format!("There are {faults} faults.\n"),
    };
    for finding in findings {
        let sign = match finding.weight {
            Weight::Fault => "FAULT",
            Weight::Care => "look ",
            Weight::Good => "well ",
        };
        text.push_str(&format!("\n{sign}  {}\n", finding.what));
        for (proxy, what) in finding.mend {
            text.push_str(&format!("         {proxy}: {what}\n"));
        }
    }
    text
}
