//! Where the API server is, how to prove to it who asks, and its faults in plain words.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use tokio::task::spawn_blocking;

/// Longest time for a connection to it.
const CONNECT: Duration = Duration::from_secs(5);
/// Of what it says of a fault, so many bytes are told.
const LONGEST_FAULT: usize = 300;

/// A client of the API server, and the namespace that is meant where none is said. Files are read anew each time: tokens and
/// authorities change.
///
/// # Errors
/// Why there is none, in one plain sentence.
pub(crate) async fn connect(kubeconfig: Option<&Path>) -> Result<(Client, String), String> {
    let mut config = match kubeconfig {
        Some(file) => by_file(file).await?,
        None => of_pod().await?,
    };
    config.connect_timeout = Some(CONNECT);
    let namespace = config.default_namespace.trim().to_owned();
    // A kubeconfig may name a program that has to be run for a token.
    let client = spawn_blocking(move || Client::try_from(config)).await.map_err(|fault| fault.to_string())?;
    Ok((client.map_err(|fault| told(&fault, "what was asked for"))?, namespace))
}

async fn by_file(file: &Path) -> Result<Config, String> {
    let path = file.to_owned();
    let of_file = |fault: String| format!("{}: {}", file.display(), plain(&fault));
    let read = spawn_blocking(move || Kubeconfig::read_from(path)).await.map_err(|fault| fault.to_string())?;
    let kubeconfig = read.map_err(|fault| of_file(innermost(&fault)))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.map_err(|fault| of_file(innermost(&fault)))
}

/// What each pod is given: two variables, and the files of its service account.
async fn of_pod() -> Result<Config, String> {
    let config = spawn_blocking(Config::incluster).await.map_err(|fault| fault.to_string())?;
    config.map_err(|fault| {
        let why = plain(&innermost(&fault));
        format!("no `kubeconfig` is said, and this is no pod with a service account: {why}")
    })
}

/// Whether what was asked for is older than what it remembers.
pub(super) fn is_gone(fault: &kube::Error) -> bool {
    matches!(fault, kube::Error::Api(status) if is_gone_status(status))
}

pub(super) fn is_gone_status(status: &Status) -> bool {
    status.code == 410
}

/// Whether there is nothing of the kind that was asked for.
pub(super) fn is_absent(fault: &kube::Error) -> bool {
    matches!(fault, kube::Error::Api(status) if status.code == 404)
}

/// A fault in one plain sentence; `what` was asked for.
pub(crate) fn told(fault: &kube::Error, what: &str) -> String {
    match fault {
        kube::Error::Api(status) => told_status(status, what),
        kube::Error::SerdeError(fault) => {
            format!("the API server says what can't be read: {}", plain(&fault.to_string()))
        }
        kube::Error::ReadEvents(fault) => format!("the API server broke off: {}", plain(&innermost(fault))),
        kube::Error::Auth(fault) => format!("no credentials for the API server: {}", plain(&innermost(fault))),
        other => format!("the API server can't be reached: {}", plain(&innermost(other))),
    }
}

pub(super) fn told_status(status: &Status, what: &str) -> String {
    let does = match status.code {
        401 => "does not know who asks (401)".to_owned(),
        403 => "refuses (403)".to_owned(),
        404 => format!("has no {what} (404)"),
        code => format!("answers {code}"),
    };
    format!("the API server {does}: {}", plain(&status.message))
}

/// The cause of a fault, beneath those who only pass it on.
fn innermost(fault: &dyn std::error::Error) -> String {
    let mut fault = fault;
    while let Some(source) = fault.source() {
        fault = source;
    }
    fault.to_string()
}

/// On one line, and not longer than one reads.
fn plain(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_FAULT).collect();
    line.trim().to_owned()
}
