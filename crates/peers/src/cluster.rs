//! Several RabbitMQ nodes as one cluster.

use crate::node::Node;
use crate::place;
use crate::realm::Realm;
use std::path::PathBuf;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

/// How long a cluster may take until its nodes agree on something.
const AGREE_LIMIT: Duration = Duration::from_secs(60);
/// How often another program may take a port before a node does.
const ATTEMPTS: usize = 3;

/// Whether all nodes run, as this one sees it, and each of its quorum queues has a leader.
const HEALTHY: &str = "\
rabbit:is_running() andalso length(rabbit_mnesia:cluster_nodes(running)) =:= NODES \
andalso lists:all( \
  fun(Queue) -> \
    {Name, _} = amqqueue:get_pid(Queue), \
    not lists:member(node(), maps:get(nodes, amqqueue:get_type_state(Queue), [])) \
    orelse case ra:members({Name, node()}, 1000) of {ok, _, {_, _}} -> true; _ -> false end \
  end, \
  [Queue || Queue <- rabbit_amqqueue:list(), \
            amqqueue:get_type(Queue) =:= rabbit_quorum_queue])";

/// The node that leads a quorum queue, as this one's member of the queue sees it.
const LEADER: &str = "\
case rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"QUEUE\">>)) of \
  {ok, Queue} -> \
    {Name, _} = amqqueue:get_pid(Queue), \
    case ra:members({Name, node()}, 1000) of {ok, _, {_, Node}} -> Node; _ -> none end; \
  _ -> none \
end";

/// RabbitMQ nodes on this machine that are one cluster. Nodes are called by their index.
pub struct RabbitCluster {
    nodes: Vec<Node>,
}

impl RabbitCluster {
    /// A cluster of so many nodes that accepts connections at all of them. None, and said so, if
    /// RabbitMQ is not installed.
    pub fn start(nodes: usize) -> Option<RabbitCluster> {
        for _ in 0..ATTEMPTS {
            let realm = Realm::new()?;
            let mut cluster = RabbitCluster { nodes: Vec::new() };
            // The others need somebody to join: nodes that all begin at once may found several.
            for index in 0..nodes {
                let options = format!(
                    "cluster_formation.peer_discovery_backend = classic_config\n\
                     cluster_formation.classic_config.nodes.1 = rabbit0@localhost\n\
                     cluster_formation.classic_config.nodes.2 = rabbit{index}@localhost\n"
                );
                cluster.nodes.push(Node::new(&realm, &format!("rabbit{index}"), false, &options));
            }
            let (founder, others) = cluster.nodes.split_at_mut(1);
            founder[0].launch();
            let mut started = founder[0].await_ready();
            others.iter_mut().for_each(Node::launch);
            started = started && others.iter_mut().all(Node::await_ready);
            if started {
                cluster.wait_until_healthy();
                return Some(cluster);
            }
        }
        panic!("the cluster does not start");
    }

    /// Where clients find each node.
    pub fn urls(&self) -> Vec<String> {
        let url = |node: &Node| format!("amqp://guest:guest@127.0.0.1:{}/%2f", node.port());
        self.nodes.iter().map(url).collect()
    }

    /// All of them as one address with several hosts.
    pub fn url(&self) -> String {
        let host = |node: &Node| format!("127.0.0.1:{}", node.port());
        let hosts: Vec<_> = self.nodes.iter().map(host).collect();
        format!("amqp://guest:guest@{}/%2f", hosts.join(","))
    }

    /// The node that leads a quorum queue of the virtual host `/`; waits until there is one.
    pub fn leader_of(&self, queue: &str) -> usize {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        assert!(queue.chars().all(plain), "{queue:?} is no plain name");
        let expression = LEADER.replace("QUEUE", queue);
        let deadline = Instant::now() + AGREE_LIMIT;
        loop {
            for asked in self.nodes.iter().filter(|node| node.runs()) {
                let leader = asked.eval(&expression);
                let named = |index: &usize| leader.contains(&format!("rabbit{index}@"));
                // One that was killed a moment ago may still be remembered.
                let index = (0..self.nodes.len()).find(named);
                if let Some(index) = index.filter(|index| self.nodes[*index].runs()) {
                    return index;
                }
            }
            assert!(Instant::now() < deadline, "the queue {queue} has no leader");
            thread::sleep(place::POLL);
        }
    }

    /// Ends a node's Erlang machine without warning; see [`crate::RabbitMq::kill`].
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Asks a node to end, and waits until it has.
    pub fn stop(&mut self, node: usize) {
        self.nodes[node].stop();
    }

    /// Starts a node again, with the same data and at the same port. At least the one that ended
    /// last must run or start too, or it waits for it.
    pub fn start_again(&mut self, node: usize) {
        self.nodes[node].start();
    }

    /// Starts all nodes again that do not run.
    pub fn start_all_again(&mut self) {
        let mut ended: Vec<_> = self.nodes.iter_mut().filter(|node| !node.runs()).collect();
        ended.iter_mut().for_each(|node| node.launch());
        for node in ended {
            assert!(node.await_ready(), "a node has ended at its start:\n{}", node.log());
        }
    }

    /// Returns when all nodes run, know so of each other, and lead or follow in their queues.
    pub fn wait_until_healthy(&self) {
        let expression = HEALTHY.replace("NODES", &self.nodes.len().to_string());
        let deadline = Instant::now() + AGREE_LIMIT;
        while !self.nodes.iter().all(|node| node.runs() && node.eval(&expression) == "true") {
            assert!(Instant::now() < deadline, "the cluster is not healthy");
            thread::sleep(place::POLL);
        }
    }

    /// Runs `rabbitmqctl` for a node; takes most of a second.
    pub fn ctl(&self, node: usize, arguments: &[&str]) -> Output {
        self.nodes[node].ctl(arguments)
    }

    /// What an Erlang expression (without a full stop) comes to on a node. Takes milliseconds;
    /// panics if it fails.
    pub fn eval(&self, node: usize, expression: &str) -> String {
        self.nodes[node].eval(expression)
    }

    /// The last of what a node has logged.
    pub fn log(&self, node: usize) -> String {
        self.nodes[node].log()
    }

    /// Where all its files are.
    pub fn directory(&self) -> PathBuf {
        self.nodes[0].directory()
    }
}
