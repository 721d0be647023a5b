//! RabbitMQ, several nodes.

use crate::client::{put, take};
use crate::traces::{assert_gone, processes};
use leveret_peers::RabbitCluster;

#[tokio::test]
async fn a_cluster_loses_its_leader() {
    let Some(mut cluster) = RabbitCluster::start(3) else { return };
    let urls = cluster.urls();
    put(&urls[0], "quorum", "voted", "one").await;
    cluster.wait_until_healthy();
    let leader = cluster.leader_of("voted");
    cluster.kill(leader);
    let next = cluster.leader_of("voted");
    assert_ne!(next, leader);
    put(&urls[next], "quorum", "voted", "two").await;
    cluster.start_again(leader);
    cluster.wait_until_healthy();
    assert_eq!(take(&urls[leader], "voted").await.as_deref(), Some("one"));
    let other = 3 - leader - next;
    assert_eq!(take(&urls[other], "voted").await.as_deref(), Some("two"));
    assert_eq!(cluster.url().matches("127.0.0.1").count(), 3);
    let directory = cluster.directory();
    let ids = processes(&directory);
    assert!(ids.len() > 4, "three machines, a port mapper and a keeper: {ids:?}");
    drop(cluster);
    assert_gone(&directory, &ids);
}
