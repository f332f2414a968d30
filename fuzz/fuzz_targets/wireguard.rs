//! The encryption in user space: frames from its agent, what a TUN device hands over, and packets that other nodes sent. What is joined comes
//! apart into as many bytes of payload as there were.
#![no_main]
use libfuzzer_sys::fuzz_target;
use network::wireguard::{Merger, Message, split};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::read(bytes) {
        let mut again = Vec::new();
        assert!(message.append_to(&mut again));
        assert_eq!(Message::read(&again[4..]), Ok(message));
    }
    let mut total = 0;
    split(&mut bytes.to_vec(), &mut Vec::new(), |packet| total += packet.len());
    assert!(total <= bytes.len() * 2048);
    // Packets of the length that the first byte says, one after the other.
    let Some((length, packets)) = bytes.split_first() else { return };
    let mut merger = Merger::default();
    let (mut given, mut written, mut count) = (0, 0, 0);
    for packet in packets.chunks(usize::from(*length) + 1) {
        merger.push(packet);
        given += packet.len();
        count += 1;
    }
    merger.flush(|frame| {
        let mut frame = frame.to_vec();
        assert!(split(&mut frame, &mut Vec::new(), |packet| {
            written += packet.len();
            count -= 1;
        }));
    });
    assert_eq!((written, count), (given, 0));
});
