//! The table of settings: the one place that names them.
//!
//! A row yields the flag `--name`, the environment variable `LEVERET_NAME`, the key `name` of the
//! configuration file, the line of `--help`, the field of [`Config`] and the row in
//! `docs/configuration.md` (a test compares).

use crate::config::{ConfigError, Values};
use crate::value::{self, LogFilter, Secret};
use std::net::IpAddr;
use std::path::PathBuf;

/// One setting, as a person sees it.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag without its dashes, and the key in the configuration file.
    pub name: &'static str,
    /// What stands for its value in `--help`.
    pub value_name: &'static str,
    /// Its value where nobody gave one.
    pub default: &'static str,
    /// Which values it takes, to follow "allowed is".
    pub allowed: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// RabbitMQ's environment variable for it, read where `LEVERET_…` is not set.
    pub rabbitmq_env: Option<&'static str>,
    /// Whether its value must never be shown.
    pub secret: bool,
}

impl Setting {
    /// Its environment variable.
    #[must_use]
    pub fn env(&self) -> String {
        format!("LEVERET_{}", self.name.replace('-', "_").to_uppercase())
    }
}

macro_rules! settings {
    ($(
        $(#[doc = $help:literal])+
        $field:ident: $type:ty {
            name: $name:literal,
            value: $value_name:literal,
            default: $default:literal,
            allowed: $allowed:literal,
            parse: $parse:path,
            rabbitmq_env: $rabbitmq_env:expr,
            secret: $secret:literal,
        }
    )+) => {
        /// What a server needs to know to start: one field a setting.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $( $(#[doc = $help])+ pub $field: $type, )+
        }

        /// Every setting, in the order in which people should read them.
        pub const SETTINGS: &[Setting] = &[
            $( Setting {
                name: $name,
                value_name: $value_name,
                default: $default,
                allowed: $allowed,
                help: concat!($($help),+),
                rabbitmq_env: $rabbitmq_env,
                secret: $secret,
            } ),+
        ];

        impl Config {
            pub(crate) fn from_values(values: &Values) -> Result<Config, ConfigError> {
                Ok(Config { $( $field: values.parse($name, $parse)?, )+ })
            }
        }
    };
}

