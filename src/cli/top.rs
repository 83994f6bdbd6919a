//! `sockgate top`: the servers live in the terminal, the busiest first, until Ctrl-C.

use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::ask::Door;
use super::operate::{headline, items, print, servers_table};
use super::table::print_now;

const EVERY: Duration = Duration::from_secs(1);
/// Another screen, without a cursor and without wrapped lines; and back.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const END: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What the servers are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    Rate,
    Sessions,
    Faults,
    Name,
}

/// Restores the terminal, however it ends.
struct Screen;

impl Screen {
    fn begin() -> Self {
        print_now(BEGIN);
        Self
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print_now(END);
    }
}

/// Shows the servers; once where there is no terminal.
pub(super) async fn top(door: &Door, sort: Sort, as_json: bool) -> Result<(), String> {
    let look = async || -> Result<(Value, Value), String> {
        let status = door.told("GET", "/api/v1/status", None).await?;
        Ok((status, door.told("GET", "/api/v1/servers", None).await?))
    };
    if as_json || !std::io::stdout().is_terminal() {
        let (status, servers) = look().await?;
        let shown = if as_json {
            json!({ "status": status, "servers": servers }).to_string() + "\n"
        } else {
            frame(door, &status, &servers, sort)
        };
        print(shown);
        return Ok(());
    }
    // What can't be reached at first is not worth another screen.
    let mut seen = look().await?;
    let rows = rows();
    let _screen = Screen::begin();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut fault, mut left) = (None, std::pin::pin!(tokio::signal::ctrl_c()));
    loop {
        let mut shown = frame(door, &seen.0, &seen.1, sort);
        if let Some(fault) = &fault {
            shown = format!("! {fault}: this is the last that it said\n{shown}");
        }
        let lines = shown.lines().take(rows.saturating_sub(1)).collect::<Vec<_>>().join("\x1b[K\r\n");
        // Written over what was there before, so that nothing flickers.
        print_now(&format!("\x1b[H{lines}\x1b[K\x1b[J"));
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut left => return Ok(()),
        }
        match look().await {
            Ok(now) => (seen, fault) = (now, None),
            Err(why) => fault = Some(why),
        }
    }
}

fn frame(door: &Door, status: &Value, servers: &Value, sort: Sort) -> String {
    let mut servers: Vec<&Value> = items(servers).iter().collect();
    let faults = |server: &Value| {
        server["connect_failures"].as_f64().unwrap_or(0.0) + server["bad_answers"].as_f64().unwrap_or(0.0)
    };
    let key = |server: &Value| match sort {
        Sort::Rate => server["per_second"].as_f64().unwrap_or(0.0),
        Sort::Sessions => server["sessions"].as_f64().unwrap_or(0.0),
        Sort::Faults => faults(server),
        Sort::Name => 0.0,
    };
    servers.sort_by(|one, other| key(other).total_cmp(&key(one)));
    format!("{}\n{}", headline(door, status), servers_table(servers.into_iter()))
}

/// How many lines the terminal has.
fn rows() -> usize {
    let size = Command::new("stty").arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output();
    let size = size.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    size.and_then(|size| size.split(' ').next()?.trim().parse().ok()).filter(|&rows| rows > 3).unwrap_or(24)
}
