//! Transactions across databases that an operator has to decide about, while databases cannot be asked and coordinators go on:
//! A41 to A46, A56, A57, A65, A68.

use std::time::Duration;

use es_core::store::{Table, write_rows};
use es_core::{Backend as _, ErrorKind};
use sagas::two_phase::{Decision, Odd, PendingState, TwoPhase, TwoPhaseError};
use serde_json::Value;

use super::Subject;
use super::across::{Across, At, Fault, Gate, crashes};
use super::strays::{commits_by_hand, only_stray, pending, prepared};

async fn stored<S: Subject>(across: &Across<'_, S>, table: &str) -> Vec<Value> {
    let rows = Table::<Value>::new(table).unwrap().all(&across.backend).await.unwrap();
    rows.into_iter().map(|row| row.value).collect()
}

/// A41
pub(super) async fn what_was_found_torn_is_left_also_when_nobody_can_be_asked<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    crashes(across.written("one").await.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    let found = across.two_phase.recover().await.unwrap();
    assert_eq!((found.aborted, found.torn.len()), (0, 1));
    for (i, at) in [(0, At::Scan), (0, At::Marked), (1, At::Scan)] {
        across.at(i).will(at, Fault::Lost);
        let found = across.two_phase.recover().await.unwrap();
        assert_eq!((found.aborted, found.torn.len()), (0, 1), "{i} {at:?}");
        assert_eq!(across.prepared(1).await.len(), 1);
        across.at(i).forget_faults();
    }
    // Nor does a node decide that does not know the one that is committed.
    let found = across.another(&[1]).await.recover().await.unwrap();
    assert_eq!((found.aborted, found.torn.len(), across.prepared(1).await.len()), (0, 1, 1));
    let stray = only_stray(&across.two_phase).await;
    across.two_phase.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, across.two_phase.recover().await.unwrap().torn.len()), (2, 0));
}

/// A42
pub(super) async fn who_cannot_be_asked_is_not_taken_for_one_that_has_nothing<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let node = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::ZERO);
    let node = node.outage(Duration::from_secs(3_600));
    let node = node.participant(across.at(0).clone()).participant(across.at(1).clone()).build().unwrap();
    let tx = across.written("one").await;
    let doubt = tx.doubt();
    crashes(tx.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    for at in [At::Scan, At::Marked] {
        across.at(0).will(at, Fault::Lost);
        let found = node.recover().await.unwrap();
        assert_eq!((found.aborted, found.torn.len(), across.prepared(1).await.len()), (0, 0, 1), "{at:?}");
        across.at(0).forget_faults();
    }
    across.at(0).will(At::Marked, Fault::Lost);
    assert_eq!(node.resolve(&doubt).await.unwrap_err().kind(), ErrorKind::Transient);
    assert_eq!(node.recover().await.unwrap().torn.len(), 1);
    let stray = only_stray(&node).await;
    node.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    // One that does not go back so far cannot say no, and never will.
    crashes(across.written("two").await.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    let forgets = "delete from es_guard.guards;
        update es_guard.about set floor = 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    across.by_hand(0, forgets.to_owned()).await;
    let found = across.two_phase.recover().await.unwrap();
    assert_eq!((found.aborted, found.torn.len(), across.prepared(1).await.len()), (0, 1, 1));
    let stray = only_stray(&across.two_phase).await;
    assert_eq!(stray.unknown.iter().collect::<Vec<_>>(), ["stock"]);
    across.two_phase.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    assert_eq!((across.have("one").await, across.have("two").await), (2, 2));
}

/// A43
pub(super) async fn what_is_not_to_be_committed_is_on_no_list_of_an_earlier_program<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    crashes(across.written("one").await.commit(), &prepared(&across)).await;
    across.at(0).will(At::Scan, Fault::Lost);
    assert_eq!(across.two_phase.recover().await.unwrap().aborted, 1);
    let aside = stored(&across, "hot.two-phase.aside").await;
    assert_eq!((aside.len(), &aside[0]["decision"]), (1, &"abort".into()));
    crashes(across.written("two").await.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    // One is ended by its list, and the other is torn.
    across.two_phase.recover().await.unwrap();
    let aside = stored(&across, "hot.two-phase.aside").await;
    assert_eq!((aside.len(), aside[0].get("decision")), (1, None));
    let stray = only_stray(&across.two_phase).await;
    across.at(1).will(At::Commit, Fault::Lost);
    across.two_phase.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    assert_eq!(stored(&across, "hot.two-phase.aside").await[0]["decision"], "commit");
    assert_eq!(stored(&across, "hot.two-phase.open").await, [] as [Value; 0]);
    across.two_phase.recover().await.unwrap();
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, across.have("two").await), (0, 2));
}

