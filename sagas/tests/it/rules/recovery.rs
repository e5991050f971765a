//! What becomes of transactions across databases whose nodes, databases or operators fail: A10 to A18, A23, A24, A69.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::store::BranchId;
use es_core::{App, Backend as _, ErrorKind, EventStore as _};
use es_postgres::PgParticipant;
use sagas::two_phase::{AbortedBy, Decision, Odd, PendingState, TwoPhase, TwoPhaseApp as _, TwoPhaseError};
use tokio::time::timeout;
use uuid::Uuid;

use super::Subject;
use super::across::{Across, At, Fault, Gate, LIMIT, Partner, crashes, with, write};

/// Where a node is gone: which calls stop, at which of two databases, before or after.
type Point = [(At, bool); 2];

/// A10
pub(super) async fn wherever_a_node_is_gone_all_is_committed_or_nothing<S: Subject>(subject: &S) {
    let points: [(&str, Point, bool); 6] = [
        ("prepare 0", [(At::Prepare, false), (At::Prepare, false)], false),
        ("prepare 1", [(At::Prepare, true), (At::Prepare, false)], false),
        ("prepare 2", [(At::Prepare, true), (At::Prepare, true)], false),
        ("decision", [(At::Commit, false), (At::Commit, false)], true),
        ("commit 1", [(At::Commit, true), (At::Commit, false)], true),
        ("commit 2", [(At::Commit, true), (At::Commit, true)], true),
    ];
    let across = Across::open(subject, 2).await;
    let mut events = 0;
    for with_event in [false, true] {
        for (point, stops, is_committed) in points {
            let what = format!("{point} {with_event}");
            let tx = match with_event {
                true => across.written_with_event(&what).await,
                false => across.written(&what).await,
            };
            let gates: Vec<_> =
                stops.into_iter().enumerate().map(|(i, (at, after))| across.at(i).stops(at, after)).collect();
            crashes(tx.commit(), &gates).await;
            let another = across.another_node().await;
            another.recover().await.unwrap();
            across.is_at_rest().await;
            assert_eq!(across.have(&what).await, if is_committed { 2 } else { 0 }, "{what}");
            events += usize::from(is_committed && with_event);
            assert_eq!(across.events().await, events, "{what}");
            // Once more: there is nothing left.
            let again = another.recover().await.unwrap();
            assert_eq!((again.committed, again.aborted, again.settled), (0, 0, 0), "{what}");
        }
    }
    // Behind the end nothing is left for others.
    across.written("end").await.commit().await.unwrap();
    across.is_at_rest().await;
    assert_eq!(across.another_node().await.recover().await.unwrap().committed, 0);
    assert_eq!(across.have("end").await, 2);
}

/// A11
pub(super) async fn a_coordinator_that_is_slow_loses_to_recovery<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    // In a file there is one writer: recovery waits until the coordinator is gone.
    let cases: &[bool] = if across.backend.has_one_writer() { &[false] } else { &[false, true] };
    for with_event in cases.iter().copied() {
        let what = if with_event { "with event" } else { "alone" };
        let tx = match with_event {
            true => across.written_with_event(what).await,
            false => across.written(what).await,
        };
        let gates = [across.at(0).stops(At::Prepare, true), across.at(1).stops(At::Prepare, true)];
        let another = across.another_node().await;
        let recovers = async {
            futures::join!(gates[0].met(), gates[1].met());
            let found = another.recover().await.unwrap();
            assert_eq!((found.committed, found.aborted), (0, 2));
            gates.iter().for_each(Gate::let_go);
        };
        let (error, ()) = futures::join!(tx.commit(), recovers);
        let error = error.unwrap_err();
        assert!(matches!(error, TwoPhaseError::Aborted { why: AbortedBy::Overtaken, .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Transient);
        across.is_at_rest().await;
        assert_eq!((across.have(what).await, across.events().await), (0, 0));
    }
    // Once it is decided, recovery does the same, and both are right.
    let tx = across.written("decided").await;
    let gates = [across.at(0).stops(At::Commit, false), across.at(1).stops(At::Commit, false)];
    let another = across.another_node().await;
    let recovers = async {
        futures::join!(gates[0].met(), gates[1].met());
        assert_eq!(another.recover().await.unwrap().committed, 2);
        gates.iter().for_each(Gate::let_go);
    };
    let (done, ()) = futures::join!(tx.commit(), recovers);
    assert_eq!(done.unwrap().pending, [""; 0]);
    across.is_at_rest().await;
    assert_eq!(across.have("decided").await, 2);
}

/// A12
pub(super) async fn recovery_leaves_what_is_young_to_its_coordinator<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let gates = [across.at(0).stops(At::Prepare, true), across.at(1).stops(At::Prepare, true)];
    let patient = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::from_secs(3_600));
    let patient = patient.participant(across.at(0).inner.clone()).participant(across.at(1).inner.clone());
    let patient = patient.build().unwrap();
    let looks = async {
        futures::join!(gates[0].met(), gates[1].met());
        let found = patient.recover().await.unwrap();
        assert_eq!((found.committed, found.aborted), (0, 0));
        assert_eq!(found.in_doubt.values().map(|waiting| waiting.branches).collect::<Vec<_>>(), [1, 1]);
        assert!(found.in_doubt.values().all(|waiting| waiting.oldest < Duration::from_secs(3_600)));
        gates.iter().for_each(Gate::let_go);
    };
    let (done, ()) = futures::join!(across.written("one").await.commit(), looks);
    done.unwrap();
    assert_eq!(across.have("one").await, 2);
}

