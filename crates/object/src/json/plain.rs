//! Finds the end of a run of characters that JSON strings hold unescaped, eight bytes at a time.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// How many bytes at the start of `bytes` are neither a quote, a backslash nor a control character.
pub(super) fn length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        // A byte's high bit is set where it is zero (or below 0x20); borrows reach only bytes above such a one.
        let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\'))) | control;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place() {
        for length_before in 0..20 {
            for byte in 0..=255u8 {
                let mut bytes = vec![b'a'; length_before];
                bytes.push(byte);
                bytes.extend_from_slice(b"\"\\\x00 tail of some length");
                let expected = bytes.iter().position(|byte| is_special(*byte));
                assert_eq!(Some(length(&bytes)), expected, "{byte} after {length_before}");
            }
        }
        assert_eq!(length(b""), 0);
        assert_eq!(length("aäöü\u{1f600}".as_bytes()), 11);
    }
}
