//! `amqp://` addresses.

use std::str::FromStr;

/// Where a broker is, and as whom to log in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Uri {
    /// Host and port, as the system's resolver takes them.
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) vhost: String,
}

/// Why a text is not an address of a broker. Says nothing of the text, which holds a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UriError {
    #[error("an address begins with amqp://")]
    Scheme,
    #[error("amqps:// needs TLS, which this command does not speak yet")]
    Tls,
    #[error("a % in an address is followed by two hexadecimal digits")]
    Escape,
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

const DEFAULT_PORT: u16 = 5672;

impl FromStr for Uri {
    type Err = UriError;

    /// `amqp://user:password@host:port/vhost`, all but the scheme optional.
    fn from_str(text: &str) -> Result<Uri, UriError> {
        if text.starts_with("amqps://") {
            return Err(UriError::Tls);
        }
        let text = text.strip_prefix("amqp://").ok_or(UriError::Scheme)?;
        let text = text.split_once('?').map_or(text, |(address, _options)| address);
        let (authority, vhost) = text.split_once('/').unwrap_or((text, ""));
        let (login, address) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        Ok(Uri {
            address: with_port(address)?,
            user: unescape(user)?,
            password: unescape(password)?,
            vhost: if vhost.is_empty() { "/".into() } else { unescape(vhost)? },
        })
    }
}

fn with_port(address: &str) -> Result<String, UriError> {
    // An IPv6 address is in brackets, and its colons are not the port's.
    let after_host = address.rfind(']').map_or(address, |at| &address[at..]);
    match after_host.rsplit_once(':') {
        Some((_, port)) => match port.parse::<u16>() {
            Ok(1..) => Ok(address.to_owned()),
            _ => Err(UriError::Port),
        },
        None if address.is_empty() => Ok(format!("127.0.0.1:{DEFAULT_PORT}")),
        None => Ok(format!("{address}:{DEFAULT_PORT}")),
    }
}

fn unescape(text: &str) -> Result<String, UriError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(UriError::Escape) };
        // Two hexadecimal digits are a byte.
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| UriError::Escape)
}

impl std::fmt::Debug for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "amqp://{}@{}/{}", self.user, self.address, self.vhost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> [String; 4] {
        let uri: Uri = text.parse().unwrap();
        [uri.user, uri.password, uri.address, uri.vhost]
    }

    #[test]
    fn every_part_but_the_scheme_has_a_default() {
        assert_eq!(parts("amqp://"), ["guest", "guest", "127.0.0.1:5672", "/"]);
        assert_eq!(parts("amqp://broker"), ["guest", "guest", "broker:5672", "/"]);
        assert_eq!(parts("amqp://broker:1/"), ["guest", "guest", "broker:1", "/"]);
        assert_eq!(parts("amqp://me@broker/v"), ["me", "", "broker:5672", "v"]);
        assert_eq!(parts("amqp://me:p@[::1]:7/%2fa"), ["me", "p", "[::1]:7", "/a"]);
        assert_eq!(parts("amqp://[::1]"), ["guest", "guest", "[::1]:5672", "/"]);
        assert_eq!(parts("amqp://m%40e:p%3A%C3%A4@h?heartbeat=5"), ["m@e", "p:ä", "h:5672", "/"]);
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_shown() {
        let error = |text: &str| text.parse::<Uri>().unwrap_err();
        assert_eq!(error("localhost:5672"), UriError::Scheme);
        assert_eq!(error("amqps://broker"), UriError::Tls);
        assert_eq!(error("amqp://broker:amqp"), UriError::Port);
        assert_eq!(error("amqp://broker:0"), UriError::Port);
        assert_eq!(error("amqp://me:50%@broker"), UriError::Escape);
        assert_eq!(error("amqp://me:%ff@broker"), UriError::Escape);
    }

    #[test]
    fn debug_hides_the_password() {
        let uri: Uri = "amqp://me:hunter2@broker".parse().unwrap();
        assert_eq!(format!("{uri:?}"), "amqp://me@broker:5672//");
    }
}
