//! What a process uses, and whether that grew.

use std::fs;

use crate::Error;

/// Memory and descriptors of a process at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Proportional set size in KiB: shared pages count in parts.
    pub pss: u64,
    /// Resident set size in KiB.
    pub rss: u64,
    /// Open descriptors.
    pub files: usize,
}

impl Usage {
    pub(crate) fn of(process: u32) -> Result<Self, Error> {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let line = |key: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.ok_or_else(|| Error::from(format!("no {key} in smaps_rollup")))
        };
        let files = fs::read_dir(format!("/proc/{process}/fd"))?.count();
        Ok(Self { pss: line("Pss:")?, rss: line("Rss:")?, files })
    }
}

/// What was measured when.
pub(crate) struct Ledger(Vec<(&'static str, Usage)>);

/// Descriptors that may come and go with nobody there: a check, a question to the admin address.
const FEW: usize = 8;
/// What the second half may add to memory, beside a tenth, in KiB: allocators keep some of what was freed.
const MORE: u64 = 6 * 1024;

impl Ledger {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn note(&mut self, moment: &'static str, usage: Usage) {
        self.0.push((moment, usage));
    }

    pub(crate) fn lacks(&self, moment: &str) -> bool {
        self.at(moment).is_none()
    }

    /// Whether as few descriptors are open as before there were clients.
    pub(crate) fn is_back(&self, usage: &Usage) -> bool {
        self.at("idle").is_some_and(|idle| usage.files <= idle.files + FEW)
    }

    /// Prints the table; whether nothing leaks.
    pub(crate) fn print(&self) -> bool {
        type Read = fn(&Usage) -> u64;
        let rows: [(&str, Read); 3] = [
            ("memory (PSS), KiB", |usage| usage.pss),
            ("memory (RSS), KiB", |usage| usage.rss),
            ("descriptors", |usage| usage.files as u64),
        ];
        println!(
            "\n{:<24}{}",
            "the gateway",
            self.0.iter().map(|(moment, _)| format!("{moment:>12}")).collect::<String>()
        );
        for (name, read) in rows {
            println!(
                "{name:<24}{}",
                self.0.iter().map(|(_, usage)| format!("{:>12}", read(usage))).collect::<String>()
            );
        }
        println!();
        let memory = match (self.at("middle"), self.at("end")) {
            (Some(middle), Some(end)) => end.pss <= middle.pss + middle.pss / 10 + MORE,
            _ => false,
        };
        let files = self.at("after").is_some_and(|after| self.is_back(&after));
        if !memory {
            println!("memory grew from the middle to the end");
        }
        if !files {
            println!("descriptors stayed open after the last client had left");
        }
        memory && files
    }

    fn at(&self, moment: &str) -> Option<Usage> {
        self.0.iter().find(|(name, _)| *name == moment).map(|(_, usage)| *usage)
    }
}

/// As many open files as the system allows.
pub(crate) fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
