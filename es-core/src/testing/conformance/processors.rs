//! Views, checkpoints, reactors: P1, P7, P10, P12 to P14, and B33.

use super::data::{ANY, append, encoded, events, id};
use super::domain::{Account, deposited, opened, withdrawn};
use super::patient::{Patient, ask};
use super::reading::balance;
use super::readside::{Balance, RenamedBalance, SecondBalance, Welcome};
use super::{LIMIT, Subject, settle, start, store};
use crate::projection::tables_of;
use crate::store::{
    Backend, CheckpointMove, Commit, CommitError, EventStore, Position, ViewStore, ViewWrite,
};
use crate::{App, ErrorKind};

const VIEW: &str = "balance/1";

fn step(name: &str, from: Option<u64>, to: Option<u64>) -> Commit {
    let step = CheckpointMove { name: name.to_owned(), from: from.map(Position), to: to.map(Position) };
    Commit { checkpoints: vec![step], ..Commit::default() }
}

fn row(key: &str, rev: u64, data: Option<&str>) -> Commit {
    let row = data.map(|d| d.to_owned().into());
    Commit {
        views: vec![ViewWrite { view: "v/1".into(), key: key.to_owned(), rev, row }],
        ..Commit::default()
    }
}

/// Opens and pays into `n` accounts.
async fn history<B: Backend + ViewStore + Clone>(store: &Patient<B>, n: usize) {
    for i in 0..n {
        let account = format!("account-{i}");
        store
            .put(&account, vec![encoded(&opened("ada")), encoded(&deposited(10)), encoded(&withdrawn(3))])
            .await;
    }
}

/// P4
pub async fn a_checkpoint_moves_only_from_where_it_is<S: Subject>(subject: S) {
    let store = store(&subject).await;
    assert_eq!(store.checkpoint("p").await, None);
    store.commit(step("p", None, Some(3))).await.expect("the first move");
    for stale in [step("p", None, Some(9)), step("p", Some(2), Some(9)), step("q", Some(3), Some(9))] {
        let refused = store.commit(stale).await.expect_err("it is elsewhere");
        assert!(matches!(refused, CommitError::Fenced { .. }), "{refused:?}");
        assert_eq!(refused.kind(), ErrorKind::Conflict);
    }
    store.commit(step("p", Some(3), Some(5))).await.expect("from where it is");
    store.commit(step("q", None, Some(1))).await.expect("another one");
    let mut all = ask(|| store.0.checkpoints()).await;
    all.sort();
    assert_eq!(all, [("p".to_owned(), Position(5)), ("q".to_owned(), Position(1))]);
    store.commit(step("p", Some(5), None)).await.expect("forgotten");
    assert_eq!(store.checkpoint("p").await, None);
}

/// P1
pub async fn rows_and_checkpoint_are_written_together_or_not_at_all<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let both = |rev, from| Commit {
        checkpoints: step("v/1", from, Some(9)).checkpoints,
        ..row("k", rev, Some("new"))
    };
    store.commit(both(1, None)).await.expect_err("there is no such row");
    assert_eq!((store.checkpoint("v/1").await, store.row("v/1", "k").await), (None, None));
    store.commit(both(0, Some(1))).await.expect_err("it never moved");
    assert_eq!((store.checkpoint("v/1").await, store.row("v/1", "k").await), (None, None));
    let with_events = Commit { appends: append(&id("a"), ANY, events(1)).appends, ..both(0, Some(1)) };
    store.commit(with_events).await.expect_err("it never moved");
    assert_eq!(store.head().await, 0);
    store.commit(both(0, None)).await.expect("both hold");
    assert_eq!(store.checkpoint("v/1").await, Some(Position(9)));
}

/// P1
pub async fn a_row_is_written_only_at_the_revision_that_was_read<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.commit(row("k", 0, Some("one"))).await.expect("not there yet");
    store.commit(row("k", 0, Some("again"))).await.expect_err("there by now");
    let read = store.row("v/1", "k").await.expect("there");
    assert_eq!((read.key.as_str(), read.rev, &*read.data), ("k", 1, &b"one"[..]));
    store.commit(row("k", 1, Some("two"))).await.expect("at the revision");
    let refused = store.commit(row("k", 1, None)).await.expect_err("somebody was faster");
    assert!(matches!(refused, CommitError::Fenced { .. }), "{refused:?}");
    store.commit(row("k", 2, None)).await.expect("deleted");
    assert_eq!(store.row("v/1", "k").await, None);
}

