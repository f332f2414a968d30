//! Names, ids and picks that must not repeat.

use object::Str;

/// Upstream's alphabet for generated names: no vowels, no characters that look alike.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Room that upstream leaves for the random part.
const BASE_MAX_BYTES: usize = 58;
const SUFFIX_LENGTH: usize = 5;

/// Random bytes from the kernel; a counter-free fallback does not exist, so a failing kernel ends in zeros and a
/// collision that the store's compare-and-set refuses.
fn fill(bytes: &mut [u8]) {
    if getrandom::fill(bytes).is_err() {
        bytes.fill(0);
    }
}

/// A number below `bound`; 0 for an empty range.
pub(crate) fn below(bound: u64) -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
}

/// Five characters for a generated name.
pub(crate) fn suffix() -> String {
    (0..SUFFIX_LENGTH).map(|_| ALPHABET[below(ALPHABET.len() as u64) as usize] as char).collect()
}

/// `base` with five random characters, shortened as upstream does.
pub(crate) fn name(base: &str) -> Str {
    let mut end = base.len().min(BASE_MAX_BYTES);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], suffix()).into()
}

/// A version 4 UUID.
pub(crate) fn uid() -> Str {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string().into()
}
