//! What was handled is remembered in a file: by the next process, and for each queue.

use std::time::Duration;

use leveret::{Bus, Cx, Dedup, Text};
use tokio::sync::mpsc;

#[tokio::test(start_paused = true)]
async fn the_next_program_knows_what_was_handled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handled");
    let (seen, mut handled) = mpsc::unbounded_channel();
    for round in 0..3 {
        let bus = Bus::connect("memory:").await.expect("a bus");
        let dedup = Dedup::in_file(&path, Duration::from_secs(3600)).await.unwrap();
        for queue in ["billing", "shipping"] {
            let seen = seen.clone();
            bus.consume(queue, move |_: Text, cx: Cx| {
                let _ = seen.send(format!("{queue} {}", cx.id()));
                async { Ok(()) }
            })
            .dedup(dedup.clone())
            .concurrency(4)
            .start()
            .await
            .unwrap();
            for id in ["first", "again", "again"] {
                let id = if id == "first" { format!("{id}-{round}") } else { id.to_owned() };
                bus.send(queue, &Text::from("hello")).id(id).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        bus.close().await;
    }
    drop(seen);
    let mut all = Vec::new();
    while let Some(one) = handled.recv().await {
        all.push(one);
    }
    all.sort();
    let first = |queue| (0..3).map(move |round| format!("{queue} first-{round}"));
    let once = |queue: &str| vec![format!("{queue} again")];
    let expected: Vec<String> = [once("billing"), first("billing").collect()]
        .into_iter()
        .chain([once("shipping"), first("shipping").collect()])
        .flatten()
        .collect();
    assert_eq!(all, expected);
}
