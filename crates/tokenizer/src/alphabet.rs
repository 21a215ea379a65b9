//! The alphabet in which byte-level vocabularies are spelled: one printable character per byte.
//!
//! Bytes 33..=126, 161..=172 and 174..=255 are the characters of the same number; the other 68,
//! in order, are U+0100, U+0101, … (GPT-2, `bytes_to_unicode`).

/// The character of each byte.
pub(crate) const CHARS: [char; 256] = chars();

const fn chars() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut byte = 0;
    let mut next = 0x100;
    while byte < 256 {
        table[byte] = if is_printable(byte) {
            byte as u8 as char
        } else {
            next += 1;
            match char::from_u32(next - 1) {
                Some(c) => c,
                None => unreachable!(),
            }
        };
        byte += 1;
    }
    table
}

const fn is_printable(byte: usize) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// The byte that `c` stands for.
pub(crate) fn byte(c: char) -> Option<u8> {
    let n = c as usize;
    if n < 256 {
        return is_printable(n).then_some(n as u8);
    }
    // The others are few and in order, so their characters are sorted like their bytes.
    OTHERS.get(n - 0x100).copied()
}

const OTHERS: [u8; 68] = others();

const fn others() -> [u8; 68] {
    let mut table = [0; 68];
    let (mut byte, mut n) = (0, 0);
    while byte < 256 {
        if !is_printable(byte) {
            table[n] = byte as u8;
            n += 1;
        }
        byte += 1;
    }
    table
}

/// Spells the bytes of `text`.
pub(crate) fn spell(text: &str, out: &mut String) {
    out.clear();
    out.extend(text.bytes().map(|b| CHARS[b as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        for b in 0..=255 {
            assert_eq!(byte(CHARS[b as usize]), Some(b));
        }
        assert_eq!([b' ', b'\n', 0xAD].map(|b| CHARS[b as usize]), ['Ġ', 'Ċ', 'Ń']);
        assert_eq!([' ', '\u{AD}', '\u{144}', '▁'].map(byte), [None; 4]);
    }
}
