//! CNI: configurations and what plug-ins answer, as outside input.

#![no_main]

use libfuzzer_sys::fuzz_target;
use network::cni::{Addresses, NetworkList, PluginError};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(list) = NetworkList::parse(bytes) {
        assert_eq!(NetworkList::from_value(&list.to_value()), Ok(list));
    }
    if let Ok(result) = serde_json::from_slice(bytes)
        && let Ok(addresses) = Addresses::parse(&result, "eth0")
    {
        assert!(addresses.0.len() <= 16);
    }
    let _ = PluginError::parse(bytes);
});
