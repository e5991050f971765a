//! Databases that hang, calls that never can go through, and rows that cannot be read, in transactions across databases: A30 to
//! A36, A50, A53 to A55, A60, A63, A64.

use std::sync::Arc;
use std::time::Duration;

use es_core::entropy::SystemEntropy;
use es_core::id::Ids;
use es_core::store::{BranchId, Participant as _, Table, write_rows};
use es_core::testing::conformance::double::{Double, Line};
use es_core::{App, ErrorKind, EventStore as _};
use es_postgres::PgParticipant;
use futures::future::join_all;
use sagas::two_phase::{Decision, PendingState, TwoPhase, TwoPhaseApp as _, TwoPhaseError};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::Subject;
use super::across::{Across, At, Fault, Gate, LIMIT, Partner, append, commit_event, crashes, write};

/// Longer than any call takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(1);

/// A node that waits for nothing for long.
fn impatient<S: Subject>(across: &Across<'_, S>) -> TwoPhase<S::Backend> {
    let node = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::ZERO).outage(Duration::ZERO);
    let node = across.databases.iter().fold(node, |node, (_, own)| node.participant(own.clone()));
    node.limit(PATIENCE).patience(PATIENCE).build().unwrap()
}

/// A30
pub(super) async fn a_database_that_hangs_holds_nobody_for_long<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let node = impatient(&across);
    let written = async |what: &str, databases: usize| {
        let mut tx = node.begin();
        for i in 0..databases {
            write(&mut tx, across.at(i), what).await;
        }
        tx
    };
    // It is decided.
    let _gate = across.at(1).stops(At::Commit, false);
    let done = timeout(LIMIT, written("one", 2).await.commit()).await.expect("it answers").unwrap();
    assert_eq!(done.pending, ["billing"]);
    done.wait_all().await.unwrap();
    // It is not prepared, nor taken back: the store is left to others.
    let mut tx = written("two", 2).await;
    append(&mut tx, "two").await;
    let _gates = [across.at(1).stops(At::Prepare, false), across.at(0).stops(At::Abort, false)];
    let commit = timeout(LIMIT, tx.commit()).await.expect("it answers");
    assert!(matches!(commit.unwrap_err(), TwoPhaseError::Aborted { .. }));
    commit_event(&across.backend, "other").await;
    across.another_node().await.recover().await.unwrap();
    // Nobody can say what became of it.
    across.at(0).will(At::Alone, Fault::Lost);
    let _gate = across.at(0).stops(At::Outcome, false);
    let commit = timeout(LIMIT, written("three", 1).await.commit()).await.expect("it answers");
    assert!(matches!(commit.unwrap_err(), TwoPhaseError::Unknown(_)));
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, across.have("two").await, across.events().await), (2, 0, 1));
}

/// A31
pub(super) async fn what_ends_a_branch_does_not_wait_behind_those_that_wait_for_it<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    across.by_hand(0, "insert into done values ('lamp')".to_owned()).await;
    let pool = PgPoolOptions::new().max_connections(1).connect(across.databases[0].0.url()).await.unwrap();
    let stock = Partner::new(PgParticipant::new("stock", pool).unwrap());
    let node = TwoPhase::on(across.backend.clone()).unwrap();
    let node = node.participant(stock.clone()).participant(across.at(1).clone()).build().unwrap();
    let sells = async |what: &str| {
        let mut tx = node.begin();
        write(&mut tx, across.at(1), what).await;
        let branch = tx.branch(&stock).await.unwrap();
        let update = sqlx::query("update done set what = 'lamp' where what = 'lamp'");
        update.execute(&mut *branch.inner).await.unwrap();
        tx.commit().await.unwrap()
    };
    let gate = stock.stops(At::Prepare, true);
    let first = sells("one");
    let second = async {
        gate.met().await;
        sells("two").await
    };
    // The second one has the only connection, and waits for the row.
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let lets_go = async {
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(across.pool(0)).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        gate.let_go();
    };
    let (one, two, ()) = futures::join!(first, second, lets_go);
    assert_eq!((one.pending, two.pending), (vec![], vec![]));
    across.is_at_rest().await;
}