/// P1
pub async fn rows_are_scanned_in_the_order_of_their_keys<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for key in ["b", "a%", "a", "B", "ä", "a_"] {
        store.commit(row(key, 0, Some(key))).await.expect("a new row");
    }
    let scan = |after: Option<&'static str>, limit| {
        let store = store.clone();
        async move {
            ask(|| store.0.scan("v/1", after, limit)).await.into_iter().map(|r| r.key).collect::<Vec<_>>()
        }
    };
    assert_eq!(scan(None, 100).await, ["B", "a", "a%", "a_", "b", "ä"], "bytewise");
    assert_eq!(scan(Some("a"), 2).await, ["a%", "a_"]);
    assert_eq!(scan(Some("aa"), 2).await, ["b", "ä"]);
    assert!(scan(Some("ä"), 2).await.is_empty());
    assert!(ask(|| store.0.scan("v/2", None, 10)).await.is_empty(), "another version has rows of its own");
    let keys = ["b", "missing", "a"].map(str::to_owned);
    let rows = ask(|| store.0.rows("v/1", &keys)).await;
    assert_eq!(
        rows.iter().map(|r| r.as_ref().map(|r| &*r.key)).collect::<Vec<_>>(),
        [Some("b"), None, Some("a")]
    );
}

/// P13
pub async fn wait_for_returns_when_the_view_has_taken_the_position_in<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    for i in 1..=5 {
        let done = store.put("account-a", vec![encoded(&deposited(1))]).await;
        app.wait_for::<Balance>(done.position, LIMIT).await.expect("taken in");
        assert_eq!(balance(&app, "a").await, Some(Balance { amount: i, n_payments: i.unsigned_abs() }));
    }
    let done = store.put("other", events(3)).await;
    app.wait_for::<Balance>(done.position, LIMIT).await.expect("what does not match counts as taken in");
}

/// P13
pub async fn wait_for_says_so_when_the_position_is_not_reached<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    let late =
        app.wait_for::<Balance>(Position(1), std::time::Duration::ZERO).await.expect_err("nothing there");
    assert_eq!(late.kind(), ErrorKind::Transient);
    assert!(crate::chain(&late).contains("did not reach #1"), "{}", crate::chain(&late));
    let missing = app.wait_for::<RenamedBalance>(Position(1), LIMIT).await.expect_err("it does not run here");
    assert_eq!(missing.kind(), ErrorKind::Misuse);
}

/// P7
pub async fn a_checkpoint_passes_events_that_match_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for _ in 0..3 {
        store.put("noise", events(500)).await;
    }
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    assert_eq!(store.checkpoint(VIEW).await, Some(Position(1_500)), "stored, for the next start");
}

/// P14
pub async fn a_restart_goes_on_without_repeating_what_was_taken_in<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for round in 1..=4 {
        history(&store, 3).await;
        let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
        settle(&app).await;
        let expected = Balance { amount: 7, n_payments: 2 * round };
        assert_eq!(balance(&app, "1").await, Some(expected));
        assert!(app.shutdown(LIMIT).await);
    }
}

/// P12
pub async fn rebuilt_rows_equal_those_built_step_by_step<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    for _ in 0..4 {
        history(&store, 4).await;
        settle(&app).await;
    }
    let before = ask(|| store.0.scan(VIEW, None, 100)).await;
    while let Err(error) = app.rebuild::<Balance>().await {
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    }
    settle(&app).await;
    let after = ask(|| store.0.scan(VIEW, None, 100)).await;
    let data =
        |rows: Vec<crate::store::ViewRow>| rows.into_iter().map(|r| (r.key, r.data)).collect::<Vec<_>>();
    assert_eq!(data(before), data(after));
    assert_eq!(store.checkpoint(VIEW).await, Some(Position(48)));
}

/// P12
pub async fn a_reset_forgets_rows_and_checkpoint_of_that_view_alone<S: Subject>(subject: S) {
    let store = store(&subject).await;
    history(&store, 2).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().view::<RenamedBalance>()).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    let tables = tables_of::<Balance>();
    ask(|| store.0.reset(&tables)).await;
    assert!(ask(|| store.0.scan(VIEW, None, 100)).await.is_empty());
    assert_eq!(store.checkpoint(VIEW).await, None);
    assert_eq!(store.checkpoint("saldo/1").await, Some(Position(6)));
    ask(|| store.0.reset(&tables)).await;
}

