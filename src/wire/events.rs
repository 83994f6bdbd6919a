//! Reads the first event of an event stream (the HTML standard, 9.2 "Server-sent events") that comes in pieces.

/// Reads until the first event that has data. Its name and data are kept, and no more than that.
#[derive(Clone, Debug, Default)]
pub struct FirstEvent {
    line: Vec<u8>,
    name: String,
    data: Option<String>,
    /// The last byte was a CR: an LF behind it belongs to it.
    after_cr: bool,
    seen: usize,
    over: bool,
}

/// What has come of it so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The event is not whole.
    NeedMore,
    /// An event with this name, which is `message` where it has none, and these data.
    Event {
        /// Its name.
        name: String,
        /// Its data, lines joined by LF.
        data: String,
    },
    /// It is too long, or no text.
    NotOne,
}

/// How much of a stream is looked at.
pub const MOST: usize = 16 * 1024;

impl FirstEvent {
    /// Takes the next bytes. After anything but [`Progress::NeedMore`] nothing more is found.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        for &byte in bytes {
            self.seen += 1;
            if self.over || self.seen > MOST {
                self.over = true;
                return Progress::NotOne;
            }
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    if let Some(progress) = self.line_ends() {
                        self.over = true;
                        return progress;
                    }
                }
                _ => self.line.push(byte),
            }
        }
        if self.over { Progress::NotOne } else { Progress::NeedMore }
    }

    fn line_ends(&mut self) -> Option<Progress> {
        let line = std::mem::take(&mut self.line);
        let Ok(line) = std::str::from_utf8(&line) else { return Some(Progress::NotOne) };
        let line = line.trim_start_matches('\u{feff}');
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return self.data.take().map(|data| Progress::Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(name: &str, data: &str) -> Progress {
        Progress::Event { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn the_first_event_is_read_in_every_way_of_ending_lines_and_wherever_it_is_cut() {
        let stream = ": hello\n\nevent: endpoint\ndata: /messages?sessionId=a\n\ndata: later\n\n";
        for stream in
            [stream.to_owned(), stream.replace('\n', "\r\n"), stream.replace('\n', "\r"), format!("\u{feff}{stream}")]
        {
            for cut in 0..stream.len() {
                let mut reader = FirstEvent::default();
                let mut progress = reader.push(&stream.as_bytes()[..cut]);
                if progress == Progress::NeedMore {
                    progress = reader.push(&stream.as_bytes()[cut..]);
                }
                assert_eq!(progress, event("endpoint", "/messages?sessionId=a"), "{stream:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn data_may_have_several_lines_and_an_event_no_name() {
        assert_eq!(FirstEvent::default().push(b"data:a\ndata:  b\nid: 3\nretry\n\n"), event("message", "a\n b"));
        assert_eq!(FirstEvent::default().push(b"event: x\n\ndata\n\n"), event("message", ""));
        assert_eq!(FirstEvent::default().push(b"event: x\ndata: y\n"), Progress::NeedMore);
    }

    #[test]
    fn what_is_too_long_or_no_text_is_given_up() {
        let mut reader = FirstEvent::default();
        assert_eq!(reader.push(&b":".repeat(MOST)), Progress::NeedMore);
        assert_eq!(reader.push(b"\n\n"), Progress::NotOne);
        assert_eq!(reader.push(b"data: x\n\n"), Progress::NotOne);
        assert_eq!(FirstEvent::default().push(b"data: \xff\n\n"), Progress::NotOne);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(bytes in "[a:\r\n edtvn]{0,60}", cut in any::<prop::sample::Index>()) {
            let bytes = bytes.as_bytes();
            let at = cut.index(bytes.len() + 1);
            let whole = FirstEvent::default().push(bytes);
            let mut reader = FirstEvent::default();
            let mut progress = reader.push(&bytes[..at]);
            if progress == Progress::NeedMore {
                progress = reader.push(&bytes[at..]);
            }
            prop_assert_eq!(progress, whole);
        }
    }
}
