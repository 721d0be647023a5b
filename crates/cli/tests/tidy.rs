//! The project's rules for its own source, as tests. An exception is a line in a list here, with
//! its reason; a line that is no longer needed fails too, so the lists only hold what is true.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our crates each may depend on. Test dependencies are free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("record", &["model"]),
    ("amqp-wire", &["model"]),
    ("engine", &["model", "record"]),
    ("storage", &["model", "record"]),
    ("repair", &["storage", "record", "model"]),
    ("broker", &["engine", "storage", "record", "model"]),
    ("amqp", &["broker", "model", "amqp-wire"]),
    ("client", &["amqp-wire", "model"]),
    ("macros", &[]),
    // The embedded broker is a broker behind the same front door.
    ("leveret", &["client", "macros", "amqp", "broker", "model"]),
    ("http", &["broker", "model"]),
    ("server", &["amqp", "http", "broker", "model"]),
    // amqp-wire: publish, consume, get and bench are clients; leveret: agents and dead.
    ("cli", &["leveret", "server", "repair", "storage", "model", "amqp-wire"]),
    // Only ever a test dependency.
    ("peers", &[]),
    // Programs to start from use what everybody can use.
    ("examples", &["leveret"]),
];

/// Most lines of a file, its tests not counted.
const FILE_LINES_MAX: usize = 500;
/// Most characters of a line of Rust.
const LINE_CHARS_MAX: usize = 100;

/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];
/// Files with lines that may be longer, and why.
const LONG_LINES: &[(&str, &str)] = &[];
/// Functions that may have more than 70 lines (clippy counts): file, and why.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];
/// Modules that may be unsafe, and why.
const UNSAFE_MODULES: &[(&str, &str)] = &[];
/// Limits that no test names yet, and why.
const LIMITS_WITHOUT_A_TEST: &[(&str, &str)] =
    &[("CONGESTION_PAUSE", "to be tested with a consumer slower than its publisher")];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "misc", "stuff"];

/// What is not ours, or not source.
const SKIPPED_FOLDERS: &[&str] =
    &["target", ".git", "node_modules", "__pycache__", "leveret-data", "corpus", "artifacts"];

/// A text file of the project.
struct Source {
    /// Relative to the root, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    /// Whether all of it is test code.
    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "fuzz")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
    }

    /// What of it is no test: by habit the unit tests come last.
    fn production(&self) -> &str {
        if self.is_test() {
            return "";
        }
        let tests = self.text.find("\n#[cfg(test)]\nmod tests {");
        &self.text[..tests.unwrap_or(self.text.len())]
    }

    /// What of it is a test.
    fn tests(&self) -> &str {
        if self.is_test() { &self.text } else { &self.text[self.production().len()..] }
    }

    fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.split('.').next().unwrap_or_default()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/cli").to_owned()
}

fn sources(extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root(), &root(), extensions, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(root: &Path, folder: &Path, extensions: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !SKIPPED_FOLDERS.contains(&name.as_ref()) {
                collect(root, &path, extensions, found);
            }
        } else if extensions.is_empty() || extensions.iter().any(|end| name.ends_with(end)) {
            // What is not text holds none of the things looked for.
            if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root).expect("a path below the root");
                found.push(Source { path: path.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
}

fn rust() -> Vec<Source> {
    sources(&[".rs"])
}

/// Fails with all problems at once.
fn none(rule: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{rule}:\n  {}\n", problems.join("\n  "));
}

/// Compares what breaks a rule with the list of what may.
fn only_exceptions(rule: &str, offenders: &[(String, String)], exceptions: &[(&str, &str)]) {
    let listed = |name: &str| exceptions.iter().any(|(exception, _)| *exception == name);
    let mut problems: Vec<String> = offenders
        .iter()
        .filter(|(name, _)| !listed(name))
        .map(|(name, what)| format!("{name}: {what}"))
        .collect();
    for (name, _) in exceptions {
        if !offenders.iter().any(|(offender, _)| offender == name) {
            problems.push(format!("{name}: listed as an exception and is none; take it out"));
        }
    }
    none(rule, &problems);
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        let parts: Vec<_> = manifest.iter().rev().skip(1).map(|it| it.to_string_lossy()).collect();
        // The examples are in a folder for each language.
        let folder = if parts[1] == "examples" { &parts[1] } else { &parts[0] };
        if name != format!("leveret-{folder}") && name != *folder {
            problems.push(format!("the package {name} is in a folder named {folder}"));
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(of, _)| of == folder) else {
            problems.push(format!("{folder}: say in ALLOWED what it may depend on"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            if let Some(on) = on.strip_prefix("leveret-").or((on == "leveret").then_some(on))
                && dependency["kind"] != "dev"
                && !allowed.contains(&on)
            {
                problems.push(format!("{folder} must not depend on {on}"));
            }
        }
    }
    none("dependencies between crates", &problems);
}

#[test]
fn files_are_short() {
    let lines = |source: &Source| source.production().lines().count();
    let long: Vec<_> = rust()
        .iter()
        .filter(|source| lines(source) > FILE_LINES_MAX)
        .map(|source| (source.path.clone(), format!("{} lines", lines(source))))
        .collect();
    only_exceptions("a file has at most 500 lines, tests aside", &long, LONG_FILES);
}

#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    for source in rust() {
        let too_long = |line: &str| line.chars().count() > LINE_CHARS_MAX;
        if let Some(at) = source.text.lines().position(too_long) {
            long.push((source.path, format!("line {}", at + 1)));
        }
    }
    only_exceptions("a line has at most 100 characters", &long, LONG_LINES);
}

/// Files that turn a lint off.
fn that_allow(lint: &str) -> Vec<(String, String)> {
    let switches = [format!("allow({lint}"), format!("expect({lint}")];
    rust()
        .into_iter()
        .filter(|source| switches.iter().any(|switch| source.text.contains(switch)))
        .map(|source| (source.path, format!("turns {lint} off")))
        .collect()
}

#[test]
fn functions_are_short() {
    let allow = that_allow(concat!("clippy::", "too_many_lines"));
    only_exceptions("a function has at most 70 lines", &allow, LONG_FUNCTIONS);
}

#[test]
fn unsafe_code_stays_in_its_modules() {
    let allow = that_allow(concat!("unsafe", "_code"));
    only_exceptions("unsafe code", &allow, UNSAFE_MODULES);
}

#[test]
fn nothing_unwraps_outside_tests() {
    let allow = that_allow(concat!("clippy::", "unwrap_used"));
    only_exceptions("no unwrap outside tests", &allow, &[]);
}

#[test]
fn every_crate_obeys_the_lints() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace");
    let mut problems = Vec::new();
    for lint in [
        "unsafe_code = \"deny\"",
        "missing_docs = \"warn\"",
        "unwrap_used = \"deny\"",
        "too_many_lines = \"warn\"",
    ] {
        if !manifest.contains(lint) {
            problems.push(format!("Cargo.toml lacks {lint}"));
        }
    }
    for source in sources(&["Cargo.toml"]) {
        let of_a_crate = source.path.starts_with("crates/");
        if of_a_crate && !source.text.contains("[lints]\nworkspace = true") {
            problems.push(format!("{} lacks [lints] workspace = true", source.path));
        }
    }
    let clippy = fs::read_to_string(root().join("clippy.toml")).expect("clippy.toml");
    if !clippy.contains("too-many-lines-threshold = 70") {
        problems.push("clippy.toml lacks too-many-lines-threshold = 70".into());
    }
    none("lints", &problems);
}

