//! Where a broker lives: a directory, or a small file system of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tempfile::TempDir;

use crate::tools::{answer, skip};

/// Gone when this value goes.
pub(super) struct Home {
    directory: TempDir,
    mounted: bool,
}

/// A file that takes room, until this value goes.
pub(super) struct Filler(PathBuf);

impl Home {
    pub(super) fn new() -> Home {
        // A real disk, where the system's temporary directory may be memory.
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        Home { directory, mounted: false }
    }

    /// In memory; says so and gives none where this process may not mount anything.
    pub(super) fn on_disk(test: &str, mib: u64) -> Option<Home> {
        let mut home = Home::new();
        let size = format!("size={mib}m");
        let path = home.path().to_string_lossy().into_owned();
        if answer("mount", &["-t", "tmpfs", "-o", &size, "leveret-test", &path]).is_none() {
            skip(test, "the right to mount a file system");
            return None;
        }
        home.mounted = true;
        Some(home)
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Fills the disk until only so much is free.
    pub(super) fn fill(&self, leave: u64) -> Filler {
        assert!(self.mounted, "somebody else's disk");
        let size = self.free().checked_sub(leave).expect("more is free");
        let path = self.path().join("filler");
        let file = File::create_new(&path).expect("make a file");
        let filler = Filler(path);
        fallocate(&file, FallocateFlags::empty(), 0, size).expect("fill the disk");
        filler
    }

    /// What is free, once the broker has prepared what it prepares.
    fn free(&self) -> u64 {
        let look = || {
            let found = statvfs(self.path()).expect("look at the disk");
            found.f_bavail * found.f_frsize
        };
        loop {
            let before = look();
            thread::sleep(Duration::from_millis(300));
            if look() == before {
                return before;
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.mounted {
            // Even if something of it is still in use.
            let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
            assert!(thread::panicking() || unmounted.is_ok_and(|status| status.success()));
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("remove a file");
    }
}
