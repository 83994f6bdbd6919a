//! Lines of an HAProxy file, taken apart into sections and words.

use super::super::Unreadable;

/// One line that says something.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) number: usize,
    /// As it stands, without its comment.
    pub(super) text: String,
    pub(super) words: Vec<String>,
}

impl Line {
    /// The word at this place; nothing beyond the last.
    pub(super) fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    /// What follows a word, such as `weight 3`.
    pub(super) fn after(&self, word: &str) -> Option<&str> {
        let at = self.words.iter().position(|one| one == word)?;
        self.words.get(at + 1).map(String::as_str)
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|one| one == word)
    }

    /// Where the condition begins, and whether it is turned around (`unless`).
    pub(super) fn condition(&self) -> Option<(&[String], bool)> {
        let at = self.words.iter().position(|word| word == "if" || word == "unless")?;
        Some((&self.words[at + 1..], self.words[at] == "unless"))
    }
}

/// A section, from its own line to the next one's.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) head: Line,
    pub(super) lines: Vec<Line>,
}

const SECTIONS: [&str; 14] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "cache",
    "program",
    "http-errors",
    "ring",
    "crt-store",
];

/// Reads all sections.
pub(super) fn read(text: &str) -> Result<Vec<Section>, Unreadable> {
    let mut sections: Vec<Section> = Vec::new();
    for (at, text) in text.lines().enumerate() {
        let number = at + 1;
        let (words, text) = split(text).map_err(|what| Unreadable { line: number, what })?;
        let Some(first) = words.first() else { continue };
        let line = Line { number, text, words: words.clone() };
        if SECTIONS.contains(&first.as_str()) {
            let name = words.get(1).cloned().unwrap_or_default();
            sections.push(Section { kind: first.clone(), name, head: line, lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.lines.push(line);
        } else {
            let what = format!("found `{first}`, expected a section such as `frontend` or `listen` before it");
            return Err(Unreadable { line: number, what });
        }
    }
    if sections.is_empty() {
        let what = "found no section, expected `frontend`, `backend` or `listen`".to_owned();
        return Err(Unreadable { line: 1, what });
    }
    Ok(sections)
}

/// The words of a line, with quotes and backslashes taken away, and the line without its comment.
fn split(line: &str) -> Result<(Vec<String>, String), String> {
    let (mut words, mut word, mut begun) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut end = line.len();
    let mut letters = line.char_indices();
    while let Some((at, letter)) = letters.next() {
        match (letter, quote) {
            ('#', None) => {
                end = at;
                break;
            }
            ('\\', None | Some('"')) => {
                // Before other letters it stands for itself.
                let next = letters.clone().next().map(|(_, letter)| letter);
                if next.is_some_and(|next| [' ', '#', '\\', '"', '\'', '$'].contains(&next)) {
                    word.extend(letters.next().map(|(_, letter)| letter));
                } else {
                    word.push('\\');
                }
                begun = true;
            }
            ('"' | '\'', None) => {
                quote = Some(letter);
                begun = true;
            }
            (_, Some(open)) if letter == open => quote = None,
            (_, None) if letter.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => {
                word.push(letter);
                begun = true;
            }
        }
    }
    if let Some(quote) = quote {
        return Err(format!("found a `{quote}` that is not closed"));
    }
    if begun {
        words.push(word);
    }
    Ok((words, line[..end].trim().to_owned()))
}
