//! From the path of a request to the name of a file, and from that to what is in it.

use std::path::{Path, PathBuf};

use http::HeaderValue;
use percent_encoding::percent_decode_str;

/// The file that a canonical path names, below a folder; `None` where it names none that is anybody's business: hidden
/// ones, and names that mean something else to a file system.
pub(super) fn relative(path: &str) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for segment in path.strip_prefix('/')?.split('/').filter(|segment| !segment.is_empty()) {
        let name = percent_decode_str(segment).decode_utf8().ok()?;
        let odd = |c: char| c.is_control() || matches!(c, '/' | '\\');
        if name.starts_with('.') || name.contains(odd) {
            return None;
        }
        relative.push(&*name);
    }
    Some(relative)
}

/// What is in a file, by its ending.
pub(super) fn content_type(path: &Path) -> HeaderValue {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    HeaderValue::from_static(match ending.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" => "text/plain; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        _ => "application/octet-stream",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_files_below_the_folder_and_nothing_else() {
        for (path, file) in
            [("/", ""), ("/a/b.js", "a/b.js"), ("/a/", "a"), ("/a%20b", "a b"), ("/%C3%A9", "é"), ("/a%252e", "a%2e")]
        {
            assert_eq!(relative(path).as_deref(), Some(Path::new(file)), "{path}");
        }
        for path in ["*", "/.env", "/a/.git/config", "/%2E%2E/x", "/a%2Fb", "/a%5Cb", "/a%00b", "/%ff", "/..%2fx"] {
            assert_eq!(relative(path), None, "{path}");
        }
    }

    #[test]
    fn contents_are_known_by_endings() {
        assert_eq!(content_type(Path::new("/x/App.JS")), "text/javascript; charset=utf-8");
        assert_eq!(content_type(Path::new("x.tar.gz")), "application/gzip");
        assert_eq!(content_type(Path::new("LICENSE")), "application/octet-stream");
    }
}