/// A44
pub(super) async fn what_an_operator_commits_without_the_store_is_not_said_to_be_committed<S: Subject>(
    subject: &S,
) {
    let across = Across::open(subject, 2).await;
    // In a file there is one writer: an operator waits until the coordinator is gone.
    let cases: &[bool] = if across.backend.has_one_writer() { &[false] } else { &[false, true] };
    for with_event in cases.iter().copied() {
        let what = if with_event { "with event" } else { "alone" };
        let tx = match with_event {
            true => across.written_with_event(what).await,
            false => across.written(what).await,
        };
        let (doubt, gates, another) = (tx.doubt(), prepared(&across), across.another_node().await);
        let decides = async {
            futures::join!(gates[0].met(), gates[1].met());
            commits_by_hand(&across, 0).await;
            assert_eq!(another.recover().await.unwrap().torn.len(), 1);
            let stray = only_stray(&another).await;
            another.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
            gates.iter().for_each(Gate::let_go);
        };
        let (answer, ()) = futures::join!(tx.commit(), decides);
        if with_event {
            for error in [answer.unwrap_err(), another.resolve(&doubt).await.unwrap_err()] {
                assert!(matches!(error, TwoPhaseError::WithoutJournal { .. }), "{error}");
                assert_eq!(error.kind(), ErrorKind::Blocked);
            }
        } else {
            answer.unwrap().wait_all().await.unwrap();
            assert_eq!(another.resolve(&doubt).await.unwrap(), Decision::Commit);
        }
        another.recover().await.unwrap();
        across.is_at_rest().await;
        assert_eq!((across.have(what).await, across.events().await), (2, 0));
    }
}

/// A45
pub(super) async fn what_an_operator_commits_in_part_is_not_said_to_be_aborted<S: Subject>(subject: &S) {
    let across = Across::open(subject, 3).await;
    let mut tx = across.written("one").await;
    let txn = tx.id();
    let late = tx.branch(across.at(2)).await.unwrap();
    sqlx::query("insert into late values (1), (1)").execute(&mut *late.inner).await.unwrap();
    let gates = [(0, true), (1, true), (2, false)].map(|(i, after)| across.at(i).stops(At::Prepare, after));
    let another = across.another_node().await;
    let decides = async {
        futures::future::join_all(gates.iter().map(Gate::met)).await;
        commits_by_hand(&across, 0).await;
        assert_eq!(another.recover().await.unwrap().torn.len(), 1);
        let stray = only_stray(&another).await;
        another.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
        gates.iter().for_each(Gate::let_go);
    };
    let (answer, ()) = futures::join!(tx.commit(), decides);
    let error = answer.unwrap_err();
    assert!(matches!(error, TwoPhaseError::Parked { ref branches, .. } if *branches == ["mail"]), "{error}");
    another.recover().await.unwrap();
    let odd = (txn, "mail".to_owned(), PendingState::Parked(Odd::RolledBack));
    assert_eq!((pending(&another).await, across.have("one").await), (vec![odd], 2));
}

/// A46
pub(super) async fn what_its_coordinator_has_given_up_is_decided<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let another = across.another_node().await;
    let odd = |txn| (txn, "stock".to_owned(), PendingState::Parked(Odd::Committed));
    let tx = across.written("one").await;
    let txn = tx.id();
    let gate = across.at(0).stops(At::Prepare, true);
    // It is prepared, and cannot be taken back.
    across.at(1).will(At::Prepare, Fault::Unheard);
    across.at(1).will(At::Abort, Fault::Lost);
    let commits = async {
        gate.met().await;
        commits_by_hand(&across, 0).await;
        gate.let_go();
    };
    let (answer, ()) = futures::join!(tx.commit(), commits);
    assert!(matches!(answer.unwrap_err(), TwoPhaseError::Aborted { .. }));
    assert_eq!((pending(&another).await, across.prepared(1).await.len()), (vec![odd(txn)], 1));
    assert_eq!(another.strays().await.unwrap().found, []);
    let found = another.recover().await.unwrap();
    assert_eq!((found.torn.len(), across.prepared(1).await.len()), (0, 0));
    another.accept(txn, "stock", "ada", "taken back").await.unwrap();
    // Nothing of it is committed by hand until whoever commits has been told.
    let tx = across.written("two").await;
    let txn = tx.id();
    across.at(1).will(At::Prepare, Fault::Unheard);
    for i in 0..2 {
        across.at(i).will(At::Abort, Fault::Lost);
    }
    assert!(matches!(tx.commit().await.unwrap_err(), TwoPhaseError::Aborted { .. }));
    commits_by_hand(&across, 0).await;
    let found = another.recover().await.unwrap();
    assert_eq!((found.torn.len(), across.prepared(1).await.len()), (0, 0));
    assert_eq!(pending(&another).await, [odd(txn)]);
}

