//! What the write path shows of itself.

use es_core::store::{Attempt, EventStore as _, ExpectedVersion};
use es_core::testing::Numbers;

use crate::support::{append, commit, exact, fresh, new_id};

#[test]
fn the_write_path_shows_its_queues_its_batches_and_its_answers() {
    let numbers = Numbers::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&numbers, || {
        runtime.block_on(async {
            let (_database, store) = fresh().await;
            let commits = (0..20).map(|n| store.commit(commit(&format!("s{n}"))));
            futures::future::try_join_all(commits).await.unwrap();
            store.commit(exact("s0", 7)).await.unwrap_err();
            store.commit(append("s0", ExpectedVersion::Any, 3)).await.unwrap();
            let lost = Attempt { id: new_id(), appends: Vec::new() };
            store.resolve(&lost).await.unwrap();
        });
    });
    let of = |series: &str| numbers.of(series);
    assert_eq!(of("es_commits_total outcome=written"), 21.0, "{numbers:#?}");
    assert_eq!(of("es_commits_total outcome=conflict"), 1.0);
    assert_eq!(of("es_commits_resolved_total found=never"), 1.0);
    let batches = of("es_write_batch_commits queue=events");
    assert!((3.0..=22.0).contains(&batches), "{numbers:#?}");
    assert_eq!(of("es_write_batch_events queue=events"), batches);
    assert!(of("es_write_wait_seconds queue=events") >= 22.0, "one for each commit: {numbers:#?}");
    assert!(of("es_write_flush_seconds queue=events") >= 3.0);
    assert_eq!(of("es_write_waiting queue=events"), 0.0, "all were answered");
    assert_eq!(of("es_write_waiting_bytes queue=events"), 0.0);
}
