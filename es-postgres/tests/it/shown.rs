//! What the write path shows of itself.

use es_core::store::{Attempt, Commit, EventStore as _, ExpectedVersion};
use es_core::testing::Numbers;

use std::time::Instant;

use crate::support::{Gate, WAITING, append, commit, exact, fresh, new_id, row_of, until_count};

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

#[test]
fn the_wait_for_the_gate_is_shown_beside_the_flush() {
    let numbers = Numbers::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let held = metrics::with_local_recorder(&numbers, || {
        runtime.block_on(async {
            let (database, store) = fresh().await;
            let row = row_of("v/1", "a", 0, Some("1"));
            store.commit(Commit { rows: vec![row], ..Commit::default() }).await.unwrap();
            let gate = Gate::hold(database.url()).await;
            let waits = tokio::spawn(async move { store.commit(commit("s")).await });
            until_count(database.url(), WAITING, 1).await;
            let seen = Instant::now();
            until_count(database.url(), "select 1::bigint", 1).await;
            let held = seen.elapsed().as_secs_f64();
            gate.release().await;
            waits.await.unwrap().unwrap();
            held
        })
    });
    assert_eq!(numbers.of("es_write_turn_seconds queue=events"), 1.0, "{numbers:#?}");
    assert_eq!(numbers.of("es_write_turn_seconds queue=state"), 0.0, "rows alone need no gate: {numbers:#?}");
    let [turn, flush] =
        ["turn", "flush"].map(|what| numbers.sum(&format!("es_write_{what}_seconds queue=events")));
    assert!(held <= turn && turn <= flush, "{held} {turn} {flush}");
}
