//! Where the values of the settings come from: flag, else environment, else file, else default.

use crate::setting::{Config, SETTINGS, Setting};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variable that names the configuration file where `--config` does not.
pub const CONFIG_ENV: &str = "LEVERET_CONFIG";

/// What the command line said.
#[derive(Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// The other flags that were given: [`Setting::name`] and value.
    pub settings: Vec<(&'static str, String)>,
}

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag, by its name without dashes.
    Flag(&'static str),
    /// An environment variable.
    Env(String),
    /// A key of the configuration file.
    File(PathBuf, &'static str),
    /// Nobody: the default of the setting of this name.
    Default(&'static str),
}

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{}, line {line}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, in words that show nothing of the file: it may hold a password.
        reason: String,
    },
    /// The configuration file has a key that is no setting.
    #[error("{}: unknown key {key:?}; allowed are {}", path.display(), known_keys())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A value that its setting does not take.
    #[error("{origin}: {}; allowed is {allowed}{}", shown(value), hint(origin, value))]
    BadValue {
        /// Who gave it.
        origin: Origin,
        /// The value, unless it is a secret.
        value: Option<String>,
        /// What the setting takes.
        allowed: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) => write!(f, "--{name}"),
            Origin::Env(variable) => f.write_str(variable),
            Origin::File(path, key) => write!(f, "{}, key {key}", path.display()),
            Origin::Default(name) => write!(f, "the default of {name}"),
        }
    }
}

fn known_keys() -> String {
    SETTINGS.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
}

fn shown(value: &Option<String>) -> String {
    match value {
        Some(value) => format!("the value {value:?} is not possible"),
        None => "this value, not shown here, is not possible".into(),
    }
}

fn hint(origin: &Origin, value: &Option<String>) -> &'static str {
    match (origin, value) {
        (Origin::Env(_), Some(value)) if value.starts_with("tcp://") => {
            " (Kubernetes sets such variables for a service of that name; \
             enableServiceLinks: false in the pod turns that off)"
        }
        _ => "",
    }
}

impl Config {
    /// Collects the configuration. `env` looks up an environment variable; an empty one counts
    /// as not set, which is how Compose files pass on what is not there.
    ///
    /// # Errors
    /// [`ConfigError`]: an unreadable file, an unknown key or a value that is not allowed.
    pub fn load(
        flags: Flags,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Config, ConfigError> {
        let env = |variable: &str| env(variable).filter(|value| !value.is_empty());
        let path = flags.config.or_else(|| env(CONFIG_ENV).map(PathBuf::from));
        let mut given: HashMap<_, _> = flags
            .settings
            .into_iter()
            .map(|(name, value)| (name, (value, Origin::Flag(name))))
            .collect();
        for setting in SETTINGS {
            if !given.contains_key(setting.name)
                && let Some(value) = from_env(setting, &env)?
            {
                given.insert(setting.name, value);
            }
        }
        if let Some(path) = path {
            for (name, value) in read_file(&path)? {
                given.entry(name).or_insert((value, Origin::File(path.clone(), name)));
            }
        }
        Config::from_values(&Values(given))
    }
}

fn from_env(
    setting: &Setting,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<(String, Origin)>, ConfigError> {
    let ours = Some(setting.env());
    for variable in ours.into_iter().chain(setting.rabbitmq_env.map(str::to_owned)) {
        if let Some(value) = env(&variable) {
            let origin = Origin::Env(variable);
            return match value.into_string() {
                Ok(value) => Ok(Some((value, origin))),
                Err(raw) => Err(bad_value(setting, origin, &raw.to_string_lossy())),
            };
        }
    }
    Ok(None)
}

/// The settings of a configuration file.
fn read_file(path: &Path) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        ConfigError::Syntax {
            path: path.to_owned(),
            line: 1 + before.matches('\n').count(),
            reason: e.message().to_owned(),
        }
    })?;
    let mut found = Vec::with_capacity(table.len());
    for (key, value) in table {
        let Some(setting) = SETTINGS.iter().find(|s| s.name == key) else {
            return Err(ConfigError::UnknownKey { path: path.to_owned(), key });
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            other => {
                let origin = Origin::File(path.to_owned(), setting.name);
                return Err(bad_value(setting, origin, &other.to_string()));
            }
        };
        found.push((setting.name, text));
    }
    Ok(found)
}

fn bad_value(setting: &Setting, origin: Origin, value: &str) -> ConfigError {
    let value = (!setting.secret).then(|| value.to_owned());
    ConfigError::BadValue { origin, value, allowed: setting.allowed }
}

/// The text of each setting that was given, and who gave it.
pub(crate) struct Values(HashMap<&'static str, (String, Origin)>);

impl Values {
    /// The value of the setting `name`, given or default.
    pub(crate) fn parse<T>(
        &self,
        name: &'static str,
        parse: fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .expect("the macro that calls this makes the table too");
        let default = || (setting.default.to_owned(), Origin::Default(name));
        let (text, origin) = self.0.get(name).cloned().unwrap_or_else(default);
        parse(&text).ok_or_else(|| bad_value(setting, origin, &text))
    }
}

#[cfg(test)]
mod tests;
