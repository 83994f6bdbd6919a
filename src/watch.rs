//! Notices when a file holds something else.
//!
//! Folders are watched rather than files: editors and Kubernetes put a new file in the place of the old one, the latter
//! by turning a link (`..data`) that lies beside it. What has been written to other files there does not matter, since logs
//! may lie beside a configuration; what else an event says does not, either: what the files hold does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::warn;
use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Silence after which a change is taken for whole: tools write a certificate and its key one after the other.
const SETTLED: Duration = Duration::from_millis(250);
/// Longest wait for it, if a folder is never silent.
const SETTLED_AT_LAST: Duration = Duration::from_secs(5);

/// The folders that files lie in.
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    /// What the files are called.
    names: Arc<Mutex<BTreeSet<OsString>>>,
    touched: Arc<Notify>,
}

impl Watch {
    /// Watches nothing yet.
    pub(crate) fn new() -> notify::Result<Self> {
        let (touched, names) = (Arc::new(Notify::new()), Arc::new(Mutex::new(BTreeSet::new())));
        let (tell, known) = (Arc::clone(&touched), Arc::clone(&names));
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| matters(&event, &known.lock().unwrap_or_else(PoisonError::into_inner))) {
                tell.notify_one();
            }
        })?;
        Ok(Self { watcher, folders: BTreeSet::new(), names, touched })
    }

    /// Watches the folders of these files, and of what they are links to, and no others any more.
    pub(crate) fn follow(&mut self, files: &[PathBuf]) {
        let folders: BTreeSet<PathBuf> = files.iter().flat_map(|file| folders_of(file)).collect();
        let real = files.iter().filter_map(|file| std::fs::canonicalize(file).ok());
        let names = files.iter().cloned().chain(real).filter_map(|file| file.file_name().map(ToOwned::to_owned));
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names.collect();
        for gone in self.folders.difference(&folders) {
            let _ = self.watcher.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            if let Err(error) = self.watcher.watch(new, RecursiveMode::NonRecursive) {
                warn!("{} can't be watched, changes there are not noticed: {error}", new.display());
            }
        }
        self.folders = folders;
    }

    /// Waits until something happens in one of the folders, and then until nothing does.
    pub(crate) async fn touched(&self) {
        self.touched.notified().await;
        let settled = async { while timeout(SETTLED, self.touched.notified()).await.is_ok() {} };
        let _ = timeout(SETTLED_AT_LAST, settled).await;
    }
}

/// Whether files of these names may hold something else after this.
fn matters(event: &Event, names: &BTreeSet<OsString>) -> bool {
    match event.kind {
        // Reading a file is no change of it.
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {
            event.paths.iter().filter_map(|path| path.file_name()).any(|name| names.contains(name))
        }
        _ => true,
    }
}

/// The folder that a file is named in, and the one that it really lies in.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    let folder = |file: &Path| match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![folder(file)];
    folders.extend(std::fs::canonicalize(file).ok().map(|real| folder(&real)));
    folders
}

/// A hash of what files hold; a file that can't be read counts as one that holds something else.
pub(crate) fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        (file, std::fs::read(file).ok()).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn noticed(watch: &Watch) {
        timeout(Duration::from_secs(30), watch.touched()).await.expect("a change is noticed");
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_or_written_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sockgate.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = Watch::new().unwrap();
        let files = [file.clone()];
        watch.follow(&files);
        let before = fingerprint(&files);
        std::fs::write(folder.path().join("new"), "b").unwrap();
        std::fs::rename(folder.path().join("new"), &file).unwrap();
        noticed(&watch).await;
        let after = fingerprint(&files);
        assert_ne!(before, after);
        std::fs::write(&file, "c").unwrap();
        noticed(&watch).await;
        assert_ne!(after, fingerprint(&files));
    }

    #[test]
    fn a_log_that_is_written_beside_the_file_does_not_matter() {
        use notify::event::{AccessKind, CreateKind, DataChange, RenameMode};
        let names = BTreeSet::from(["sockgate.yaml".into()]);
        let matters =
            |kind, name: &str| matters(&Event::new(kind).add_path(Path::new("/etc/sockgate").join(name)), &names);
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(matters(written, "sockgate.yaml") && !matters(written, "access.log"));
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert!(matters(renamed, "..data") && matters(EventKind::Create(CreateKind::File), "new.yaml"));
        assert!(!matters(EventKind::Access(AccessKind::Any), "sockgate.yaml"));
    }

    #[tokio::test]
    async fn the_link_that_kubernetes_turns_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("..1", "a"), ("..2", "b")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("sockgate.yaml"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/sockgate.yaml", at("sockgate.yaml")).unwrap();
        let files = [at("sockgate.yaml")];
        let mut watch = Watch::new().unwrap();
        watch.follow(&files);
        let before = fingerprint(&files);
        symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        noticed(&watch).await;
        assert_ne!(before, fingerprint(&files));
    }
}