/// A13
pub(super) async fn a_prepare_that_comes_after_recovery_has_decided_is_taken_back<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    // The coordinator goes on, and loses; or it is gone by then, and somebody else finds it.
    for goes_on in [true, false] {
        let (early, late) = (across.at(0).stops(At::Prepare, true), across.at(1).stops(At::Prepare, false));
        let commit = tokio::spawn(across.written("one").await.commit());
        early.met().await;
        late.met().await;
        let another = across.another_node().await;
        let found = another.recover().await.unwrap();
        assert_eq!((found.committed, found.aborted), (0, 1));
        late.let_go();
        let is_prepared = async {
            while across.prepared(1).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, is_prepared).await.expect("it is prepared, late");
        if goes_on {
            early.let_go();
            let error = commit.await.unwrap().unwrap_err();
            assert!(matches!(error, TwoPhaseError::Aborted { why: AbortedBy::Overtaken, .. }), "{error}");
        } else {
            commit.abort();
            assert!(commit.await.unwrap_err().is_cancelled());
            assert_eq!(another.recover().await.unwrap().aborted, 1);
        }
        across.is_at_rest().await;
        assert_eq!(across.have("one").await, 0);
    }
}

/// A14
pub(super) async fn what_is_rolled_back_by_hand_waits_for_a_person<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let gates = [across.at(0).stops(At::Commit, false), across.at(1).stops(At::Commit, false)];
    let tx = across.written_with_event("one").await;
    let txn = tx.id();
    crashes(tx.commit(), &gates).await;
    let gid = across.prepared(0).await.pop().unwrap();
    across.by_hand(0, format!("rollback prepared '{gid}'")).await;
    let another = across.another_node().await;
    let found = another.recover().await.unwrap();
    assert_eq!((found.committed, found.parked.get("stock")), (1, Some(&1)));
    let pending = another.pending().await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!((pending[0].txn, pending[0].branch.as_str()), (txn, "stock"));
    assert_eq!(pending[0].state, PendingState::Parked(Odd::RolledBack));
    // It stays so, and an operator says that it was seen to.
    assert_eq!(another.recover().await.unwrap().parked.len(), 1);
    another.accept(txn, "stock", "ada", " ").await.unwrap_err();
    another.accept(txn, "billing", "ada", "entered by hand").await.unwrap_err();
    another.accept(txn, "stock", "ada", "entered by hand").await.unwrap();
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, across.events().await), (1, 1));
    // Whoever waits is told.
    across.at(0).will(At::Commit, Fault::Lost);
    let gate = across.at(1).stops(At::Commit, false);
    let rolls_back = async {
        gate.met().await;
        let gid = across.prepared(0).await.pop().unwrap();
        across.by_hand(0, format!("rollback prepared '{gid}'")).await;
        gate.let_go();
    };
    let (done, ()) = futures::join!(across.written("two").await.commit(), rolls_back);
    let error = done.unwrap().wait_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Blocked);
    assert!(matches!(error, TwoPhaseError::Parked { ref branches, .. } if *branches == ["stock"]), "{error}");
}

/// A15
pub(super) async fn what_is_committed_by_hand_waits_for_a_person<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let gate = across.at(0).stops(At::Prepare, true);
    across.at(1).will(At::Prepare, Fault::Lost);
    let commits = async {
        gate.met().await;
        let gid = across.prepared(0).await.pop().unwrap();
        across.by_hand(0, format!("commit prepared '{gid}'")).await;
        gate.let_go();
    };
    // The other one fails: all is rolled back, but for what nobody can roll back.
    let (error, ()) = futures::join!(across.written("one").await.commit(), commits);
    assert!(matches!(error.unwrap_err(), TwoPhaseError::Aborted { .. }));
    let pending = across.two_phase.pending().await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(
        (pending[0].branch.as_str(), pending[0].state),
        ("stock", PendingState::Parked(Odd::Committed))
    );
}