/// A32
pub(super) async fn one_branch_that_cannot_be_ended_keeps_no_other<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let first = across.written("one").await;
    let txn = first.id();
    for tx in [first, across.written("two").await] {
        let gates = [0, 1].map(|i| across.at(i).stops(At::Commit, false));
        crashes(tx.commit(), &gates).await;
    }
    across.at(0).refuses(Some(txn));
    let found = across.two_phase.recover().await.unwrap();
    assert_eq!((found.committed, found.settled), (3, 3));
    assert!(found.failed["stock"].contains("it cannot be ended"));
    // Whoever waits is told as well, and waits no longer.
    let tx = across.written("three").await;
    across.at(0).refuses(Some(tx.id()));
    let done = tx.commit().await.unwrap();
    assert_eq!(done.pending, ["stock"]);
    let error = timeout(LIMIT, done.wait_all()).await.expect("it answers").unwrap_err();
    assert!(matches!(error, TwoPhaseError::Waiting { .. }) && error.kind() == ErrorKind::Misuse, "{error}");
    across.at(0).refuses(None);
    done.wait_all().await.unwrap();
    across.at(0).refuses(Some(txn));
    let pending = across.two_phase.pending().await.unwrap();
    let [stock] = &pending[..] else { panic!("{pending:?}") };
    assert_eq!((stock.branch.as_str(), stock.state), ("stock", PendingState::Waits));
    assert_eq!(stock.why.as_deref(), Some("it cannot be ended"));
    assert_eq!((across.have("one").await, across.have("two").await), (1, 2));
    across.at(0).refuses(None);
    assert_eq!(across.two_phase.recover().await.unwrap().settled, 1);
    across.is_at_rest().await;
}

/// A33
pub(super) async fn a_participant_that_hangs_takes_a_look_no_longer_than_one_answer<S: Subject>(subject: &S) {
    const MANY: u32 = 8;
    let across = Across::open(subject, 2).await;
    for n in 0..MANY {
        let gates = [0, 1].map(|i| across.at(i).stops(At::Prepare, true));
        crashes(across.written(&n.to_string()).await.commit(), &gates).await;
    }
    let _gates: Vec<Gate> = (0..2 * MANY).map(|_| across.at(0).stops(At::Abort, false)).collect();
    let begun = Instant::now();
    let found = impatient(&across).recover().await.unwrap();
    assert!(begun.elapsed() < PATIENCE * (MANY - 2), "{:?}", begun.elapsed());
    assert_eq!(found.aborted, u64::from(MANY));
    assert_eq!((found.in_doubt["stock"].branches, across.prepared(1).await.len()), (u64::from(MANY), 0));
    across.another_node().await.recover().await.unwrap();
    across.is_at_rest().await;
}

/// A34
pub(super) async fn a_row_that_cannot_be_read_keeps_no_other<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let early = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
    let open = Table::<Value>::new("hot.two-phase.open").unwrap();
    let damaged = json!({ "decision": "commit", "branches": { "stock": { "odd": "of-tomorrow" } } });
    let damaged = open.insert(early.simple().to_string(), damaged).unwrap();
    assert!(write_rows(&across.backend, vec![damaged]).await.unwrap().is_yes());
    let gates = [0, 1].map(|i| across.at(i).stops(At::Commit, false));
    crashes(across.written("one").await.commit(), &gates).await;
    let another = across.another_node().await;
    let found = another.recover().await.unwrap();
    assert_eq!((found.settled, found.unread.len()), (2, 1));
    let app = App::on(across.backend.clone()).two_phase(&another).start().await.unwrap();
    app.shutdown(Duration::from_secs(10)).await;
    let pending = another.pending().await.unwrap();
    let [unread] = &pending[..] else { panic!("{pending:?}") };
    assert_eq!((unread.txn, unread.state, unread.decision), (early, PendingState::Unread, None));
    assert!(unread.why.as_ref().is_some_and(|why| why.contains("of-tomorrow")), "{unread:?}");
    another.accept(early, &unread.branch, "ada", "looked at by hand").await.unwrap();
    across.is_at_rest().await;
}

/// A35
pub(super) async fn recovery_leaves_to_its_coordinator_what_was_just_decided<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let gates = [0, 1].map(|i| across.at(i).stops(At::Commit, false));
    // One of before, or after, a deploy that adds a participant.
    let patient = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::from_secs(3_600));
    let patient = patient.participant(across.at(0).inner.clone()).build().unwrap();
    let looks = async {
        futures::join!(gates[0].met(), gates[1].met());
        let found = patient.recover().await.unwrap();
        assert_eq!((found.committed, found.settled), (0, 0));
        assert!(found.missing.is_empty() && found.unfinished.is_empty(), "{found:?}");
        patient.check().await.unwrap();
        gates.iter().for_each(Gate::let_go);
    };
    let (done, ()) = futures::join!(across.written("one").await.commit(), looks);
    assert_eq!(done.unwrap().pending, [""; 0]);
    across.is_at_rest().await;
}

