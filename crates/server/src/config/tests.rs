use super::*;
use leveret_model::limits::{MEMORY_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use std::fs;

/// Loads from flags, environment variables and the text of a file; the error as text.
fn load(
    flags: &[(&'static str, &str)],
    env: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Config, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = file.map(|text| {
        let path = dir.path().join("leveret.toml");
        fs::write(&path, text).expect("a file in it");
        path
    });
    let settings = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let look_up = |variable: &str| {
        env.iter().find(|(name, _)| *name == variable).map(|(_, value)| value.into())
    };
    let shorten = |e: ConfigError| e.to_string().replace(&format!("{}/", dir.path().display()), "");
    Config::load(Flags { config, settings }, &look_up).map_err(shorten)
}

fn error(flags: &[(&'static str, &str)], env: &[(&str, &str)], file: Option<&str>) -> String {
    load(flags, env, file).expect_err("a bad configuration")
}

#[test]
fn nothing_given_is_rabbitmqs_defaults() {
    let config = load(&[], &[], None).unwrap();
    assert_eq!(config.data_dir, Path::new("./leveret-data"));
    assert_eq!(config.bind.to_string(), "::");
    assert_eq!((config.amqp_port, config.http_port), (Some(5672), Some(15672)));
    assert_eq!((config.default_user.as_str(), config.default_pass.reveal()), ("guest", "guest"));
    assert!(config.threads >= 1);
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = Some("amqp-port = 1001\ndefault-user = 'from-file'\nthreads = '7'\n");
    let env = [("LEVERET_AMQP_PORT", "1002"), ("LEVERET_DEFAULT_USER", "from-env")];
    let config = load(&[("amqp-port", "1003")], &env, file).unwrap();
    assert_eq!(config.amqp_port, Some(1003));
    assert_eq!(config.default_user, "from-env");
    assert_eq!(config.threads, 7);
    assert_eq!(config.bind.to_string(), "::");
}

#[test]
fn rabbitmqs_variables_stand_in_for_ours() {
    let theirs = [("RABBITMQ_DEFAULT_USER", "bunny"), ("RABBITMQ_DEFAULT_PASS", "carrot")];
    let config = load(&[], &theirs, Some("default-user = 'from-file'")).unwrap();
    assert_eq!((config.default_user.as_str(), config.default_pass.reveal()), ("bunny", "carrot"));
    let both = [theirs[0], ("LEVERET_DEFAULT_USER", "leveret")];
    assert_eq!(load(&[], &both, None).unwrap().default_user, "leveret");
}

#[test]
fn an_empty_variable_is_not_set() {
    let config = load(&[], &[("LEVERET_AMQP_PORT", ""), ("LEVERET_CONFIG", "")], None).unwrap();
    assert_eq!(config.amqp_port, Some(5672));
}

#[test]
fn port_0_is_no_listener() {
    assert_eq!(load(&[("amqp-port", "0")], &[], None).unwrap().amqp_port, None);
    assert_eq!(load(&[], &[("LEVERET_HTTP_PORT", "0")], None).unwrap().http_port, None);
}

#[test]
fn a_bad_value_names_where_it_came_from_and_what_is_allowed() {
    let port = "allowed is a port from 1 to 65535, or 0 for none";
    assert_eq!(
        error(&[("amqp-port", "amqp")], &[], None),
        format!("--amqp-port: the value \"amqp\" is not possible; {port}")
    );
    assert_eq!(
        error(&[], &[("LEVERET_AMQP_PORT", "70000")], None),
        format!("LEVERET_AMQP_PORT: the value \"70000\" is not possible; {port}")
    );
    assert_eq!(
        error(&[], &[], Some("amqp-port = -1")),
        format!("leveret.toml, key amqp-port: the value \"-1\" is not possible; {port}")
    );
    assert_eq!(
        error(&[], &[], Some("amqp-port = [5672]")),
        format!("leveret.toml, key amqp-port: the value \"[5672]\" is not possible; {port}")
    );
}

#[test]
fn every_setting_has_values_that_it_refuses() {
    let bad = [
        ("data-dir", ""),
        ("bind", "localhost"),
        ("amqp-port", "5672/tcp"),
        ("http-port", "65536"),
        ("default-user", ""),
        ("default-pass", ""),
        ("threads", "0"),
        ("threads", "1025"),
        ("memory-max", "0"),
        ("memory-max", "33554431"),
        ("memory-max", "32"),
        ("memory-max", "1TB"),
        ("memory-max", "-1GiB"),
        ("memory-max", "1.5GiB"),
        ("memory-max", "GiB"),
        ("memory-max", "99999999999GiB"),
        ("memory-target", "lots"),
        ("segment-size", "1048575"),
        ("segment-size", "1025MiB"),
        ("disk-free-low", "5%"),
        ("disk-free-low", "-1"),
        ("disk-free-critical", ""),
        ("disk-free-critical", "64 mb"),
        ("log", "loud"),
        ("log", ""),
        ("log", "info,"),
    ];
    for (name, value) in bad {
        let message = error(&[(name, value)], &[], None);
        assert!(message.starts_with(&format!("--{name}: ")), "{message}");
    }
    assert!(SETTINGS.iter().all(|s| bad.iter().any(|(name, _)| *name == s.name)));
}

#[test]
fn files_of_the_log_have_a_size_between_two_limits() {
    let size = |text: &str| load(&[("segment-size", text)], &[], None).unwrap().segment_size;
    assert_eq!(size("1MiB"), SEGMENT_BYTES_MIN);
    assert_eq!(size("1GiB"), SEGMENT_BYTES_MAX);
    assert_eq!(load(&[], &[], None).unwrap().segment_size, 32 << 20);
}

#[test]
fn memory_is_given_in_bytes_or_in_rabbitmqs_units() {
    let given = [
        ("33554432", MEMORY_BYTES_MIN),
        ("32MiB", MEMORY_BYTES_MIN),
        ("65536k", 64 << 20),
        ("256M", 256 << 20),
        ("1 GiB", 1 << 30),
        ("500000kB", 500_000_000),
        ("500MB", 500_000_000),
        ("2GB", 2_000_000_000),
    ];
    for (text, bytes) in given {
        assert_eq!(load(&[("memory-max", text)], &[], None).unwrap().memory_max, bytes, "{text}");
    }
    let file = Some("memory-max = 33554432");
    assert_eq!(load(&[], &[], file).unwrap().memory_max, MEMORY_BYTES_MIN);
    assert!(load(&[], &[], None).unwrap().memory_max >= MEMORY_BYTES_MIN);
}

#[test]
fn the_marks_of_the_disk_are_sizes_or_left_to_it() {
    let config = load(&[], &[], None).unwrap();
    assert_eq!((config.disk_free_low, config.disk_free_critical), (None, None));
    let env = [("LEVERET_DISK_FREE_CRITICAL", "0")];
    let config = load(&[("disk-free-low", "2GB")], &env, None).unwrap();
    assert_eq!((config.disk_free_low, config.disk_free_critical), (Some(2_000_000_000), Some(0)));
    let file = Some("disk-free-low = '512MiB'\ndisk-free-critical = 1000000\n");
    let config = load(&[], &[], file).unwrap();
    assert_eq!(
        (config.disk_free_low, config.disk_free_critical),
        (Some(512 << 20), Some(1_000_000))
    );
}

#[test]
fn the_log_filter_takes_levels_and_levels_by_module() {
    for filter in ["off", "DEBUG", "warn,leveret_amqp=trace", "leveret_broker=info"] {
        load(&[("log", filter)], &[], None).unwrap();
    }
}

#[test]
fn a_variable_made_by_kubernetes_is_explained() {
    let message = error(&[], &[("LEVERET_AMQP_PORT", "tcp://10.0.0.7:5672")], None);
    assert!(message.contains("enableServiceLinks: false"), "{message}");
}

#[test]
fn an_unknown_key_is_an_error_that_lists_the_known_ones() {
    let message = error(&[], &[], Some("amqp_port = 1"));
    assert!(message.starts_with("leveret.toml: unknown key \"amqp_port\"; allowed are data-dir, "));
}

#[test]
fn a_file_that_is_not_toml_is_named_with_its_line() {
    let message = error(&[], &[], Some("threads = 2\nbind = = 1\n"));
    assert!(message.starts_with("leveret.toml, line 2: "), "{message}");
}

#[test]
fn a_missing_file_is_named() {
    let flags = Flags { config: Some("no/such.toml".into()), settings: Vec::new() };
    let message = Config::load(flags, &|_| None).expect_err("no file").to_string();
    assert!(message.starts_with("cannot read the configuration file no/such.toml: "), "{message}");
}

#[test]
fn no_output_shows_a_password() {
    const PASSWORD: &str = "hunter2";
    let config = load(&[("default-pass", PASSWORD)], &[], None).unwrap();
    assert!(!format!("{config:?}").contains(PASSWORD));
    let wrong = [
        "default-pass = hunter2",
        "default-pass = 'hunter2",
        "default-pass = ['hunter2']",
        "default-pass = 'hunter2' x",
    ];
    for file in wrong {
        let message = error(&[], &[], Some(file));
        assert!(message.contains("leveret.toml"), "{message}");
        assert!(!message.contains(PASSWORD), "{message}");
    }
}
