//! Views, checkpoints, reactors: P2, P7, P10, P12 to P14, and B33.

use std::time::Duration;

use super::data::{encoded, events};
use super::domain::{Account, deposited, opened, withdrawn};
use super::patient::{Patient, ask};
use super::reading::balance;
use super::readside::{Balance, RenamedBalance, SecondBalance, Welcome};
use super::{LIMIT, Subject, settle, start, store};
use crate::limits::MAX_PAGE;
use crate::store::{Backend, Position, RowStore, StoredRow};
use crate::{App, ErrorKind};

const VIEW: &str = "balance/1";

/// Opens and pays into `n` accounts.
async fn history<B: Backend + RowStore + Clone>(store: &Patient<B>, n: usize) {
    for i in 0..n {
        let account = format!("account-{i}");
        store
            .put(&account, vec![encoded(&opened("ada")), encoded(&deposited(10)), encoded(&withdrawn(3))])
            .await;
    }
}

/// Where a processor's checkpoints are: the one that is furthest behind, if it has several.
async fn checkpoint<B: Backend + RowStore + Clone>(store: &Patient<B>, name: &str) -> Option<Position> {
    let position = |row: StoredRow| {
        let rest = row.key.strip_prefix(name)?;
        rest.strip_prefix("~1").map_or(rest.is_empty(), is_share).then(|| {
            let json: serde_json::Value = serde_json::from_slice(&row.data).expect("a checkpoint is JSON");
            let position = json.as_u64().or_else(|| json["position"].as_u64());
            Position(position.expect("a checkpoint has a position"))
        })
    };
    ask(|| store.0.scan("checkpoints", None, MAX_PAGE)).await.into_iter().filter_map(position).min()
}

/// What may stand behind the name of a generation's checkpoint: nothing, or which share of the events it is for.
fn is_share(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('#')
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
    let late = app.wait_for::<Balance>(Position(1), Duration::ZERO).await.expect_err("nothing there");
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
    assert_eq!(checkpoint(&store, VIEW).await, Some(Position(1_500)), "stored, for the next start");
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
    let data = |rows: Vec<StoredRow>| rows.into_iter().map(|r| (r.key, r.data)).collect::<Vec<_>>();
    assert_eq!(data(before), data(after));
    assert_eq!(checkpoint(&store, VIEW).await, Some(Position(48)));
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
    let app = start(|| {
        let app = App::on(store.0.clone()).view::<Balance>().view::<RenamedBalance>();
        // As long as it is tried again, it is not parked.
        app.processor_retries(u32::MAX, Duration::from_millis(1), Duration::from_millis(5))
    })
    .await;
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