/// A16
pub(super) async fn a_scan_that_fails_is_not_taken_for_an_empty_one<S: Subject>(subject: &S) {
    let across = Across::open(subject, 3).await;
    let stops = |at| [0, 1, 2].map(|i| across.at(i).stops(at, true));
    let decided = [0, 1, 2].map(|i| across.at(i).stops(At::Commit, false));
    crashes(across.written("decided").await.commit(), &decided).await;
    crashes(across.written("undecided").await.commit(), &stops(At::Prepare)).await;
    // One of three cannot be asked.
    across.at(1).will(At::Scan, Fault::Lost);
    let found = across.two_phase.recover().await.unwrap();
    assert_eq!(found.failed.keys().collect::<Vec<_>>(), ["billing"]);
    assert!(!found.in_doubt.contains_key("billing"));
    assert_eq!((across.prepared(1).await.len(), across.have("decided").await), (2, 2));
    let pending = across.two_phase.pending().await.unwrap();
    assert_eq!(
        pending.iter().map(|branch| (branch.branch.as_str(), branch.state)).collect::<Vec<_>>(),
        [("billing", PendingState::Waits)]
    );
    let found = across.two_phase.recover().await.unwrap();
    assert_eq!((found.committed, found.aborted, found.failed.len()), (1, 1, 0));
    across.is_at_rest().await;
    assert_eq!((across.have("decided").await, across.have("undecided").await), (3, 0));
}

/// A17
pub(super) async fn a_participant_that_is_missed_is_refused_at_the_start<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let gates = [across.at(0).stops(At::Commit, false), across.at(1).stops(At::Commit, false)];
    let tx = across.written("one").await;
    let txn = tx.id();
    crashes(tx.commit(), &gates).await;
    let without = across.another(&[0]).await;
    let error = without.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("\"billing\" is not configured"), "{error}");
    let app = App::on(across.backend.clone()).two_phase(&without).start().await;
    assert!(app.unwrap_err().to_string().contains("\"billing\" is not configured"));
    // A program that runs already does what it can, and names what it cannot.
    let found = without.recover().await.unwrap();
    assert_eq!((found.committed, found.missing), (1, BTreeSet::from(["billing".to_owned()])));
    assert_eq!(found.unfinished, BTreeMap::from([("billing".to_owned(), 1)]));
    let pending = without.pending().await.unwrap();
    assert_eq!(pending.iter().map(|branch| branch.state).collect::<Vec<_>>(), [PendingState::Missing]);
    assert_eq!(across.two_phase.pending().await.unwrap()[0].state, PendingState::Waits);
    // With it again, all is done. Had it gone for good, an operator would say so.
    across.another_node().await.recover().await.unwrap();
    assert_eq!(across.have("one").await, 2);
    without.check().await.unwrap();
    let error = without.accept(txn, "billing", "ada", "it is no more").await.unwrap_err();
    assert!(error.to_string().contains("not on the list"), "{error}");
}

/// A18
pub(super) async fn recovery_is_of_a_store_and_of_no_node<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    // A node is gone for ever, with transactions in every state; and others have prepared transactions of their own.
    let id = |cluster: Uuid| BranchId::new(cluster, Uuid::new_v4(), "stock").unwrap();
    let (of_another_store, of_another_prefix) = (id(Uuid::from_u128(7)), id(across.backend.identity()));
    let foreign = [format!("es:{of_another_store}"), format!("other:{of_another_prefix}"), "mine".to_owned()];
    for gid in &foreign {
        across
            .by_hand(0, format!("begin; insert into done values ('foreign'); prepare transaction '{gid}'"))
            .await;
    }
    for (what, at, after) in [("a", At::Prepare, true), ("b", At::Commit, false), ("c", At::Commit, true)] {
        let gates = [across.at(0).stops(at, after), across.at(1).stops(at, after)];
        crashes(across.written_with_event(what).await.commit(), &gates).await;
    }
    let found = across.another_node().await.recover().await.unwrap();
    assert_eq!((found.committed, found.settled, found.aborted), (2, 4, 2));
    let mut left = foreign.to_vec();
    left.sort();
    assert_eq!((across.prepared(0).await, across.prepared(1).await), (left, Vec::new()));
    assert_eq!((across.have("a").await, across.have("b").await, across.have("c").await), (0, 2, 2));
    for gid in foreign {
        across.by_hand(0, format!("rollback prepared '{gid}'")).await;
    }
}

