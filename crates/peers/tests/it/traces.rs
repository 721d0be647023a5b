//! What a server leaves behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Every process that has to do with a server's directory: one that was started for it, one that
/// works in it (PostgreSQL's hide what they were started with), one that names it.
pub(crate) fn processes(directory: &Path) -> Vec<u32> {
    let name = directory.to_str().expect("a plain path").as_bytes();
    let contains = |text: Vec<u8>| text.windows(name.len()).any(|part| part == name);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let reads = |file| fs::read(entry.path().join(file)).is_ok_and(contains);
        let is_in =
            fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at.starts_with(directory));
        if is_in || reads("environ") || reads("cmdline") {
            found.push(id);
        }
    }
    found
}

/// Fails unless all of these and everything of the server's directory is gone, or goes soon.
pub(crate) fn assert_gone(directory: &Path, ids: &[u32]) {
    let runs = |id: &&u32| PathBuf::from(format!("/proc/{id}")).exists();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let named: Vec<_> = ids.iter().filter(runs).collect();
        let others = processes(directory);
        if named.is_empty() && others.is_empty() && !directory.exists() {
            return;
        }
        let what = format!("{named:?}, {others:?}, directory: {}", directory.exists());
        assert!(Instant::now() < deadline, "left behind: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
