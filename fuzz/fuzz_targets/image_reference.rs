//! Image references: any text is read or refused, and what is read prints to a name that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(&reference.name()).map(|again| again.name());
        assert_eq!(again.ok(), Some(reference.name()));
    }
});