/// A23
pub(super) async fn an_app_recovers_by_itself_and_shows_what_waits_for_a_person<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    for what in ["one", "two"] {
        let gates = [across.at(0).stops(At::Commit, false), across.at(1).stops(At::Commit, false)];
        crashes(across.written_with_event(what).await.commit(), &gates).await;
    }
    let gid = across.prepared(0).await.pop().unwrap();
    across.by_hand(0, format!("rollback prepared '{gid}'")).await;
    let app = App::on(across.backend.clone()).two_phase(&across.another_node().await).start().await.unwrap();
    let alert = async {
        loop {
            let engines = app.health().await.engines;
            let own = engines.into_iter().find(|engine| engine.group == "two-phase").unwrap();
            if let Some(alert) = own.alerts.into_iter().next() {
                break alert;
            }
            tokio::task::yield_now().await;
        }
    };
    let alert = timeout(LIMIT, alert).await.expect("it is seen");
    assert_eq!((alert.name, alert.urgent), ("TwoPhaseParked", true));
    assert!(alert.text.contains("\"stock\""), "{}", alert.text);
    assert!(app.health().await.is_healthy());
    app.shutdown(Duration::from_secs(10)).await;
    assert_eq!((across.prepared(0).await.len(), across.prepared(1).await.len()), (0, 0));
    assert_eq!((across.have("one").await + across.have("two").await, across.events().await), (3, 2));
    // Another app has its decisions elsewhere.
    let other = App::on(es_core::memory::MemoryBackend::new());
    let wrong = TwoPhase::on(es_core::memory::MemoryBackend::new()).unwrap().build().unwrap();
    let error = other.two_phase(&wrong).start().await.unwrap_err().to_string();
    assert!(error.contains("in another store than this app"), "{error}");
}

/// A24
pub(super) async fn whoever_has_dropped_a_commit_can_ask_what_became_of_it<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let cases = [
        ("alone, before", At::Alone, false, Decision::Abort),
        ("alone, after", At::Alone, true, Decision::Commit),
        ("prepared", At::Prepare, true, Decision::Abort),
        ("decided", At::Commit, false, Decision::Commit),
    ];
    for (what, at, after, then) in cases {
        let mut tx = across.two_phase.begin();
        // One of them alone, or both.
        let databases = if at == At::Alone { 1..2 } else { 0..2 };
        let mut gates = Vec::new();
        for i in databases.clone() {
            write(&mut tx, across.at(i), what).await;
            gates.push(across.at(i).stops(at, after));
        }
        let doubt = tx.doubt();
        crashes(tx.commit(), &gates).await;
        let another = across.another_node().await;
        for _ in 0..2 {
            assert_eq!(another.resolve(&doubt).await.unwrap(), then, "{what}");
        }
        another.recover().await.unwrap();
        across.is_at_rest().await;
        let all = if then == Decision::Commit { databases.len() } else { 0 };
        assert_eq!(across.have(what).await, all, "{what}");
    }
    // It is asked for while it is under way: it is not committed any more.
    let tx = match across.backend.has_one_writer() {
        true => across.written("late").await,
        false => across.written_with_event("late").await,
    };
    let doubt = tx.doubt();
    assert_eq!(across.two_phase.resolve(&doubt).await.unwrap(), Decision::Abort);
    assert!(matches!(tx.commit().await.unwrap_err(), TwoPhaseError::Aborted { .. }));
    assert_eq!((across.have("late").await, across.events().await), (0, 0));
}

/// A69
pub(super) async fn two_participants_in_one_database_end_each_branch_once<S: Subject>(subject: &S) {
    let across = Across::open(subject, 1).await;
    let both = || {
        let one = |name: &str| Partner::new(PgParticipant::new(name, across.pool(0).clone()).unwrap());
        [one("stock"), one("stock-2")]
    };
    let (own, node) = (both(), with(&across.backend, both().into_iter()));
    let two_phase = with(&across.backend, own.clone().into_iter());
    let mut tx = two_phase.begin();
    write(&mut tx, &own[0], "one").await;
    write(&mut tx, &own[1], "two").await;
    let gates = [own[0].stops(At::Prepare, true), own[1].stops(At::Prepare, true)];
    crashes(tx.commit(), &gates).await;
    let patient = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::from_secs(3_600));
    let patient = both().into_iter().fold(patient, |patient, own| patient.participant(own)).build().unwrap();
    let found = patient.recover().await.unwrap();
    assert_eq!(found.in_doubt.values().map(|waiting| waiting.branches).collect::<Vec<_>>(), [1, 1]);
    let found = node.recover().await.unwrap();
    assert_eq!((found.committed, found.aborted), (0, 2), "{found:?}");
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, across.have("two").await), (0, 0));
}
