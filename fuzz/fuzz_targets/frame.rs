//! ARP and neighbour discovery: any frame is read or passed over.

#![no_main]

use libfuzzer_sys::fuzz_target;
use network::announce::parse;

fuzz_target!(|frame: &[u8]| {
    if let Some(heard) = parse(frame) {
        // A group never speaks, and what is said is about one address.
        assert_eq!(heard.from[0] & 1, 0);
        assert!(heard.question.is_some() || heard.claim.is_some());
    }
});
