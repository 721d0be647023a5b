//! Segments: a start of the broker and a repair read the same frames.
#![no_main]

use std::sync::OnceLock;

use leveret_storage::fuzzing;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// One directory for all inputs: each writes the same files anew.
static HOME: OnceLock<TempDir> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let home = HOME.get_or_init(|| tempfile::tempdir().expect("a directory"));
    fuzzing::segment(home.path(), data);
});
