//! Selectors: any text is read or refused, and what is read prints to text that reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use object::selector::{fields, labels};

fuzz_target!(|text: &str| {
    if let Ok(selector) = labels::Selector::parse(text) {
        assert_eq!(labels::Selector::parse(&selector.to_string()).as_ref(), Ok(&selector));
    }
    if let Ok(selector) = fields::Selector::parse(text) {
        assert_eq!(fields::Selector::parse(&selector.to_string()).as_ref(), Ok(&selector));
    }
});
