//! Generators of others, wrk and h2load, read by what they print.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::Error;
use crate::load::{Outcome, Until};

/// wrk: HTTP/1.1, 32 connections.
pub(crate) async fn wrk(address: SocketAddr, path: &str, until: Until) -> Result<Outcome, Error> {
    let Until::Time(time) = until else { return Err("wrk brings no given number of requests".into()) };
    let seconds = format!("{}s", whole_seconds(time));
    let url = format!("http://{address}{path}");
    Ok(read_wrk(&output("wrk", &["-t", "1", "-c", "32", "-d", &seconds, &url]).await?))
}

/// h2load: HTTP/2 over TLS, 8 connections of 16 streams.
pub(crate) async fn h2load(address: SocketAddr, path: &str, until: Until) -> Result<Outcome, Error> {
    let (how, much) = match until {
        Until::Time(time) => ("-D", whole_seconds(time)),
        Until::Count(count) => ("-n", count.to_string()),
    };
    let url = format!("https://{address}{path}");
    Ok(read_h2load(&output("h2load", &["-c", "8", "-m", "16", how, &much, &url]).await?))
}

fn whole_seconds(time: Duration) -> String {
    format!("{}", time.as_secs_f64().ceil())
}

async fn output(program: &str, arguments: &[&str]) -> Result<String, Error> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read_wrk(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut fail = |what: &str, count: &str| {
        let count = count.trim().parse().unwrap_or(0);
        if count > 0 {
            outcome.failures.insert(what.to_owned(), count);
        }
    };
    for line in text.lines().map(str::trim) {
        if let Some(counts) = line.strip_prefix("Socket errors: ") {
            for part in counts.split(", ") {
                let (what, count) = part.split_once(' ').unwrap_or((part, "1"));
                fail(what, count);
            }
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses: ") {
            fail("status", count);
        } else if let Some((count, _)) = line.split_once(" requests in ") {
            outcome.done = count.parse().unwrap_or(0);
        }
    }
    outcome.done = outcome.done.saturating_sub(outcome.failures.get("status").copied().unwrap_or(0));
    outcome
}

/// With a duration, what is under way at its end is counted as neither.
fn read_h2load(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let number = |part: &str| part.split_whitespace().next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
    for line in text.lines() {
        if let Some(counts) = line.strip_prefix("requests: ") {
            for part in counts.split(", ") {
                match part.split_whitespace().nth(1) {
                    Some("succeeded") => outcome.done = number(part),
                    Some(word @ ("failed" | "errored" | "timeout")) if number(part) > 0 => {
                        outcome.failures.insert(word.to_owned(), number(part));
                    }
                    _ => {}
                }
            }
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_understood() {
        let outcome = read_wrk(
            "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 32 connections\n  1000 requests in 1.00s, 1.2MB read\n  \
             Socket errors: connect 0, read 3, write 0, timeout 2\n  Non-2xx or 3xx responses: 10\nRequests/sec: 1000\n",
        );
        assert_eq!((outcome.done, outcome.failed()), (990, 15));
        assert_eq!(outcome.failures["read"], 3);
    }

    #[test]
    fn what_h2load_says_is_understood() {
        let outcome = read_h2load(
            "finished in 1.00s, 5000 req/s\nrequests: 5000 total, 5128 started, 5000 done, 4990 succeeded, 10 failed, \
             10 errored, 0 timeout\nstatus codes: 4990 2xx, 0 3xx, 0 4xx, 0 5xx\n",
        );
        assert_eq!(outcome.done, 4990);
        assert_eq!(outcome.failures["failed"], 10);
        assert!(!outcome.failures.contains_key("timeout"));
    }
}
