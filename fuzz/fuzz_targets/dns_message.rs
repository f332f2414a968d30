//! Frames between an agent and its process of cluster DNS: what is read is written back as it came.
#![no_main]
use libfuzzer_sys::fuzz_target;
use network::dns::process::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::read(bytes) {
        let mut again = Vec::new();
        assert!(message.append_to(&mut again));
        assert_eq!(Message::read(&again[4..]), Ok(message));
    }
});
