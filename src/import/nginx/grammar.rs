//! An nginx file as a tree of directives.

use super::super::Unreadable;

/// `name arguments… ;` or `name arguments… { children }`.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) children: Vec<Self>,
}

impl Directive {
    /// The argument at this place; nothing beyond the last.
    pub(super) fn argument(&self, at: usize) -> &str {
        self.arguments.get(at).map_or("", String::as_str)
    }

    /// As it is written, without what it holds.
    pub(super) fn text(&self) -> String {
        let mut text = [std::slice::from_ref(&self.name), &self.arguments].concat().join(" ");
        if !self.children.is_empty() {
            text.push_str(" { … }");
        }
        text
    }

    /// The last child of this name, which is the one that counts.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().rev().find(|child| child.name == name)
    }
}

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// Reads a file.
pub(super) fn read(text: &str) -> Result<Vec<Directive>, Unreadable> {
    let tokens = tokens(text)?;
    let mut rest = tokens.into_iter();
    block(&mut rest, 0)
}

/// Blocks within blocks that are followed.
const DEEPEST: usize = 32;

fn block(tokens: &mut std::vec::IntoIter<(usize, Token)>, depth: usize) -> Result<Vec<Directive>, Unreadable> {
    let fault = |line, what: &str| Err(Unreadable { line, what: what.to_owned() });
    let mut directives = Vec::new();
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut last = 1;
    while let Some((line, token)) = tokens.next() {
        last = line;
        match token {
            Token::Word(word) => words.push((line, word)),
            Token::End | Token::Open => {
                let opens = matches!(token, Token::Open);
                if words.is_empty() {
                    return fault(
                        line,
                        if opens {
                            "found `{`, expected a name before it"
                        } else {
                            "found `;`, expected a name before it"
                        },
                    );
                }
                let mut words = std::mem::take(&mut words).into_iter();
                let Some((line, name)) = words.next() else {
                    continue;
                };
                if opens && depth == DEEPEST {
                    return fault(line, "found too many blocks within each other");
                }
                let is_code = name.contains("_by_lua");
                let children = match opens {
                    true if is_code => skip(tokens),
                    true => block(tokens, depth + 1)?,
                    false => Vec::new(),
                };
                directives.push(Directive { line, name, arguments: words.map(|(_, word)| word).collect(), children });
            }
            Token::Close if depth == 0 => {
                return fault(line, "found a `}` that nothing has opened");
            }
            Token::Close if !words.is_empty() => {
                return fault(line, "found `}`, expected `;` before it");
            }
            Token::Close => return Ok(directives),
        }
    }
    match (depth, words.first()) {
        (0, None) => Ok(directives),
        (_, Some((line, word))) => Err(Unreadable { line: *line, what: format!("found no `;` behind `{word}`") }),
        _ => fault(last, "found the end of the file, expected `}`"),
    }
}

/// Passes over a block of code.
fn skip(tokens: &mut std::vec::IntoIter<(usize, Token)>) -> Vec<Directive> {
    let mut open = 1;
    for (_, token) in tokens {
        match token {
            Token::Open => open += 1,
            Token::Close => open -= 1,
            _ => {}
        }
        if open == 0 {
            break;
        }
    }
    Vec::new()
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Unreadable> {
    let mut tokens = Vec::new();
    let (mut line, mut word, mut began) = (1, String::new(), None);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '#' if began.is_none() => {
                while letters.next_if(|&letter| letter != '\n').is_some() {}
                continue;
            }
            '"' | '\'' if began.is_none() => {
                let start = line;
                loop {
                    match letters.next() {
                        None => {
                            return Err(Unreadable {
                                line: start,
                                what: format!("found a `{letter}` that is not closed"),
                            });
                        }
                        Some(end) if end == letter => break,
                        Some('\\') => {
                            word.extend(letters.next_if(|&next| next == letter || next == '\\').or(Some('\\')))
                        }
                        Some(other) => {
                            line += usize::from(other == '\n');
                            word.push(other);
                        }
                    }
                }
                tokens.push((start, Token::Word(std::mem::take(&mut word))));
                continue;
            }
            '\\' => {
                began.get_or_insert(line);
                word.push('\\');
                word.extend(letters.next());
                continue;
            }
            '$' if letters.peek() == Some(&'{') => {
                began.get_or_insert(line);
                word.push('$');
                for letter in letters.by_ref() {
                    word.push(letter);
                    if letter == '}' {
                        break;
                    }
                }
                continue;
            }
            _ => {}
        }
        let special = match letter {
            '{' => Some(Token::Open),
            '}' => Some(Token::Close),
            ';' => Some(Token::End),
            _ => None,
        };
        if letter.is_whitespace() || special.is_some() {
            // Within a regular expression a brace counts letters.
            if matches!(special, Some(Token::Open | Token::Close))
                && began.is_some()
                && is_counting(&word, letter, &letters)
            {
                word.push(letter);
                continue;
            }
            if let Some(start) = began.take() {
                tokens.push((start, Token::Word(std::mem::take(&mut word))));
            }
            tokens.extend(special.map(|token| (line, token)));
        } else {
            began.get_or_insert(line);
            word.push(letter);
        }
        line += usize::from(letter == '\n');
    }
    if let Some(start) = began {
        tokens.push((start, Token::Word(word)));
    }
    Ok(tokens)
}

/// Whether a brace within a word is of `a{2,3}`.
fn is_counting(word: &str, brace: char, next: &std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    match brace {
        '{' => next.clone().peekable().peek().is_some_and(char::is_ascii_digit),
        _ => word
            .rsplit_once('{')
            .is_some_and(|(_, inside)| !inside.is_empty() && inside.chars().all(|c| c.is_ascii_digit() || c == ',')),
    }
}
