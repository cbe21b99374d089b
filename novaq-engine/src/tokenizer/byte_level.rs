//! GPT-2's way to write any byte as one printable character, so that BPE over characters is BPE over bytes.
//!
//! Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, are written as U+0100 and
//! following (`bytes_to_unicode` of <https://github.com/openai/gpt-2>).

use std::sync::LazyLock;

use super::pattern::Pattern;

/// GPT-2's pattern: contractions, words, numbers and punctuation with one leading space, then white space.
pub(super) const GPT2_PATTERN: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// [`GPT2_PATTERN`], compiled once.
pub(super) fn gpt2_pattern() -> &'static Pattern {
    static PATTERN: LazyLock<Pattern> =
        LazyLock::new(|| Pattern::regex(GPT2_PATTERN).expect("a constant that compiles"));
    &PATTERN
}

/// Whether `byte` is written as the character with its own number.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The character for each byte.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut byte = 0;
    let mut next = 0x100;
    while byte < 256 {
        if is_printable(byte as u8) {
            chars[byte] = byte as u8 as char;
        } else {
            chars[byte] = match char::from_u32(next) {
                Some(c) => c,
                None => unreachable!(),
            };
            next += 1;
        }
        byte += 1;
    }
    chars
};

/// The bytes that are not printable, in order: U+0100 + i stands for the i-th.
const UNPRINTABLE: [u8; 68] = {
    let mut bytes = [0; 68];
    let mut byte = 0;
    let mut count = 0;
    while byte < 256 {
        if !is_printable(byte as u8) {
            bytes[count] = byte as u8;
            count += 1;
        }
        byte += 1;
    }
    bytes
};

/// The character that stands for `byte`.
pub(crate) fn to_char(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The bytes of `text`, each as one character.
pub(super) fn to_chars(text: &str) -> String {
    text.bytes().map(to_char).collect()
}

/// The byte that `c` stands for.
pub(super) fn to_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|&byte| is_printable(byte)),
        code => UNPRINTABLE.get((code - 0x100) as usize).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255u8 {
            assert_eq!(to_byte(CHARS[usize::from(byte)]), Some(byte));
        }
        assert_eq!(to_chars(" \n!é"), "ĠĊ!Ã©");
        assert_eq!(to_byte(' '), None);
        assert_eq!(to_byte('☃'), None);
    }
}