settings! {
    /// Where the broker keeps everything that must survive.
    data_dir: PathBuf {
        name: "data-dir",
        value: "DIR",
        default: "./leveret-data",
        allowed: "a directory, which is made where it does not exist",
        parse: value::directory,
        rabbitmq_env: None,
        secret: false,
    }
    /// The address to listen on; :: is every interface, IPv4 included.
    bind: IpAddr {
        name: "bind",
        value: "ADDRESS",
        default: "::",
        allowed: "an IP address such as 127.0.0.1, 0.0.0.0 or ::",
        parse: value::parsed,
        rabbitmq_env: None,
        secret: false,
    }
    /// The port for AMQP 0-9-1 clients.
    amqp_port: Option<u16> {
        name: "amqp-port",
        value: "PORT",
        default: "5672",
        allowed: "a port from 1 to 65535, or 0 for none",
        parse: value::port,
        rabbitmq_env: None,
        secret: false,
    }
    /// The port for RabbitMQ's management API over HTTP.
    http_port: Option<u16> {
        name: "http-port",
        value: "PORT",
        default: "15672",
        allowed: "a port from 1 to 65535, or 0 for none",
        parse: value::port,
        rabbitmq_env: None,
        secret: false,
    }
    /// The user that clients log in as; one named guest may do so from this machine only.
    default_user: String {
        name: "default-user",
        value: "NAME",
        default: "guest",
        allowed: "a name of 1 to 255 bytes",
        parse: value::user_name,
        rabbitmq_env: Some("RABBITMQ_DEFAULT_USER"),
        secret: false,
    }
    /// That user's password; better given by the environment or the file, since flags can be
    /// read by every user of the machine.
    default_pass: Secret {
        name: "default-pass",
        value: "PASSWORD",
        default: "guest",
        allowed: "a text that is not empty",
        parse: value::password,
        rabbitmq_env: Some("RABBITMQ_DEFAULT_PASS"),
        secret: true,
    }
    /// How many threads serve connections; auto is one a core.
    threads: usize {
        name: "threads",
        value: "COUNT",
        default: "auto",
        allowed: "a number from 1 to 1024, or auto",
        parse: value::threads,
        rabbitmq_env: None,
        secret: false,
    }
    /// How much memory messages may take before publishers must wait for consumers; auto is 60 % of
    /// the machine's memory, or of what its control group may have if that is less.
    memory_max: usize {
        name: "memory-max",
        value: "BYTES",
        default: "auto",
        allowed: "a size of at least 32MiB, in bytes or as 512MiB, 4GB and the like, or auto",
        parse: value::memory,
        rabbitmq_env: None,
        secret: false,
    }
    /// From how much memory on messages that wait leave it for the disk. What publishers wait for
    /// is memory-max.
    memory_target: usize {
        name: "memory-target",
        value: "BYTES",
        default: "64MiB",
        allowed: "a size in bytes, or as 64MiB, 1GB and the like",
        parse: value::size,
        rabbitmq_env: None,
        secret: false,
    }
    /// How large the files of the log are. Smaller ones mean less disk space for an idle broker and
    /// a faster restart after a kill; larger ones less work for a busy one.
    segment_size: u64 {
        name: "segment-size",
        value: "BYTES",
        default: "32MiB",
        allowed: "a size from 1MiB to 1GiB, in bytes or as 32MiB, 64MB and the like",
        parse: value::segment_size,
        rabbitmq_env: None,
        secret: false,
    }
    /// How little of the data directory's disk may be free before publishers must wait; auto is 5 %
    /// of the disk, at least 256 MiB and at most 1 GiB, but never more than an eighth of it.
    disk_free_low: Option<u64> {
        name: "disk-free-low",
        value: "BYTES",
        default: "auto",
        allowed: "a size, in bytes or as 512MiB, 4GB and the like, 0 for no limit, or auto",
        parse: value::disk_mark,
        rabbitmq_env: None,
        secret: false,
    }
    /// How little of it may be free before everything must wait that makes the log larger; auto is
    /// a quarter of disk-free-low, or 64 MiB if that is more, but never more than half of it.
    disk_free_critical: Option<u64> {
        name: "disk-free-critical",
        value: "BYTES",
        default: "auto",
        allowed: "a size, in bytes or as 512MiB, 4GB and the like, 0 for no limit, or auto",
        parse: value::disk_mark,
        rabbitmq_env: None,
        secret: false,
    }
    /// What to log to standard error: a level, or levels by module.
    log: LogFilter {
        name: "log",
        value: "FILTER",
        default: "info",
        allowed: "off, error, warn, info, debug, trace, or a list such as info,leveret_amqp=debug",
        parse: value::log_filter,
        rabbitmq_env: None,
        secret: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn names_are_unique_and_become_environment_variables() {
        for (i, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..i].iter().all(|s| s.name != setting.name), "{}", setting.name);
        }
        assert_eq!(SETTINGS[0].env(), "LEVERET_DATA_DIR");
    }

    #[test]
    fn the_documentation_has_this_table() {
        let head = "| setting | environment | default | allowed | what it is for |";
        let mut table = format!("{head}\n|---|---|---|---|---|\n");
        for s in SETTINGS {
            let also = s.rabbitmq_env.map_or(String::new(), |v| format!(", else `{v}`"));
            let (name, env, default, help) = (s.name, s.env(), s.default, s.help.trim());
            let allowed = s.allowed;
            writeln!(table, "| `{name}` | `{env}`{also} | `{default}` | {allowed} | {help} |")
                .expect("a String takes every write");
        }
        let page = include_str!("../../../docs/configuration.md");
        assert!(page.contains(&table), "docs/configuration.md should have this table:\n{table}");
    }
}
