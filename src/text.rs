//! The short texts of every request: addresses and numbers, written to the stack and without the machinery of `fmt`,
//! which takes over a thousand instructions for one address.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::ops::Deref;

/// A text of at most 48 bytes.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; ROOM],
    len: usize,
}

/// Room for the longest address, and for 128 bits in hexadecimal.
const ROOM: usize = 48;
const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";
/// Decimal digits of the largest number.
const DIGITS: usize = 20;

impl Text {
    const EMPTY: Self = Self { bytes: [0; ROOM], len: 0 };

    /// An address, as its `Display` writes it.
    pub fn address(address: IpAddr) -> Self {
        let mut text = Self::EMPTY;
        match address {
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        text.push(b'.');
                    }
                    text.push_octet(octet);
                }
            }
            // It fits, so this can't fail.
            IpAddr::V6(address) => drop(write!(text, "{address}")),
        }
        text
    }

    /// A number in decimal digits.
    pub fn number(number: u64) -> Self {
        let mut text = Self::EMPTY;
        text.push_number(number);
        text
    }

    /// 128 bits in 32 hexadecimal digits.
    pub fn hexadecimal(bits: u128) -> Self {
        let mut text = Self::EMPTY;
        let (digits, _) = text.bytes.as_chunks_mut();
        for ([high, low], byte) in digits.iter_mut().zip(bits.to_be_bytes()) {
            *high = HEXADECIMAL[usize::from(byte >> 4)];
            *low = HEXADECIMAL[usize::from(byte & 15)];
        }
        text.len = 32;
        text
    }

    /// The text as the bytes that go into a head.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.len) {
            *free = byte;
            self.len += 1;
        }
    }

    fn push_octet(&mut self, octet: u8) {
        if octet >= 100 {
            self.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            self.push(b'0' + octet / 10 % 10);
        }
        self.push(b'0' + octet % 10);
    }

    fn push_number(&mut self, mut number: u64) {
        let mut digits = [0; DIGITS];
        let mut at = DIGITS;
        loop {
            at -= 1;
            // The remainder is a digit.
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        for &digit in &digits[at..] {
            self.push(digit);
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        free.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        // Only ASCII is ever written.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_display() {
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255";
        for address in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "192.0.2.10", "::", "2001:db8::1", longest] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(*Text::address(address), address.to_string());
        }
        for number in [0, 7, 10, 99, 100, 65_535, u64::MAX] {
            assert_eq!(*Text::number(number), number.to_string());
        }
        for bits in [0, 0xabc, u128::MAX] {
            assert_eq!(*Text::hexadecimal(bits), format!("{bits:032x}"));
        }
    }
}
