//! TLS clients of others: `openssl`, `curl` and Node.js, where they are installed.

use std::ffi::OsStr;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::within;

/// What a program has said, on both of its outputs, and whether it was content.
pub struct Said {
    pub good: bool,
    pub text: String,
}

/// Runs a program that is given this to read. `None`, said aloud, where it is not installed.
pub async fn run(program: &str, arguments: &[impl AsRef<OsStr>], input: &str) -> Option<Said> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {program} is not installed, see scripts/proxy-deps");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    // Whoever fails early does not read it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = within(program, child.wait_with_output()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some(Said { good: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() })
}