/// A56
pub(super) async fn who_could_not_be_asked_is_looked_at_after_an_operator_has_decided<S: Subject>(
    subject: &S,
) {
    let across = Across::open(subject, 3).await;
    let gates = [0, 1, 2].map(|i| across.at(i).stops(At::Prepare, true));
    let tx = across.written("one").await;
    let txn = tx.id();
    crashes(tx.commit(), &gates).await;
    commits_by_hand(&across, 0).await;
    commits_by_hand(&across, 2).await;
    across.at(2).will(At::Marked, Fault::Lost);
    let stray = only_stray(&across.two_phase).await;
    assert_eq!((stray.committed.len(), stray.unknown.len()), (1, 1), "{stray:?}");
    across.two_phase.adopt(&stray, Decision::Abort, "ada", "nobody has paid").await.unwrap();
    across.at(2).forget_faults();
    across.another_node().await.recover().await.unwrap();
    let odd = pending(&across.two_phase).await;
    assert_eq!(odd.len(), 2, "{odd:?}");
    assert!(odd.iter().all(|(of, _, state)| *of == txn && *state == PendingState::Parked(Odd::Committed)));
    assert_eq!(across.prepared(1).await, [""; 0]);
}

/// A57
pub(super) async fn whoever_asks_about_what_is_committed_is_not_told_that_it_was_aborted<S: Subject>(
    subject: &S,
) {
    let across = Across::open(subject, 2).await;
    let tx = across.written("one").await;
    let doubt = tx.doubt();
    crashes(tx.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    commits_by_hand(&across, 1).await;
    for _ in 0..2 {
        let error = across.another_node().await.resolve(&doubt).await.unwrap_err();
        assert!(error.to_string().contains("a person has to decide"), "{error}");
    }
    assert_eq!(across.have("one").await, 2);
}

/// A65
pub(super) async fn what_is_noted_before_it_is_decided_is_no_failure_of_the_store<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let tx = across.written("one").await;
    let txn = tx.id();
    crashes(tx.commit(), &prepared(&across)).await;
    let (asked, another) =
        ([0, 1].map(|i| across.at(i).stops(At::Marked, true)), across.another_node().await);
    let notes = async {
        futures::join!(asked[0].met(), asked[1].met());
        commits_by_hand(&across, 0).await;
        assert_eq!(another.recover().await.unwrap().torn.len(), 1);
        asked.iter().for_each(Gate::let_go);
    };
    let (found, ()) = futures::join!(across.two_phase.recover(), notes);
    let found = found.unwrap();
    assert_eq!((found.store, found.aborted, found.torn.len()), (None, 0, 1));
    assert!(found.torn.contains(&txn));
    assert_eq!(across.prepared(1).await.len(), 1);
}

/// A68
pub(super) async fn what_is_torn_is_shown_also_while_nobody_can_read_what_was_decided<S: Subject>(
    subject: &S,
) {
    let across = Across::open(subject, 2).await;
    let tx = across.written("one").await;
    let txn = tx.id();
    crashes(tx.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    assert_eq!(across.two_phase.recover().await.unwrap().torn.len(), 1);
    let decisions = Table::<Value>::new("two-phase.decisions").unwrap();
    let key = txn.simple().to_string();
    let damaged = decisions.insert(key.clone(), serde_json::json!("damaged")).unwrap();
    assert!(write_rows(&across.backend, vec![damaged]).await.unwrap().is_yes());
    for _ in 0..2 {
        let found = across.two_phase.recover().await.unwrap();
        assert_eq!((found.torn.contains(&txn), across.prepared(1).await.len()), (true, 1), "{found:?}");
    }
    let row = decisions.get(&across.backend, &key).await.unwrap().unwrap();
    assert!(write_rows(&across.backend, vec![decisions.delete(&row)]).await.unwrap().is_yes());
    let stray = only_stray(&across.two_phase).await;
    across.two_phase.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, across.two_phase.recover().await.unwrap().torn.len()), (2, 0));
}
