//! Image archives and their layers: whatever comes is unpacked below the images' directory or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::{Options, Runtime};

fuzz_target!(|bytes: &[u8]| {
    let Ok(threads) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let Ok(directory) = tempfile::tempdir() else { return };
    threads.block_on(async {
        let mut options = Options::below(directory.path().join("data"));
        options.cgroup_name = "klynge-fuzz".to_owned();
        let Ok(runtime) = Runtime::open(options).await else { return };
        let _ = runtime.images().import(std::io::Cursor::new(bytes.to_vec()), None).await;
    });
    let outside = std::fs::read_dir(directory.path()).map(|entries| entries.count());
    assert_eq!(outside.ok(), Some(1), "only the data directory may have come into being");
});
