//! Data directories of releases: every later release reads them.
//!
//! `tests/fixtures/data-vN.tar.gz` is one of the last release that wrote version N of the format,
//! and `data-vN.json` says what must come out of it. A release that raises the version adds its own
//! beside the others, which stay as they are:
//!
//! ```text
//! LEVERET_FIXTURE_DIR=$PWD/crates/cli/tests/fixtures \
//!     cargo test -p leveret-cli --test it fixture -- --ignored
//! ```
//!
//! Some of its messages and queues expire after ten years, which is the longest there is: when they
//! have, take what is about them out of the older `.json` files.

mod contents;
#[cfg(target_os = "linux")]
mod recipe;
#[cfg(target_os = "linux")]
mod writer;

use crate::broker::{Broker, Surroundings};
use crate::repair::leveret;
use crate::tools::{answer, skip, tests_dir};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::runtime::Runtime;

/// Where segments, packs and indexes say their version, in bytes, and where most have the checksum
/// of all before it.
const VERSION_AT: usize = 8;
const CRC_AT: usize = 4092;

/// The versions that have a fixture.
fn versions() -> Vec<u32> {
    let files = fs::read_dir(tests_dir("fixtures")).expect("list the fixtures").flatten();
    let version = |name: &str| name.strip_prefix("data-v")?.strip_suffix(".tar.gz")?.parse().ok();
    let mut versions: Vec<u32> =
        files.filter_map(|file| version(&file.file_name().to_string_lossy())).collect();
    versions.sort_unstable();
    versions
}

/// A broker that is down and has the data of a fixture. None where it cannot be unpacked.
fn broker_with(test: &str, version: u32) -> Option<Broker> {
    if answer("tar", &["--version"]).is_none() || answer("gzip", &["--version"]).is_none() {
        skip(test, "tar and gzip");
        return None;
    }
    let mut broker = Broker::start_mortal_in(test, Surroundings::default())?;
    broker.kill9();
    let data = broker.data_dir();
    fs::remove_dir_all(&data).expect("remove what it has");
    unpack(&tests_dir("fixtures").join(format!("data-v{version}.tar.gz")), &data);
    Some(broker)
}

/// Unpacks a data directory.
fn unpack(archive: &Path, data: &Path) {
    let place = data.parent().expect("a directory around it");
    let mut tar = Command::new("tar");
    let status = tar.arg("-xzf").arg(archive).arg("-C").arg(place).status();
    assert!(status.expect("run tar").success(), "cannot unpack {}", archive.display());
}

fn expected(version: u32) -> Value {
    let path = tests_dir("fixtures").join(format!("data-v{version}.json"));
    let text = fs::read_to_string(&path).expect("read what a fixture holds");
    serde_json::from_str(&text).expect("JSON")
}

/// With everything in memory, and with nothing.
fn surroundings() -> [Surroundings; 2] {
    [vec![], vec![("LEVERET_MEMORY_TARGET", "0".into())]]
        .map(|environment| Surroundings { environment, ..Surroundings::default() })
}

#[test]
fn data_of_every_release_is_read() {
    let test = "data_of_every_release_is_read";
    let runtime = Runtime::new().expect("a runtime");
    for version in versions() {
        for surroundings in surroundings() {
            let Some(broker) = broker_with(test, version) else { return };
            check(broker, surroundings, &expected(version), &runtime);
        }
    }
}

/// Checks what a broker that is down has, and that it goes on with it.
fn check(mut broker: Broker, around: Surroundings, expected: &Value, runtime: &Runtime) {
    let (code, text) = leveret(&["inspect"], &broker.data_dir());
    assert_eq!(code, Some(0), "{text}");
    if let Err(status) = broker.restart_in(around) {
        panic!("it ended with {status}:\n{}", broker.log());
    }
    runtime.block_on(contents::check(broker.url(), expected));
    // What has been acknowledged does not come back.
    broker.kill9();
    broker.restart();
    runtime.block_on(contents::check_empty(broker.url(), expected));
    broker.kill9();
    let (code, text) = leveret(&["inspect"], &broker.data_dir());
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn the_format_of_today_has_a_fixture() {
    let test = "the_format_of_today_has_a_fixture";
    let Some(mut broker) = Broker::start_mortal_in(test, Surroundings::default()) else { return };
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(contents::declare(broker.url(), "any"));
    broker.kill9();
    for file in files(&broker.data_dir(), "wal", "wal") {
        let today = version_of(&fs::read(file).expect("read a segment"));
        assert!(versions().contains(&today), "no fixture has version {today}: see fixture.rs");
    }
}

/// Who goes back to an older release is told which file is too new for it.
#[test]
fn a_later_version_is_refused_by_name() {
    let test = "a_later_version_is_refused_by_name";
    let version = *versions().last().expect("a fixture");
    let Some(mut broker) = broker_with(test, version) else { return };
    let data = broker.data_dir();
    for (folder, ending) in [("wal", "wal"), ("pack", "idx"), ("pack", "pack")] {
        let found = files(&data, folder, ending);
        assert!(!found.is_empty(), "there is no .{ending}");
        for file in found {
            let old = fs::read(&file).expect("read a file");
            fs::write(&file, of_version(&old, version + 1, ending)).expect("write a file");
            let told = broker.log().len();
            let status = broker.try_restart().expect_err("it must not start");
            assert!(!status.success());
            let refusal =
                format!("{} has format version {}, this build", file.display(), version + 1);
            let log = broker.log();
            assert!(log[told..].contains(&refusal), "no {refusal:?} in:\n{}", &log[told..]);
            // A directory with such a pack has such a segment, too.
            for command in ["inspect", "repair"].iter().take(if folder == "wal" { 2 } else { 1 }) {
                let (code, text) = leveret(&[command], &data);
                assert!(code == Some(2) && text.contains(&refusal), "{code:?}, {text}");
            }
            fs::write(&file, old).expect("write a file");
        }
    }
    // Nobody has changed anything.
    let runtime = Runtime::new().expect("a runtime");
    check(broker, Surroundings::default(), &expected(version), &runtime);
}

fn version_of(file: &[u8]) -> u32 {
    u32::from_le_bytes(file[VERSION_AT..VERSION_AT + 4].try_into().expect("four bytes"))
}

/// The same file as if it had been written with that version. An index has the checksum behind its
/// header of 64 bytes and its sections of 32.
fn of_version(file: &[u8], version: u32, ending: &str) -> Vec<u8> {
    let mut file = file.to_vec();
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    let crc_at = if ending == "idx" { 64 + number(12) as usize * 32 } else { CRC_AT };
    file[VERSION_AT..VERSION_AT + 4].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c(&file[..crc_at]);
    file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    file
}

fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| crc >> 1 ^ (crc & 1).wrapping_neg() & 0x82f6_3b78;
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), bit);
    !bytes.iter().fold(!0, byte)
}

/// The files of a data directory that end so, in order.
fn files(data: &Path, folder: &str, ending: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(data.join(folder)).expect("list").flatten();
    let mut all: Vec<_> = all.map(|entry| entry.path()).collect();
    all.retain(|path| path.extension().is_some_and(|is| is == ending));
    all.sort();
    all
}