/// A36
pub(super) async fn a_branch_begins_where_it_is_ended<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let shop = Partner::new(across.at(0).inner.clone().with_prefix("shop").unwrap());
    let node = TwoPhase::on(across.backend.clone()).unwrap().participant(shop.clone());
    let node = node.participant(across.at(1).clone()).build().unwrap();
    let mut tx = node.begin();
    // Through a handle with another prefix.
    write(&mut tx, across.at(0), "one").await;
    write(&mut tx, across.at(1), "one").await;
    assert_eq!(tx.commit().await.unwrap().pending, [""; 0]);
    across.is_at_rest().await;
    assert_eq!(across.have("one").await, 2);
    // What is prepared under another name is not taken for rolled back.
    let txn = Ids::default().next();
    let id = BranchId::new(across.backend.identity(), txn, "stock").unwrap();
    let prepares = format!("begin; insert into done values ('two'); prepare transaction 'es:{id}'");
    across.by_hand(0, prepares).await;
    for ended in [shop.commit(&id).await, shop.abort(&id).await] {
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains("is prepared as \"es:"), "{error}");
    }
    across.by_hand(0, format!("rollback prepared 'es:{id}'")).await;
}

/// A50
pub(super) async fn what_is_to_be_rolled_back_where_nobody_looks_is_shown<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let node = |databases: &[usize]| {
        let ids = Ids::new(Arc::new(across.clock.clone()), Arc::new(SystemEntropy));
        let node = TwoPhase::on(across.backend.clone()).unwrap().ids(ids);
        let node = node.grace(Duration::ZERO).outage(Duration::ZERO);
        databases.iter().fold(node, |node, i| node.participant(across.at(*i).clone())).build().unwrap()
    };
    let tx = across.written("one").await;
    let txn = tx.id();
    crashes(tx.commit(), &[0, 1].map(|i| across.at(i).stops(At::Prepare, true))).await;
    across.at(1).will(At::Scan, Fault::Lost);
    across.at(1).will(At::Abort, Fault::Lost);
    assert_eq!(node(&[0, 1]).recover().await.unwrap().aborted, 1);
    let without = node(&[0]);
    // A node that knows it may be at it.
    assert!(without.recover().await.unwrap().abandoned.is_empty());
    assert_eq!(without.pending().await.unwrap(), []);
    across.clock.advance(Duration::from_secs(120));
    let found = without.recover().await.unwrap();
    assert_eq!(found.abandoned.iter().collect::<Vec<_>>(), ["billing"]);
    assert!(found.missing.is_empty());
    let pending = without.pending().await.unwrap();
    let [billing] = &pending[..] else { panic!("{pending:?}") };
    assert_eq!(
        (billing.txn, billing.branch.as_str(), billing.state),
        (txn, "billing", PendingState::Missing)
    );
    assert_eq!(billing.decision, Some(Decision::Abort));
    without.check().await.unwrap();
    without.accept(txn, "billing", "ada", "it is no more").await.unwrap();
    assert_eq!(without.pending().await.unwrap(), []);
}

/// A53
pub(super) async fn a_participant_that_is_slow_takes_its_share_of_a_look<S: Subject>(subject: &S) {
    const MANY: usize = 6;
    let across = Across::open(subject, 2).await;
    for n in 0..MANY {
        let gates = [0, 1].map(|i| across.at(i).stops(At::Commit, false));
        crashes(across.written(&n.to_string()).await.commit(), &gates).await;
    }
    // No answer is late, and all of them together are.
    for _ in 0..2 * MANY {
        across.at(0).will(At::Commit, Fault::Slow(PATIENCE.mul_f64(0.8)));
    }
    let begun = Instant::now();
    let found = impatient(&across).recover().await.unwrap();
    assert!(begun.elapsed() < PATIENCE.mul_f64(0.8) * 8, "{:?}", begun.elapsed());
    assert!(found.in_doubt["stock"].branches >= 3, "{found:?}");
    assert_eq!(across.prepared(1).await.len(), 0);
    across.another_node().await.recover().await.unwrap();
    across.is_at_rest().await;
}