#[test]
fn every_crate_and_every_test_says_what_it_is() {
    let is_root = |path: &str| {
        let in_tests = path.split('/').rev().nth(1) == Some("tests");
        path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") || {
            in_tests && path.split('/').nth(2) == Some("tests")
        }
    };
    let problems: Vec<_> = rust()
        .into_iter()
        .filter(|source| is_root(&source.path) && !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    none("a crate begins with its documentation", &problems);
}

#[test]
fn names_say_what_is_inside() {
    let problems: Vec<_> = rust()
        .into_iter()
        .map(|source| (source.stem().to_owned(), source.path))
        .filter(|(stem, path)| {
            let folders = path.split('/').any(|part| EMPTY_NAMES.contains(&part));
            folders || EMPTY_NAMES.contains(&stem.as_str())
        })
        .map(|(_, path)| path)
        .collect();
    none("names that say nothing", &problems);
}

#[test]
fn nothing_is_left_unfinished() {
    let marks =
        [concat!("FIX", "ME"), concat!("to", "do!("), concat!("db", "g!("), concat!("X", "XX")];
    let mut problems = Vec::new();
    for source in sources(&[".rs", ".toml", ".py", ".js", ".sh"]) {
        for mark in marks.iter().filter(|mark| source.text.contains(**mark)) {
            problems.push(format!("{}: {mark}", source.path));
        }
    }
    none("marks of unfinished work", &problems);
}

#[test]
fn nothing_refers_to_one_machine() {
    let foreign = [concat!("../", "shared"), concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let mut problems = Vec::new();
    for source in sources(&[]) {
        for path in foreign.iter().filter(|path| source.text.contains(**path)) {
            problems.push(format!("{}: {path}", source.path));
        }
    }
    none("paths of one machine", &problems);
}

/// The names of the constants in the model's `limits.rs`.
fn limits(sources: &[Source]) -> Vec<String> {
    let file = sources.iter().find(|source| source.path == LIMITS).expect("limits.rs");
    let name = |line: &str| Some(line.strip_prefix("pub const ")?.split(':').next()?.to_owned());
    file.production().lines().filter_map(name).collect()
}

const LIMITS: &str = "crates/model/src/limits.rs";

/// Whether `text` has `word` and not just a longer word that contains it.
fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(part_of_word) && !text[at + word.len()..].starts_with(part_of_word)
    })
}

#[test]
fn every_limit_is_enforced() {
    let sources = rust();
    let used = |limit: &String| {
        sources.iter().any(|s| s.path != LIMITS && has_word(s.production(), limit))
    };
    let unused: Vec<_> = limits(&sources).into_iter().filter(|limit| !used(limit)).collect();
    none("limits that nothing uses", &unused);
}

#[test]
fn every_limit_is_tested() {
    let sources = rust();
    let this = file!();
    let named = |limit: &String| {
        sources.iter().any(|s| !this.ends_with(&s.path) && has_word(s.tests(), limit))
    };
    let untested: Vec<_> = limits(&sources)
        .into_iter()
        .filter(|limit| !named(limit))
        .map(|limit| (limit, "no test names it".to_owned()))
        .collect();
    only_exceptions("a limit has a test", &untested, LIMITS_WITHOUT_A_TEST);
}

#[test]
fn every_page_has_one_title() {
    let mut problems = Vec::new();
    for page in sources(&[".md"]) {
        let mut in_code = false;
        let mut titles = 0;
        for line in page.text.lines() {
            in_code ^= line.trim_start().starts_with("```");
            titles += usize::from(!in_code && line.starts_with("# "));
        }
        if titles != 1 {
            problems.push(format!("{}: {titles} titles", page.path));
        }
    }
    none("a page has one title", &problems);
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).expect("CHANGELOG.md");
    assert!(changelog.contains("\n## [Unreleased]\n"), "CHANGELOG.md has no Unreleased part");
}
