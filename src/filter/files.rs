//! Files of a folder, for a front-end that has been built: whole or a range of them, by conditions, compressed where
//! somebody has done that before, and never a list.
//!
//! Files are read by threads that may wait. A file that several clients are sent at once is in memory once, and what all of
//! them take there is bounded; who comes when that is full is told to come again.

mod conditions;
mod name;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED, LOCATION, RETRY_AFTER,
    VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::FilterAnswer;
use super::config::Files;
use crate::request::Request;
use conditions::{Version, Wanted};

/// The largest file.
const LARGEST: u64 = 64 << 20;
/// Bytes that files may take in memory at once, over all routes.
pub(crate) const ROOM: u64 = 256 << 20;
/// The same, a permit for each KiB.
static FREE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new((ROOM >> 10) as usize)));
/// Files that somebody is being sent.
static OPEN: LazyLock<Mutex<HashMap<Key, Weak<Held>>>> = LazyLock::new(Mutex::default);

/// A file as it was at a time.
type Key = (PathBuf, SystemTime, u64);

/// A file in memory, and its part of the room.
struct Held {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

/// A hand on it.
struct Hand(Arc<Held>);

impl AsRef<[u8]> for Hand {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// What was found of a path.
enum Found {
    File {
        path: PathBuf,
        version: Version,
        bytes: Bytes,
        /// Whether it is there compressed, too, and how this is.
        variants: Option<Variant>,
    },
    /// A folder, which is called with a slash at the end.
    Folder,
    Nothing,
    /// There is no room for it now.
    Full,
}

/// One of several forms of a file: the coding, or `None` for the file itself.
type Variant = Option<&'static str>;

/// What files that hold the same, compressed, are called behind their names.
const ENDINGS: [(&str, &str); 3] = [("br", ".br"), ("zstd", ".zst"), ("gzip", ".gz")];

/// The answer to a request for a file; `path` is its canonical path, `target` what the client has asked for, and `codings`
/// are those that it takes, the best first.
pub(crate) async fn answer(
    said: &Arc<Files>,
    request: &Request<'_>,
    path: &str,
    target: &str,
    codings: Vec<&'static str>,
) -> FilterAnswer {
    if !matches!(request.method, "GET" | "HEAD") {
        let refused = FilterAnswer::text(405, "Files are only read.");
        return refused.with(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    // A path that could be read in two ways is none of a file.
    let relative = if request.path.loose.is_empty() { name::relative(path) } else { None };
    let (said, folder) = (Arc::clone(said), path.ends_with('/'));
    let looked = tokio::task::spawn_blocking(move || look(&said, relative.as_deref(), folder, &codings)).await;
    match looked {
        Ok(Ok(Found::File { path, version, bytes, variants })) => found(request, &path, &version, bytes, variants),
        Ok(Ok(Found::Folder)) => moved(target),
        Ok(Ok(Found::Full)) => {
            FilterAnswer::text(503, "Too much is being sent.").with(RETRY_AFTER, HeaderValue::from_static("1"))
        }
        Ok(Ok(Found::Nothing)) => FilterAnswer::text(404, "There is no such file."),
        Ok(Err(error)) => {
            log::warn!("a file for {path} can't be read: {error}");
            FilterAnswer::text(500, "The file can't be read.")
        }
        Err(_) => FilterAnswer::text(500, "The file can't be read."),
    }
}

/// Looks for the file, and for the one that stands in for those that are not there.
fn look(said: &Files, relative: Option<&Path>, folder: bool, codings: &[&'static str]) -> io::Result<Found> {
    let root = fs::canonicalize(&said.root)?;
    if let Some(relative) = relative {
        match open(&root, relative, folder, &said.index, codings)? {
            Found::Nothing => {}
            found => return Ok(found),
        }
    }
    // A name with a dot is that of a file, whose place no page takes.
    let page = relative.is_some_and(|relative| relative.extension().is_none());
    match said.fallback.as_deref().filter(|_| page) {
        Some(fallback) => open(&root, Path::new(fallback), false, &said.index, codings),
        None => Ok(Found::Nothing),
    }
}

fn open(root: &Path, relative: &Path, folder: bool, index: &str, codings: &[&'static str]) -> io::Result<Found> {
    let absent = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied => Ok(None),
        _ => Err(error),
    };
    // With every link resolved, it has to lie in the folder still.
    let inside = |path: &Path| match fs::canonicalize(path) {
        Ok(path) => Ok(Some(path).filter(|path| path.starts_with(root))),
        Err(error) => absent(error),
    };
    let Some(mut path) = inside(&root.join(relative))? else { return Ok(Found::Nothing) };
    if path.is_dir() {
        let Some(index) = inside(&path.join(index))?.filter(|index| index.is_file()) else { return Ok(Found::Nothing) };
        if !folder && !relative.as_os_str().is_empty() {
            return Ok(Found::Folder);
        }
        path = index;
    } else if folder {
        return Ok(Found::Nothing);
    }
    // What lies beside it under its name and an ending holds the same.
    let beside = |ending: &str| {
        let mut name = path.clone().into_os_string();
        name.push(ending);
        Ok::<_, io::Error>(inside(Path::new(&name))?.filter(|path| path.is_file()))
    };
    let mut compressed = Vec::new();
    for (coding, ending) in ENDINGS {
        if let Some(path) = beside(ending)? {
            compressed.push((coding, path));
        }
    }
    let liked = codings.iter().find_map(|&coding| compressed.iter().find(|(known, _)| *known == coding));
    let variants = (!compressed.is_empty()).then(|| liked.map(|&(coding, _)| coding));
    let form = liked.map_or(&path, |(_, path)| path);
    let file = match fs::File::open(form) {
        Ok(file) => file,
        Err(error) => return absent(error).map(|_| Found::Nothing),
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return Ok(Found::Nothing);
    }
    if about.len() > LARGEST {
        log::warn!("{} is larger than the 64MiB that are served", form.display());
        return Ok(Found::Nothing);
    }
    let changed = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let Some(held) = hold(file, (form.clone(), changed, about.len()))? else { return Ok(Found::Full) };
    let version = Version::of(changed, held.bytes.len() as u64, variants.flatten());
    Ok(Found::File { path, version, bytes: Bytes::from_owner(Hand(held)), variants })
}

/// The file in memory; `None` where there is no room.
fn hold(file: fs::File, key: Key) -> io::Result<Option<Arc<Held>>> {
    let lock = || OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(held) = lock().get(&key).and_then(Weak::upgrade) {
        return Ok(Some(held));
    }
    let size = key.2;
    let kibibytes = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
    let Ok(room) = Arc::clone(&FREE).try_acquire_many_owned(kibibytes) else { return Ok(None) };
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(size).read_to_end(&mut bytes)?;
    let held = Arc::new(Held { bytes, _room: Some(room) });
    let mut open = lock();
    open.retain(|_, held| held.strong_count() > 0);
    open.insert(key, Arc::downgrade(&held));
    Ok(Some(held))
}

fn found(
    request: &Request<'_>,
    path: &Path,
    version: &Version,
    bytes: Bytes,
    variants: Option<Variant>,
) -> FilterAnswer {
    let status = |status: StatusCode, body: Bytes| FilterAnswer { status, headers: Vec::new(), body };
    let answer = match version.wanted(request) {
        // Its length is told, and nothing of it is sent.
        Wanted::Nothing => status(StatusCode::NOT_MODIFIED, bytes),
        Wanted::All => status(StatusCode::OK, bytes).with(CONTENT_TYPE, name::content_type(path)),
        Wanted::Part(part) => {
            let range = format!("bytes {}-{}/{}", part.start, part.end - 1, bytes.len());
            let answer = status(StatusCode::PARTIAL_CONTENT, bytes.slice(part));
            with(answer.with(CONTENT_TYPE, name::content_type(path)), CONTENT_RANGE, range)
        }
        Wanted::Beyond => {
            let range = format!("bytes */{}", bytes.len());
            return with(FilterAnswer::text(416, "The file is shorter."), CONTENT_RANGE, range);
        }
    };
    let answer = with(with(answer, ETAG, version.etag().to_owned()), LAST_MODIFIED, version.changed());
    let answer = match variants {
        Some(_) => answer.with(VARY, HeaderValue::from_static("Accept-Encoding")),
        None => answer,
    };
    let answer = match variants.flatten() {
        Some(coding) if answer.status != StatusCode::NOT_MODIFIED => {
            answer.with(CONTENT_ENCODING, HeaderValue::from_static(coding))
        }
        _ => answer,
    };
    answer
        .with(ACCEPT_RANGES, HeaderValue::from_static("bytes"))
        .with(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
}

/// To the same place with a slash behind the path, so that references of the page go below it.
fn moved(target: &str) -> FilterAnswer {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    // Two slashes at its beginning would name a host.
    let path = format!("/{}/", path.trim_matches('/'));
    let location = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    with(FilterAnswer::text(308, ""), LOCATION, location)
}

fn with(answer: FilterAnswer, name: http::HeaderName, value: String) -> FilterAnswer {
    match HeaderValue::try_from(value) {
        Ok(value) => answer.with(name, value),
        Err(_) => answer,
    }
}

#[cfg(test)]
mod tests;
