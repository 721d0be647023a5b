//! RabbitMQ, one node.

use crate::node::Node;
use crate::realm::Realm;
use std::path::PathBuf;
use std::process::Output;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// How often another program may take a port before the node does.
const ATTEMPTS: usize = 3;

/// Debian's RabbitMQ, one node without plugins.
pub struct RabbitMq {
    node: Node,
    vhosts: AtomicU32,
}

impl RabbitMq {
    /// A node with nothing in it that accepts connections. None, and said so, if RabbitMQ is not
    /// installed.
    pub fn start() -> Option<RabbitMq> {
        RabbitMq::start_node(false)
    }

    /// The same with a second port, for TLS; see [`RabbitMq::tls_url`] and [`RabbitMq::ca_file`].
    pub fn start_with_tls() -> Option<RabbitMq> {
        RabbitMq::start_node(true)
    }

    /// One for all tests of this process that neither stop it nor fill it up. They keep out of
    /// each other's way by [`RabbitMq::vhost`]. It ends with the process.
    pub fn shared() -> Option<&'static RabbitMq> {
        static SHARED: OnceLock<Option<RabbitMq>> = OnceLock::new();
        SHARED.get_or_init(RabbitMq::start).as_ref()
    }

    fn start_node(tls: bool) -> Option<RabbitMq> {
        let mut log = String::new();
        for _ in 0..ATTEMPTS {
            let mut node = Node::new(&Realm::new()?, "rabbit", tls, "");
            node.launch();
            if node.await_ready() {
                return Some(RabbitMq { node, vhosts: AtomicU32::new(0) });
            }
            log = node.log();
        }
        panic!("RabbitMQ does not start:\n{log}");
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        self.url_of("%2f")
    }

    /// Where clients find one of its virtual hosts.
    pub fn url_of(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", self.node.port())
    }

    /// Where clients that speak TLS find it; panics unless it was started with it. Its certificate
    /// is for `localhost` and for `127.0.0.1`.
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.tls_port())
    }

    /// The port for TLS; panics unless it was started with it.
    pub fn tls_port(&self) -> u16 {
        self.node.tls_port().expect("a node started with TLS")
    }

    /// The certificate, in PEM, of the authority that its clients must trust; panics unless it
    /// was started with TLS.
    pub fn ca_file(&self) -> PathBuf {
        self.node.ca_file().expect("a node started with TLS")
    }

    /// The port for AMQP without TLS.
    pub fn port(&self) -> u16 {
        self.node.port()
    }

    /// A new virtual host, where guest may do everything: its name. Takes some 50 ms.
    pub fn vhost(&self) -> String {
        let name = format!("test{}", self.vhosts.fetch_add(1, Ordering::Relaxed));
        let answer = self.node.eval(&format!(
            "ok = rabbit_vhost:add(<<\"{name}\">>, <<\"tests\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, <<\"{name}\">>, \
             <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"tests\">>)"
        ));
        assert_eq!(answer, "ok", "a virtual host");
        name
    }

    /// Ends the Erlang machine without warning, but with its log of declarations written: RabbitMQ
    /// itself answers some of them earlier.
    pub fn kill(&mut self) {
        self.node.kill();
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        self.node.stop();
    }

    /// Starts it again, with the same data and at the same port.
    pub fn start_again(&mut self) {
        self.node.start();
    }

    /// Runs `rabbitmqctl`; takes most of a second.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.node.ctl(arguments)
    }

    /// What an Erlang expression (without a full stop) comes to on the node. Takes milliseconds;
    /// panics if it fails.
    pub fn eval(&self, expression: &str) -> String {
        self.node.eval(expression)
    }

    /// The last of what it has logged.
    pub fn log(&self) -> String {
        self.node.log()
    }

    /// Its processes: the Erlang machine, if it runs, and the port mapper.
    pub fn ids(&self) -> Vec<u32> {
        self.node.ids()
    }

    /// Where all its files are.
    pub fn directory(&self) -> PathBuf {
        self.node.directory()
    }
}