/// P2
pub async fn two_nodes_with_one_view_take_each_event_in_once<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    let one = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    let two = start(|| App::on(other.0.clone()).view::<Balance>()).await;
    for _ in 0..5 {
        history(&store, 2).await;
    }
    settle(&one).await;
    settle(&two).await;
    for app in [&one, &two] {
        assert_eq!(balance(app, "0").await, Some(Balance { amount: 7, n_payments: 10 }));
    }
}

/// P10
pub async fn a_reactor_begins_with_the_events_after_its_first_activation<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let welcome = Welcome::default();
    let wiring = || App::on(store.0.clone()).view::<Balance>().reactor(welcome.clone());
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = start(wiring).await;
    store.put("account-b", vec![encoded(&opened("bob"))]).await;
    settle(&app).await;
    assert_eq!(without_repeats(&welcome), ["bob"]);
    while app.rebuild::<Balance>().await.is_err() {}
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    store.put("account-c", vec![encoded(&opened("cyd"))]).await;
    settle(&start(wiring).await).await;
    assert_eq!(without_repeats(&welcome), ["bob", "cyd"], "not again on a rebuild or a restart");
}

/// At least once: a store that loses an answer makes a reactor act on the same event twice in a row.
fn without_repeats(welcome: &Welcome) -> Vec<String> {
    let mut welcomed = welcome.welcomed();
    welcomed.dedup();
    welcomed
}

/// P10
pub async fn a_reactor_that_fails_or_panics_is_tried_again_and_keeps_the_order<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let welcome = Welcome::default();
    let app = start(|| App::on(store.0.clone()).view::<Balance>().reactor(welcome.clone())).await;
    welcome.fail(3);
    for owner in ["ada", "bob", "cyd"] {
        store.put(&format!("account-{owner}"), vec![encoded(&opened(owner))]).await;
    }
    app.wait_for::<Balance>(Position(3), LIMIT).await.expect("no other processor waits");
    settle(&app).await;
    assert_eq!(without_repeats(&welcome), ["ada", "bob", "cyd"]);
}

/// P2, R9
pub async fn a_view_that_fails_stops_where_it_is_and_says_so<S: Subject>(subject: S) {
    let store = store(&subject).await;
    history(&store, 1).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().view::<RenamedBalance>()).await;
    settle(&app).await;
    store.put("account-0", vec![super::data::raw("account.deposited", 3, "{}")]).await;
    store.put("account-1", vec![encoded(&opened("bob"))]).await;
    app.wait_for::<RenamedBalance>(Position(5), LIMIT).await.expect("no other processor waits");
    let processor = app.processor::<Balance>().expect("it runs");
    let failing = |s: &crate::processor::ProcessorStatus| match &s.state {
        crate::processor::ProcessorState::Failing { error, .. } => error.contains("missing field `amount`"),
        _ => false,
    };
    processor.watch().wait_for(failing).await.expect("it runs");
    assert_eq!(processor.status().position, Position(3));
    assert_eq!(store.row(VIEW, "1").await, None, "nothing behind it was taken in");
    assert!(!app.health().await.is_healthy());
}

/// B33
pub async fn two_projections_with_one_name_do_not_start<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let error = App::on(store.0.clone())
        .view::<Balance>()
        .view::<SecondBalance>()
        .start()
        .await
        .expect_err("one name");
    assert!(error.to_string().contains(r#"two processors are named "balance""#), "{error}");
}

/// P14
pub async fn processors_end_with_the_app_that_is_dropped<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    settle(&app).await;
    let mut status = app.processor::<Balance>().expect("it runs").watch();
    drop(app);
    let ended = |s: &crate::processor::ProcessorStatus| s.state == crate::processor::ProcessorState::Stopped;
    // The channel is closed only once the task has ended: that is an end as well.
    drop(status.wait_for(ended).await);
    history(&store, 1).await;
    assert_eq!(store.row(VIEW, "0").await, None);
}

/// X8
pub async fn a_view_equals_the_fold_of_the_log<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    history(&store, 5).await;
    history(&store, 3).await;
    settle(&app).await;
    for i in 0..5_u64 {
        let key = i.to_string();
        let account = loop {
            if let Ok(found) = app.load::<Account>(&key).await {
                break found.expect("there");
            }
        };
        let times: i64 = if i < 3 { 2 } else { 1 };
        assert_eq!((account.balance, account.n_events), (7 * times, 3 * times.unsigned_abs()));
        let row = balance(&app, &key).await.expect("there");
        assert_eq!(row.n_payments, 2 * times.unsigned_abs());
    }
}
