//! Foreign tools: found on this machine, equipped once, shared by all tests.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Says something to the person at the terminal, past the test runner, which keeps what passing
/// tests print to itself.
pub(crate) fn say(text: &str) {
    // Nobody to talk to is no failure.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A tool is missing: fine on a person's machine, a failure where tests are the whole purpose.
pub(crate) fn skip(test: &str, missing: &str) {
    assert!(env::var_os("CI").is_none(), "{test} needs {missing}");
    say(&format!("SKIPPED {test}: it needs {missing}"));
}

/// What a command prints, if it can be run and ends well.
pub(crate) fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A directory under `target/` that `build` has filled, now or in an earlier run with the same
/// `recipe`. Safe where many tests and many test processes ask at once.
pub(crate) fn prepared(name: &str, recipe: &str, build: impl FnOnce(&Path)) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = root.join(name);
    // Tools of this kind write their own place into their files.
    let recipe = format!("{}\n{recipe}", place.display());
    let stamp = place.join("stamp");
    let lock = File::create(root.join(format!("{name}.lock"))).expect("make a lock file");
    // Freed when the file is closed, even by a crash.
    lock.lock().expect("lock a file");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == recipe) {
        return place;
    }
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            panic!("cannot clear {}: {error}", place.display())
        }
        _ => fs::create_dir_all(&place).expect("make a directory"),
    }
    build(&place);
    // Last, so that half a directory is never taken for a whole one.
    fs::write(&stamp, recipe).expect("write a stamp");
    place
}

/// A directory of this crate's tests.
pub(crate) fn tests_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}
