//! What the operator says about compression.

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::http::config::exactly;

/// `routes[].compression`: how answers are compressed there; `{}` for the defaults. Without the key none is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Codings in order of preference: of those that a client takes alike it gets the first. Default: `zstd`, `br`, `gzip`.
    pub encodings: Vec<Coding>,
    /// Media types: `text/html`, all of a kind (`text/*`), or all with an ending (`*+json`). Default: see [`TYPES`].
    pub types: Vec<String>,
    /// An answer that says it is shorter stays as it is. Default 1 KiB.
    #[serde(serialize_with = "exactly")]
    pub min: ByteSize,
    /// How hard it tries.
    pub levels: Levels,
    /// Compress for credentials that another site's page may have sent, too: that can tell such a page what the answer
    /// says (BREACH). Default: no.
    pub cross_site: bool,
}

/// `compression.levels`: more is smaller and takes longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Levels {
    /// 1 to 9. Default 5.
    pub gzip: u8,
    /// 0 to 6. Default 4.
    pub br: u8,
    /// 1 to 12. Default 3.
    pub zstd: u8,
}

/// A content coding (RFC 9110 8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// Zstandard, with a window of 128 KiB.
    Zstd,
    /// Brotli, with a window of 128 KiB.
    Br,
    /// The one that all clients know.
    Gzip,
}

/// What is worth it: text, and what is text inside. Pictures, films, sound and archives are compressed already.
pub const TYPES: [&str; 11] = [
    "text/*",
    "*+json",
    "*+xml",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "application/x-ndjson",
    "font/otf",
    "font/ttf",
    "image/bmp",
];

impl Default for Config {
    fn default() -> Self {
        Self {
            encodings: vec![Coding::Zstd, Coding::Br, Coding::Gzip],
            types: TYPES.map(str::to_owned).into(),
            min: ByteSize::kib(1),
            levels: Levels::default(),
            cross_site: false,
        }
    }
}

impl Default for Levels {
    fn default() -> Self {
        Self { gzip: 5, br: 4, zstd: 3 }
    }
}

impl Coding {
    /// The token in `Accept-Encoding` and `Content-Encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
