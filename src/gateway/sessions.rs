//! The sessions of a gateway on their way to the process that takes over, so that it need not look for them.
//!
//! What the tables call a session depends on their secrets, so these go first, before the new process hears of any session:
//! a line of JSON. The sessions follow when it is ready: for each upstream a line of JSON, and behind it so many records.
//! Those on WebSockets stay with the old process. A process of another age sends nothing, or hears nothing, and sessions are
//! looked for.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::session::{Moving, SessionTable};
use crate::snapshot::Snapshot;

/// The secrets of the tables, by upstream.
#[derive(Default, Deserialize, Serialize)]
struct Secrets(BTreeMap<String, [u64; 2]>);

/// What stands before the sessions of an upstream.
#[derive(Deserialize, Serialize)]
struct Section {
    upstream: String,
    sessions: usize,
}

/// Longest time for the secrets, which are there before this process is, and for all sessions: a million take less.
const SECRETS: Duration = Duration::from_millis(500);
const SESSIONS: Duration = Duration::from_secs(3);
/// The longest line.
const LONGEST_LINE: u64 = 1024 * 1024;

/// What the next process is told when it is started.
pub(super) fn secrets(snapshot: &Snapshot) -> Vec<u8> {
    let tables = snapshot.upstreams.iter().filter_map(|(name, upstream)| Some((name, upstream.sessions()?)));
    let secrets = Secrets(tables.map(|(name, table)| (name.to_string(), table.secret())).collect());
    let mut line = serde_json::to_vec(&secrets).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Takes the secrets of the process before over; to be called before any session is learned.
pub(super) async fn take_secrets(from: &mut (impl AsyncBufRead + Unpin), snapshot: &Snapshot) {
    let Ok(Ok(Some(Secrets(secrets)))) = timeout(SECRETS, line::<Secrets>(from)).await else { return };
    for (name, secret) in secrets {
        if let Some(table) = table(snapshot, &name) {
            table.share_secret(secret);
        }
    }
}

/// Sends all sessions; a process that does not want them closes the stream.
pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), snapshot: &Snapshot) {
    let sending = async {
        for (name, upstream) in &snapshot.upstreams {
            let Some(table) = upstream.sessions() else { continue };
            let moving = table.moving();
            let mut bytes = serde_json::to_vec(&Section { upstream: name.to_string(), sessions: moving.len() })?;
            bytes.push(b'\n');
            bytes.extend(moving.into_iter().flat_map(Moving::to_bytes));
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    match timeout(SESSIONS, sending).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => log::debug!("upgrade: the new process does not take the sessions: {fault}"),
        Err(_) => log::warn!("upgrade: the new process has not taken the sessions within {SESSIONS:?}"),
    }
}

/// Takes over what the process before sends, until it closes the stream.
pub(super) async fn receive(from: &mut (impl AsyncBufRead + Unpin), snapshot: &Snapshot) {
    let mut taken = 0;
    let receiving = async {
        while let Some(Section { upstream, sessions }) = line(from).await? {
            let table = table(snapshot, &upstream);
            for _ in 0..sessions {
                let mut record = [0; Moving::LENGTH];
                from.read_exact(&mut record).await?;
                taken += usize::from(table.is_some_and(|table| table.take_in(&Moving::from_bytes(&record))));
            }
        }
        io::Result::Ok(())
    };
    let received = timeout(SESSIONS, receiving).await;
    match received {
        Ok(Ok(())) if taken == 0 => {}
        Ok(Ok(())) => log::info!("upgrade: {taken} sessions are known from the process before"),
        Ok(Err(fault)) => log::warn!("upgrade: {taken} sessions are known from the process before, and then: {fault}"),
        Err(_) => log::warn!("upgrade: {taken} sessions are known from the process before, the others come too late"),
    }
}

fn table<'a>(snapshot: &'a Snapshot, upstream: &str) -> Option<&'a SessionTable> {
    snapshot.upstreams.get(upstream)?.sessions().map(|table| &**table)
}

/// The next line; `None` where the stream has ended before it.
async fn line<T: for<'a> Deserialize<'a>>(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    if from.take(LONGEST_LINE).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;
    use crate::config::Config;
    use crate::metrics::Metrics;
    use crate::session::How;
    use crate::snapshot::Extensions;

    fn snapshot() -> Snapshot {
        let yaml = "listeners: [{ address: 127.0.0.1:0 }]\nroutes: [{ upstream: app }]\n\
                    upstreams: { app: { kind: socket.io, servers: [\"127.0.0.1:1\"] } }\n";
        let config = Config::read("test.yaml", yaml, &|_| None).unwrap().config;
        let (metrics, known) = (Metrics::new().unwrap(), Default::default());
        Snapshot::build(config, &Extensions::default(), &metrics, |_| None, &known).unwrap()
    }

    #[tokio::test]
    async fn what_one_process_knows_the_next_one_knows() {
        let (before, after) = (snapshot(), snapshot());
        let (old, new) = (table(&before, "app").unwrap(), table(&after, "app").unwrap());
        for number in 0..10_000 {
            let key = old.key(&format!("sid-{number}"));
            old.learn(key, &old.home(number % 7), Duration::from_secs(55), How::Handshake);
            old.find(key);
        }
        let (mut here, there) = tokio::io::duplex(1 << 16);
        let mut there = BufReader::new(there);
        here.write_all(&secrets(&before)).await.unwrap();
        take_secrets(&mut there, &after).await;
        tokio::join!(send(&mut here, &before), receive(&mut there, &after));
        for number in 0..10_000 {
            let found = new.find(new.key(&format!("sid-{number}")));
            assert_eq!(found.map(|found| found.server), Some(number % 7));
        }
        assert_eq!(new.live(), 10_000);
    }

    #[tokio::test]
    async fn a_process_of_another_age_says_nothing_and_that_is_no_harm() {
        let after = snapshot();
        let (here, there) = tokio::io::duplex(64);
        let mut there = BufReader::new(there);
        drop(here);
        take_secrets(&mut there, &after).await;
        receive(&mut there, &after).await;
        let mut broken = BufReader::new(&b"nonsense\n{\"upstream\":\"app\",\"sessions\":3}\nshort"[..]);
        take_secrets(&mut broken, &after).await;
        receive(&mut broken, &after).await;
        assert_eq!(table(&after, "app").unwrap().live(), 0);
    }
}
