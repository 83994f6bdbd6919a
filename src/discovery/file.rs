//! Servers that a file lists: it is watched, and read whenever it holds something else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use log::warn;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::load_servers;
use crate::upstream::config::FileSource;
use crate::upstream::{Discovery, ServerList, Source};
use crate::watch::{Watch, fingerprint};

/// How often it is looked at though nobody has said that it changed: file systems of a network tell nothing.
const LOOK: Duration = Duration::from_secs(10);

struct File {
    path: PathBuf,
    /// What it held when it was read last.
    seen: AtomicU64,
    /// Made where it is used, which has a runtime around it.
    watch: Mutex<Option<Watch>>,
}

/// Reads the file for the first time.
///
/// # Errors
/// What is wrong with it: a gateway that starts says so instead of serving nobody.
pub(super) fn open(said: &FileSource) -> Result<Source, String> {
    let (path, seen) = (said.file.clone(), fingerprint(std::slice::from_ref(&said.file)));
    let first = load_servers(&path).map_err(|faults| format!("servers.file: {faults}"))?;
    let file = File { path, seen: AtomicU64::new(seen), watch: Mutex::default() };
    Ok(Source { discovery: Arc::new(file), first: Some(first) })
}

impl File {
    /// What it lists by now; `None` where it holds what it held.
    async fn news(&self) -> Option<Result<ServerList, String>> {
        let path = self.path.clone();
        // Files are read where that holds up no traffic.
        let read = |path: &Path| (fingerprint(&[path.to_owned()]), load_servers(path));
        let (now, read) = spawn_blocking(move || read(&path)).await.ok()?;
        let is_news = self.seen.swap(now, Relaxed) != now;
        is_news.then(|| read.map_err(|faults| faults.to_string()))
    }
}

#[async_trait]
impl Discovery for File {
    async fn next(&self) -> Result<ServerList, String> {
        let mut watch = self.watch.lock().await;
        if watch.is_none() {
            match Watch::new() {
                Ok(new) => *watch = Some(new),
                Err(error) => warn!("files can't be watched: {error}; they are looked at every {LOOK:?}"),
            }
        }
        loop {
            if let Some(watch) = watch.as_mut() {
                // What it links to may be in another folder by now.
                watch.follow(std::slice::from_ref(&self.path));
            }
            if let Some(news) = self.news().await {
                return news;
            }
            let touched = async {
                match watch.as_ref() {
                    Some(watch) => watch.touched().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = touched => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// A file that has a fault is read again when it has changed.
    fn paces_itself(&self) -> bool {
        true
    }

    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }
}
