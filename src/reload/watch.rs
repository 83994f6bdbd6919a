//! Reloads when a file of the configuration holds something else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::warn;
use tokio::task::spawn_blocking;

use super::Reloader;
use crate::config::{Config, include};
use crate::watch::{Watch, fingerprint};

impl Reloader {
    /// Reloads whenever the file, or a file that it includes or names, holds something else, and the configuration in force
    /// asks for that; never ends.
    pub async fn watch(self: Arc<Self>) {
        let Some(file) = self.file.clone() else { return };
        let mut watch = match Watch::new() {
            Ok(watch) => watch,
            Err(error) => return warn!("files can't be watched: {error}; SIGHUP reloads all the same"),
        };
        let mut watched = Vec::new();
        let mut seen = self.files_at_start;
        loop {
            // Folders and files are read where that holds up no traffic.
            let (main, snapshot) = (file.clone(), self.core.snapshot.load_full());
            let Ok(files) = spawn_blocking(move || files(&main, &snapshot.config)).await else { return };
            if files != watched {
                watch.follow(&files);
                watched.clone_from(&files);
            }
            let Ok(now) = spawn_blocking(move || fingerprint(&files)).await else { return };
            if now == seen {
                watch.touched().await;
                continue;
            }
            seen = now;
            if self.core.snapshot.load().config.reload.watch {
                // The log tells how it went.
                let _ = self.reload("a file has changed").await;
            }
        }
    }
}

/// What is watched: the file itself, and the files that it includes and names.
pub(super) fn files(file: &Path, config: &Config) -> Vec<PathBuf> {
    let included = include::watched(file, &config.include.0);
    std::iter::once(file.to_owned()).chain(included).chain(config.files()).collect()
}
