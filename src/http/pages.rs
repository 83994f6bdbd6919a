//! Pages of the operator's own in place of the gateway's words: by status, for answers of the gateway's own alone.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::config::{ErrorPage, ErrorPages};

/// The pages that are known, exact statuses before classes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages(Vec<(Of, Page)>);

/// What stands in the body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) content_type: Box<str>,
    pub(crate) body: Bytes,
}

/// The statuses that a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    /// `404`
    Status(u16),
    /// `4xx`
    Class(u16),
}

/// The largest page: it stays in memory.
const LARGEST: u64 = 1 << 20;

impl Of {
    /// Reads `404`, `4xx` or `5xx`.
    pub(crate) fn read(text: &str) -> Option<Self> {
        match text.strip_suffix("xx") {
            Some("4") => Some(Self::Class(4)),
            Some("5") => Some(Self::Class(5)),
            Some(_) => None,
            None => text.parse().ok().filter(|status| (400..600).contains(status)).map(Self::Status),
        }
    }

    fn takes(self, status: u16) -> bool {
        match self {
            Self::Status(only) => only == status,
            Self::Class(class) => class == status / 100,
        }
    }
}

impl Pages {
    /// Reads the files; `None` where nothing is said.
    pub(crate) fn build(said: &ErrorPages) -> Result<Option<Self>, PageError> {
        let mut pages = Vec::with_capacity(said.0.len());
        for (statuses, page) in &said.0 {
            if let Some(of) = Of::read(statuses) {
                pages.push((of, Page::read(page)?));
            }
        }
        pages.sort_by_key(|(of, _)| *of);
        Ok((!pages.is_empty()).then_some(Self(pages)))
    }

    /// The page for a status.
    pub(crate) fn of(&self, status: u16) -> Option<&Page> {
        self.0.iter().find(|(of, _)| of.takes(status)).map(|(_, page)| page)
    }
}

impl Page {
    fn read(said: &ErrorPage) -> Result<Self, PageError> {
        let fault = |file: &Path, what: String| PageError { file: file.to_owned(), what };
        let body = match (&said.file, &said.body) {
            (Some(file), _) => {
                let length = std::fs::metadata(file).map_err(|error| fault(file, error.to_string()))?.len();
                if length > LARGEST {
                    return Err(fault(file, format!("{length} bytes, expected at most 1MiB")));
                }
                std::fs::read(file).map_err(|error| fault(file, error.to_string()))?.into()
            }
            (None, body) => Bytes::from(body.clone().unwrap_or_default()),
        };
        let by_name = said.file.as_deref().map_or("text/html; charset=utf-8", content_type);
        Ok(Self { content_type: said.content_type.as_deref().unwrap_or(by_name).into(), body })
    }
}

/// What a page is written in, by its name.
fn content_type(file: &Path) -> &'static str {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("json") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "text/html; charset=utf-8",
    }
}

/// A page that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageError {
    file: PathBuf,
    what: String,
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error page {}: {}", self.file.display(), self.what)
    }
}

impl std::error::Error for PageError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_its_own_page_or_that_of_its_class() {
        let said = r#"{"5xx": {"body": "{}", "content_type": "application/json"}, "503": {"body": "later"}, "404": {"body": "gone"}}"#;
        let pages = Pages::build(&serde_json::from_str(said).unwrap()).unwrap().unwrap();
        let body = |status| pages.of(status).map(|page| (&*page.content_type, &*page.body));
        assert_eq!(body(503), Some(("text/html; charset=utf-8", &b"later"[..])));
        assert_eq!(body(502), Some(("application/json", &b"{}"[..])));
        assert_eq!(body(404).unwrap().1, b"gone");
        assert_eq!(body(403), None);
    }

    #[test]
    fn files_are_read_when_they_are_loaded_and_told_by_their_endings() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("late.json");
        std::fs::write(&file, "[]").unwrap();
        let page = |file: &Path| Page::read(&ErrorPage { file: Some(file.to_owned()), ..ErrorPage::default() });
        assert_eq!(&*page(&file).unwrap().content_type, "application/json");
        std::fs::write(&file, vec![0; 2 << 20]).unwrap();
        assert!(page(&file).unwrap_err().to_string().contains("at most 1MiB"));
        assert!(page(&folder.path().join("none.html")).unwrap_err().to_string().contains("none.html"));
    }

    #[test]
    fn statuses_are_those_of_errors() {
        assert_eq!(Of::read("404"), Some(Of::Status(404)));
        assert_eq!(Of::read("5xx"), Some(Of::Class(5)));
        for text in ["200", "600", "3xx", "xx", "40x", "error"] {
            assert_eq!(Of::read(text), None, "{text}");
        }
    }
}
