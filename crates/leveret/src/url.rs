//! URLs of buses.

use std::time::Duration;

use leveret_client::Login;
use percent_encoding::percent_decode_str;

use crate::error::ConnectError;
use crate::topology::QueueKind;
use crate::via::amqp::hosts::Host;

/// Where a bus leads.
#[derive(Debug)]
pub(crate) enum Address {
    /// `embedded:PATH`: the broker within the process, with its data there.
    Embedded(std::path::PathBuf),
    /// `memory:`: the broker within the process, without a disk.
    Memory,
    /// `amqp://` and `amqps://`.
    Amqp(Box<Amqp>),
}

#[derive(Debug)]
pub(crate) struct Amqp {
    pub(crate) hosts: Vec<Host>,
    pub(crate) login: Login,
    pub(crate) tls: bool,
    /// The file with the certificates of authorities to trust, instead of the usual ones.
    pub(crate) authorities: Option<String>,
    pub(crate) queues: QueueKind,
}

/// Reads a URL:
/// `amqp://user:password@host:port,host:port/vhost?queues=quorum&heartbeat=30&name=billing`.
pub(crate) fn parse(url: &str) -> Result<Address, ConnectError> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme {
        "memory" if rest.is_empty() => Ok(Address::Memory),
        "embedded" if !rest.is_empty() => Ok(Address::Embedded(rest.into())),
        "embedded" => Err(wrong("embedded: is followed by the directory for its data")),
        "amqp" | "amqps" => match rest.strip_prefix("//") {
            Some(rest) => Ok(Address::Amqp(Box::new(parse_amqp(rest, scheme == "amqps")?))),
            None => Err(wrong("amqp: is followed by //")),
        },
        _ => Err(wrong("it begins with amqp://, amqps://, embedded:PATH or memory:")),
    }
}

fn wrong(text: &str) -> ConnectError {
    ConnectError::Url(text.to_owned())
}

fn parse_amqp(text: &str, tls: bool) -> Result<Amqp, ConnectError> {
    let (text, options) = text.split_once('?').unwrap_or((text, ""));
    let (authority, vhost) = text.split_once('/').unwrap_or((text, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut amqp = Amqp {
        hosts: parse_hosts(hosts, if tls { 5671 } else { 5672 })?,
        login: Login::default(),
        tls,
        authorities: None,
        queues: QueueKind::default(),
    };
    if !login.is_empty() {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        amqp.login.user = unescape(user)?;
        amqp.login.password = unescape(password)?;
    }
    if !vhost.is_empty() {
        amqp.login.vhost = unescape(vhost)?;
    }
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = unescape(value)?;
        match name {
            "queues" => {
                amqp.queues = match value.as_str() {
                    "classic" => QueueKind::Classic,
                    "quorum" => QueueKind::Quorum,
                    _ => return Err(wrong("queues is classic or quorum")),
                }
            }
            "heartbeat" => {
                let seconds = value.parse::<u16>();
                let seconds = seconds.map_err(|_| wrong("heartbeat is a number of seconds"))?;
                amqp.login.heartbeat = Duration::from_secs(seconds.into());
            }
            "name" => amqp.login.name = value,
            "cacertfile" if tls => amqp.authorities = Some(value),
            "cacertfile" => return Err(wrong("cacertfile goes with amqps://")),
            _ => {
                // It is not shown: a password with a question mark in it may end up here.
                let known = "queues, heartbeat, name and, with amqps://, cacertfile";
                return Err(wrong(&format!("it has an option that is none of {known}")));
            }
        }
    }
    Ok(amqp)
}

fn parse_hosts(text: &str, port: u16) -> Result<Vec<Host>, ConnectError> {
    let text = if text.is_empty() { "127.0.0.1" } else { text };
    text.split(',').map(|host| parse_host(host, port)).collect()
}

fn parse_host(text: &str, port: u16) -> Result<Host, ConnectError> {
    // An IPv6 address is in brackets, and its colons are not the port's.
    let (name, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => port,
        None => return Err(wrong("a host is followed by a colon and its port")),
        Some(digits) => match digits.parse() {
            Ok(port @ 1..) => port,
            _ => return Err(wrong("a port is a number from 1 to 65535")),
        },
    };
    if name.is_empty() {
        return Err(wrong("a host has no name"));
    }
    Ok(Host { name: unescape(name)?, port })
}

fn unescape(text: &str) -> Result<String, ConnectError> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| wrong("something in it is not UTF-8"))?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amqp(url: &str) -> Amqp {
        match parse(url) {
            Ok(Address::Amqp(amqp)) => *amqp,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_do_not_show_the_password() {
        let shown = format!("{:?}", crate::Bus::builder("amqp://user:secret@h"));
        assert!(!shown.contains("secret"), "{shown}");
        assert!(!format!("{:?}", parse("amqp://user:secret@h")).contains("secret"));
    }

    fn hosts(url: &str) -> String {
        amqp(url).hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_part_has_a_default() {
        let plain = amqp("amqp://");
        assert_eq!(plain.hosts[0].to_string(), "127.0.0.1:5672");
        assert_eq!(format!("{:?}", plain.login), "Login(guest in \"/\")");
        let all = amqp("amqps://m%40e:p%3A%C3%A4@a:1,b,[::1]:7/%2fv?queues=quorum&heartbeat=5");
        assert_eq!((all.login.user.as_str(), all.login.password.as_str()), ("m@e", "p:ä"));
        assert_eq!((all.login.vhost.as_str(), all.queues), ("/v", QueueKind::Quorum));
        assert_eq!(all.login.heartbeat, Duration::from_secs(5));
        assert_eq!(hosts("amqps://a:1,b,[::1]:7,[::2]"), "a:1 b:5671 [::1]:7 [::2]:5671");
        assert!(matches!(parse("memory:"), Ok(Address::Memory)));
        assert!(matches!(parse("embedded:./data"), Ok(Address::Embedded(_))));
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_shown() {
        for url in [
            "",
            "localhost:5672",
            "http://secret@x",
            "amqp:x",
            "amqp://secret@h:0",
            "amqp://secret@h:port",
            "amqp://secret@[::1",
            "amqp://secret@[::1]x",
            "amqp://secret@,",
            "amqp://h?secret=1&x",
            "amqp://u:1?secret@h",
            "amqp://h?queues=mirrored",
            "amqp://h?heartbeat=x",
            "amqp://secret%ff@h",
            "embedded:",
            "memory:x",
        ] {
            let text = parse(url).map(drop).unwrap_err().to_string();
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
