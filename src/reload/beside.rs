//! What is said beside the file by somebody who finds it while the gateway runs: the parts that count now, and which of them
//! could not be used.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Plan, ReloadError, Reloader, failed};
use crate::config::{Config, Findings, Loaded, Parts};

/// How often it is looked whether all is known.
const LOOK: Duration = Duration::from_millis(20);

/// What is said beside the file.
pub struct Beside {
    parts: Mutex<Arc<Parts>>,
    /// Which origins of which parts were left out when they were loaded last.
    verdict: watch::Sender<Verdict>,
    /// Why the gateway is not ready for clients at first.
    pub(super) unready: String,
    /// What there is to say of those who say the parts.
    told: Mutex<Vec<Told>>,
    /// True when the gateway stops; those who have something to do then hold a receiver until it is done.
    leaving: watch::Sender<bool>,
}

/// Something to say of one who says parts: its name, one word, and a sentence.
pub type Told = (String, &'static str, String);

/// Parts that were loaded, and who among them was left out, with the reason.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What was loaded.
    pub parts: Arc<Parts>,
    /// What was found out about those who say it.
    pub found: Arc<Findings>,
}

impl Beside {
    /// Nothing yet, which is no state to be ready in.
    pub fn unready(why: &str) -> Self {
        Self {
            parts: Mutex::default(),
            verdict: watch::Sender::default(),
            unready: why.to_owned(),
            told: Mutex::default(),
            leaving: watch::Sender::new(false),
        }
    }

    fn parts(&self) -> MutexGuard<'_, Arc<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reloader {
    /// Puts these parts beside the file, in place of those before, and loads both. The file is the one that is there now:
    /// while it has a fault nothing changes, and the parts are loaded with it once it is mended.
    ///
    /// # Errors
    /// Every fault of the file, or the first of what it names; then nothing has changed.
    pub async fn put_beside(self: &Arc<Self>, cause: &str, parts: Parts) -> Result<Plan, ReloadError> {
        if let Some(beside) = &self.beside {
            *beside.parts() = Arc::new(parts);
        }
        self.reload(cause).await
    }

    /// Which parts could not be used, whenever that is found out.
    pub fn verdicts(&self) -> Option<watch::Receiver<Verdict>> {
        self.beside.as_ref().map(|beside| beside.verdict.subscribe())
    }

    /// Waits until what is said beside the file is loaded for the first time, and no longer than this.
    pub async fn beside_is_known(&self, most: Duration) {
        let known = async {
            while self.context.unready.why().is_some() {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(most, known).await;
    }

    /// Tells when the gateway stops, which waits a while until this is dropped.
    pub fn leaving_beside(&self) -> Option<watch::Receiver<bool>> {
        self.beside.as_ref().map(|beside| beside.leaving.subscribe())
    }

    /// Tells those who wait for it that the gateway stops.
    pub(super) fn leave_beside(&self) {
        if let Some(beside) = &self.beside {
            beside.leaving.send_replace(true);
        }
    }

    /// Waits until those who were told have done what they do then, and no longer than this.
    pub async fn beside_has_left(&self, most: Duration) {
        if let Some(beside) = &self.beside {
            let _ = timeout(most, beside.leaving.closed()).await;
        }
    }

    /// Says why the gateway is not ready for clients, or that it may be.
    pub fn set_unready(&self, why: Option<String>) {
        self.context.unready.set(why);
    }

    /// What there is to say of those who say the parts, as it was told last.
    pub fn told_beside(&self) -> Vec<Told> {
        let told =
            self.beside.as_ref().map(|beside| beside.told.lock().unwrap_or_else(PoisonError::into_inner).clone());
        told.unwrap_or_default()
    }

    /// Tells what there is to say of those who say the parts.
    pub fn tell_beside(&self, told: Vec<Told>) {
        if let Some(beside) = &self.beside {
            *beside.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        }
    }

    /// Reads the file, with what is said beside it.
    pub(super) fn read(&self) -> Result<Loaded, ReloadError> {
        let file = self.file.as_deref().ok_or_else(super::no_file)?;
        let Some(beside) = &self.beside else { return Config::load(file).map_err(failed) };
        let parts = Arc::clone(&beside.parts());
        let (loaded, found) = Config::load_with(file, &parts).map_err(failed)?;
        beside.verdict.send_replace(Verdict { parts, found: Arc::new(found) });
        Ok(loaded)
    }
}
