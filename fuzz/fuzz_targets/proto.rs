//! Protobuf: the first byte chooses a kind; what is read is written and read again as the same tree.
#![no_main]

use klynge_object::{Limits, proto};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = proto::envelope::unwrap(bytes);
    let Some((choice, message)) = bytes.split_first() else { return };
    let schemas = klynge_kinds::schemas();
    let kinds: Vec<_> = klynge_kinds::kinds_with_types().collect();
    let (_, id) = kinds[usize::from(*choice) % kinds.len()];
    if let Ok(value) = proto::decode(schemas, id, message, &Limits::REQUEST) {
        if let Ok(written) = proto::encode(schemas, id, &value) {
            assert!(proto::decode(schemas, id, &written, &Limits::REQUEST).is_ok());
        }
    }
});
