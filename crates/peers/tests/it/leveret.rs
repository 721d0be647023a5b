//! leveret.

use crate::client::{assert_greets, put, take};
use crate::traces::assert_gone;
use leveret_peers::Leveret;

#[tokio::test]
async fn a_broker_keeps_its_messages() {
    let mut leveret = Leveret::start();
    assert_greets(leveret.port());
    put(&leveret.url(), "classic", "kept", "one").await;
    leveret.kill();
    assert_eq!(leveret.id(), None);
    leveret.start_again();
    put(&leveret.url(), "classic", "kept", "two").await;
    leveret.stop();
    leveret.start_again();
    for text in [Some("one"), Some("two"), None] {
        assert_eq!(take(&leveret.url(), "kept").await.as_deref(), text);
    }
    let directory = leveret.directory().to_owned();
    let id = leveret.id().expect("it runs");
    drop(leveret);
    assert_gone(&directory, &[id]);
}
