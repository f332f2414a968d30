//! YAML: no input hangs, crashes or grows without bound; what is read can be written and read again.
#![no_main]

use klynge_object::{Limits, yaml};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = yaml::decode(bytes, &Limits::REQUEST) {
        let written = yaml::encode(&decoded.value);
        // Writing out what aliases shared may exceed the request's size, so the second reading has more room.
        let limits = Limits { bytes: 256 << 20, ..Limits::REQUEST };
        assert!(yaml::decode(written.as_bytes(), &limits).is_ok(), "{written}");
    }
});
