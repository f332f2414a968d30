//! Quantities: the canonical text of what is read has the same amount.

#![no_main]

use libfuzzer_sys::fuzz_target;
use object::quantity::{Quantity, canonicalize};

fuzz_target!(|text: &str| {
    let Ok(quantity) = Quantity::parse(text) else { return };
    let canonical = quantity.canonical();
    assert_eq!(Quantity::parse(&canonical), Ok(quantity));
    let kept = canonicalize(text).map(|kept| Quantity::parse(&kept));
    assert_eq!(kept, Ok(Ok(quantity)));
});
