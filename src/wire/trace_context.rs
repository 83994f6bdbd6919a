//! `traceparent`: which trace a request is part of (W3C Trace Context, <https://www.w3.org/TR/trace-context/>).

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; never 0.
    pub trace: u128,
    /// The span that asks; never 0.
    pub span: u64,
    /// [`SAMPLED`] and [`RANDOM`]; what else a later version may say is left out.
    pub flags: u8,
}

/// Whoever asks may have recorded its span.
pub const SAMPLED: u8 = 1;
/// The last seven bytes of the trace's id are random (level 2 of the specification).
pub const RANDOM: u8 = 2;

/// How long it is in version 00.
const LENGTH: usize = 55;

impl TraceParent {
    /// Reads the value of the field; what the specification calls invalid is `None`. Of later versions the beginning is read,
    /// as it demands.
    pub fn read(value: &[u8]) -> Option<Self> {
        let (said, rest) = value.split_at_checked(LENGTH)?;
        let version = number(&said[..2])?;
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|&next| next == b'-'),
        };
        let in_place = [2, 35, 52].into_iter().all(|at| said[at] == b'-');
        let (trace, span) = (number(&said[3..35])?, number(&said[36..52])? as u64);
        let flags = number(&said[53..55])? as u8 & (SAMPLED | RANDOM);
        (fits && in_place && trace != 0 && span != 0).then_some(Self { trace, span, flags })
    }

    /// Writes it in version 00.
    pub fn write(&self) -> [u8; LENGTH] {
        let mut written = *b"00-00000000000000000000000000000000-0000000000000000-00";
        digits(&mut written[3..35], self.trace);
        digits(&mut written[36..52], self.span.into());
        digits(&mut written[53..55], self.flags.into());
        written
    }

    /// Whether whoever asks may have recorded its span.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Of digits in lower case, which are all that is allowed.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

fn digits(place: &mut [u8], number: u128) {
    for (at, digit) in place.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * at)) as usize & 15];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the specification.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let read = TraceParent::read(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(
            read,
            TraceParent {
                trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
                span: 0x00f0_67aa_0ba9_02b7,
                flags: SAMPLED
            }
        );
        assert_eq!(read.write(), EXAMPLE.as_bytes());
    }

    #[test]
    fn what_the_specification_calls_invalid_is_none() {
        for invalid in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::read(invalid.as_bytes()), None, "{invalid}");
        }
    }

    #[test]
    fn of_later_versions_the_beginning_is_read_and_version_00_is_written() {
        for later in ["01", "cc-what-the-future-will-be-like", "fe-"] {
            let (version, more) = later.split_at(2);
            let later = format!("{version}{}{more}", &EXAMPLE[2..]).replace("-01", "-ff");
            let read = TraceParent::read(later.as_bytes()).unwrap();
            assert_eq!(read.flags, SAMPLED | RANDOM);
            assert_eq!(read.write()[..53], EXAMPLE.as_bytes()[..53], "{later}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(trace in 1u128.., span in 1u64.., flags in 0u8..4) {
            let parent = TraceParent { trace, span, flags };
            prop_assert_eq!(TraceParent::read(&parent.write()), Some(parent));
        }

        #[test]
        fn what_is_read_of_version_00_is_written_as_the_same(value in "00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]") {
            if let Some(read) = TraceParent::read(value.as_bytes()) {
                prop_assert_eq!(&read.write()[..], value.as_bytes());
            }
        }
    }
}