/// A54
pub(super) async fn a_database_that_hangs_holds_no_beginning_and_no_start<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let node = impatient(&across);
    let mut tx = node.begin();
    append(&mut tx, "one").await;
    let _gate = across.at(1).stops(At::Begin, false);
    let branch = timeout(LIMIT, tx.branch(across.at(1))).await.expect("it answers");
    assert_eq!(branch.map(drop).unwrap_err().kind(), ErrorKind::Transient);
    tx.rollback().await;
    commit_event(&across.backend, "other").await;
    let _gate = across.at(0).stops(At::Check, false);
    let app = timeout(LIMIT, App::on(across.backend.clone()).two_phase(&node).start()).await;
    app.expect("it starts").unwrap().shutdown(Duration::from_secs(10)).await;
}

/// A55
pub(super) async fn many_decide_at_the_same_time<S: Subject>(subject: &S) {
    let across = Across::open(subject, 0).await;
    let doubts: Vec<_> = (0..64).map(|_| across.two_phase.begin().doubt()).collect();
    for decision in join_all(doubts.iter().map(|doubt| across.two_phase.resolve(doubt))).await {
        assert_eq!(decision.unwrap(), Decision::Abort);
    }
}

/// A60
pub(super) async fn a_participant_that_hangs_is_waited_for_no_longer_than_an_outage<S: Subject>(subject: &S) {
    let across = Across::open(subject, 3).await;
    let node = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::ZERO);
    let node = across.databases.iter().fold(node, |node, (_, own)| node.participant(own.clone()));
    let node = node.outage(PATIENCE).limit(PATIENCE / 5).build().unwrap();
    let mut tx = across.two_phase.begin();
    for i in 1..3 {
        write(&mut tx, across.at(i), "one").await;
    }
    crashes(tx.commit(), &[1, 2].map(|i| across.at(i).stops(At::Prepare, true))).await;
    // Both ask it at the same time.
    across.at(0).hangs(At::Marked, None);
    let found = node.recover().await.unwrap();
    assert!(found.aborted == 0 && found.failed.contains_key("stock"), "{found:?}");
    let ends = async {
        let mut aborted = 0;
        while aborted < 2 {
            aborted += node.recover().await.unwrap().aborted;
        }
    };
    timeout(PATIENCE * 20, ends).await.expect("they are rolled back without it");
    across.is_at_rest().await;
}

/// A63
pub(super) async fn a_row_of_the_list_that_hangs_keeps_no_other_for_ever<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let node = impatient(&across);
    let first = across.written("one").await;
    let txn = first.id();
    for tx in [first, across.written("two").await] {
        crashes(tx.commit(), &[0, 1].map(|i| across.at(i).stops(At::Commit, false))).await;
        // By hand, as was decided: it is on the list, and prepared nowhere.
        for i in 0..2 {
            let gid = across.prepared(i).await.pop().unwrap();
            across.by_hand(i, format!("commit prepared '{gid}'")).await;
        }
    }
    across.at(0).hangs(At::Commit, Some(txn));
    let mut settled = 0;
    for _ in 0..2 {
        settled += node.recover().await.unwrap().settled;
    }
    assert_eq!(settled, 3);
    let pending = node.pending().await.unwrap();
    let [stock] = &pending[..] else { panic!("{pending:?}") };
    assert_eq!((stock.txn, stock.branch.as_str()), (txn, "stock"));
    across.at(0).forget_faults();
    node.recover().await.unwrap();
    across.is_at_rest().await;
}

/// A64
pub(super) async fn a_store_that_is_slow_takes_its_share_of_a_look<S: Subject>(subject: &S) {
    const MANY: u32 = 10;
    let across = Across::open(subject, 2).await;
    for n in 0..MANY {
        let gates = [0, 1].map(|i| across.at(i).stops(At::Prepare, true));
        crashes(across.written(&n.to_string()).await.commit(), &gates).await;
    }
    let (store, slow) = (Double::new(across.backend.clone()), PATIENCE.mul_f64(0.6));
    let node = TwoPhase::on(store.clone()).unwrap().grace(Duration::ZERO).limit(PATIENCE);
    let node = across.databases.iter().fold(node, |node, (_, own)| node.participant(own.clone()));
    let node = node.build().unwrap();
    // No answer is late, and all of them together are.
    store.set(Line::Slow(slow));
    let begun = Instant::now();
    let found = node.recover().await.unwrap();
    assert!(begun.elapsed() < slow * (MANY + 4), "{:?}", begun.elapsed());
    assert!(found.aborted > 0 && found.in_doubt["stock"].branches >= u64::from(MANY / 2), "{found:?}");
    store.set(Line::Up);
    node.recover().await.unwrap();
    across.is_at_rest().await;
}
