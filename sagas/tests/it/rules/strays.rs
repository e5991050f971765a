//! Transactions across databases that somebody has ended by hand in part, or whose decision is lost: A26 to A29, A47 to A49, A59, A61, A66, A67.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::store::{BranchId, Table, write_rows};
use es_core::{App, EventStore as _};
use es_postgres::PgParticipant;
use sagas::overview::{Act, ActError, Filter, Transactions as _};
use sagas::two_phase::{Decision, Odd, PendingState, Stray, TwoPhase, TwoPhaseApp as _, TwoPhaseError};
use serde_json::Value;
use uuid::Uuid;

use super::Subject;
use super::across::{Across, At, Fault, Gate, Partner, crashes, database, with, write};

/// Each stops once it is prepared.
pub(super) fn prepared<S: Subject>(across: &Across<'_, S>) -> [Gate; 2] {
    [0, 1].map(|i| across.at(i).stops(At::Prepare, true))
}

pub(super) async fn commits_by_hand<S: Subject>(across: &Across<'_, S>, i: usize) {
    let gid = across.prepared(i).await.pop().unwrap();
    across.by_hand(i, format!("commit prepared '{gid}'")).await;
}

pub(super) async fn only_stray<B: es_core::Backend>(two_phase: &TwoPhase<B>) -> Stray {
    let strays = two_phase.strays().await.unwrap();
    let [stray] = &strays.found[..] else { panic!("{strays:?}") };
    stray.clone()
}

pub(super) async fn pending<B: es_core::Backend>(
    two_phase: &TwoPhase<B>,
) -> Vec<(Uuid, String, PendingState)> {
    let pending = two_phase.pending().await.unwrap();
    pending.into_iter().map(|branch| (branch.txn, branch.branch, branch.state)).collect()
}

/// A26
pub(super) async fn what_is_committed_by_hand_stops_recovery_until_a_person_decides<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    for (decision, other) in [(Decision::Commit, Decision::Abort), (Decision::Abort, Decision::Commit)] {
        let what = format!("{decision:?}");
        let tx = across.written(&what).await;
        let (txn, doubt) = (tx.id(), tx.doubt());
        crashes(tx.commit(), &prepared(&across)).await;
        commits_by_hand(&across, 0).await;
        let another = across.another_node().await;
        for _ in 0..2 {
            let found = another.recover().await.unwrap();
            assert_eq!((found.committed, found.aborted, found.torn), (0, 0, BTreeSet::from([txn])));
        }
        // Whoever asks is not told that it is committed, nor the other way: nobody has decided.
        let error = another.resolve(&doubt).await.unwrap_err();
        assert!(
            matches!(&error, TwoPhaseError::Store(error) if error.to_string().contains("strays")),
            "{error}"
        );
        let stray = only_stray(&another).await;
        assert_eq!((stray.cluster, stray.txn), (across.backend.identity(), txn));
        assert_eq!(stray.prepared.keys().collect::<Vec<_>>(), ["billing"]);
        assert_eq!(stray.committed, BTreeSet::from(["stock".to_owned()]));
        another.adopt(&stray, decision, "ada", " ").await.unwrap_err();
        assert_eq!(across.prepared(1).await.len(), 1);
        another.adopt(&stray, decision, "ada", "as it was in the order").await.unwrap();
        another.adopt(&stray, other, "ada", "as it was in the order").await.unwrap_err();
        assert_eq!(across.prepared(1).await, [""; 0]);
        assert_eq!(another.strays().await.unwrap().found, []);
        assert_eq!(another.resolve(&doubt).await.unwrap(), decision);
        assert_eq!(across.have(&what).await, if decision == Decision::Commit { 2 } else { 1 });
        let odd = (txn, "stock".to_owned(), PendingState::Parked(Odd::Committed));
        assert_eq!(pending(&another).await, if decision == Decision::Commit { vec![] } else { vec![odd] });
        // Who has decided it, and why, is kept.
        let said = Table::<Value>::new("two-phase.resolved").unwrap().all(&across.backend).await.unwrap();
        let why = |value: &Value| value["actor"] == "ada" && value["reason"] == "as it was in the order";
        assert!(
            said.iter().any(|row| row.key.starts_with(&txn.simple().to_string()) && why(&row.value)),
            "{said:?}"
        );
    }
}

/// A27
pub(super) async fn a_decision_that_the_store_has_lost_is_not_taken_for_none<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let gates = [across.at(0).stops(At::Commit, true), across.at(1).stops(At::Commit, false)];
    crashes(across.written("one").await.commit(), &gates).await;
    for table in ["two-phase.decisions", "hot.two-phase.open"] {
        let table = Table::<Value>::new(table).unwrap();
        let row = table.all(&across.backend).await.unwrap().pop().unwrap();
        assert!(write_rows(&across.backend, vec![table.delete(&row)]).await.unwrap().is_yes());
    }
    let another = across.another_node().await;
    let found = another.recover().await.unwrap();
    assert_eq!((found.aborted, found.torn.len(), across.prepared(1).await.len()), (0, 1, 1));
    let stray = only_stray(&another).await;
    another.adopt(&stray, Decision::Commit, "ada", "the store was restored").await.unwrap();
    across.is_at_rest().await;
    assert_eq!(across.have("one").await, 2);
}

/// A28
pub(super) async fn what_is_committed_by_hand_after_it_was_given_up_waits_for_a_person<S: Subject>(
    subject: &S,
) {
    let across = Across::open(subject, 2).await;
    let tx = across.written("one").await;
    let txn = tx.id();
    crashes(tx.commit(), &prepared(&across)).await;
    // One cannot be asked while the other is rolled back.
    across.at(0).will(At::Scan, Fault::Lost);
    assert_eq!(across.two_phase.recover().await.unwrap().aborted, 1);
    commits_by_hand(&across, 0).await;
    let odd = |txn| (txn, "stock".to_owned(), PendingState::Parked(Odd::Committed));
    assert_eq!(across.another_node().await.recover().await.unwrap().parked.get("stock"), Some(&1));
    assert_eq!(pending(&across.two_phase).await, [odd(txn)]);
    across.two_phase.accept(txn, "stock", "ada", "taken back").await.unwrap();
    // The store takes part, and in a file nobody else can write while it does.
    let tx = across.written_with_event("two").await;
    let txn = tx.id();
    let gate = across.at(0).stops(At::Prepare, true);
    across.at(1).will(At::Prepare, Fault::Lost);
    let commits = async {
        gate.met().await;
        commits_by_hand(&across, 0).await;
        gate.let_go();
    };
    let (error, ()) = futures::join!(tx.commit(), commits);
    assert!(matches!(error.unwrap_err(), TwoPhaseError::Aborted { .. }));
    assert_eq!(pending(&across.two_phase).await, [odd(txn)]);
    assert_eq!(across.events().await, 0);
}

/// A29
pub(super) async fn what_a_store_that_is_gone_has_prepared_is_adopted<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let gone = MemoryBackend::new();
    for decision in [Decision::Commit, Decision::Abort] {
        let what = format!("{decision:?}");
        let theirs = with(&gone, across.databases.iter().map(|(_, own)| own.clone()));
        let mut tx = theirs.begin();
        for i in 0..2 {
            write(&mut tx, across.at(i), &what).await;
        }
        crashes(tx.commit(), &prepared(&across)).await;
        // It may be at it: nothing of it is touched.
        let found = across.two_phase.recover().await.unwrap();
        assert_eq!((found.committed, found.aborted, found.torn.len()), (0, 0, 0));
        let stray = only_stray(&across.two_phase).await;
        assert_eq!(stray.cluster, gone.identity());
        assert_eq!(stray.prepared.keys().collect::<Vec<_>>(), ["billing", "stock"]);
        assert!(
            stray.committed.is_empty()
                && stray.prepared.values().all(|age| *age < Duration::from_secs(3_600))
        );
        // One of them cannot be ended at once: it is later.
        across.at(1).will(At::Commit, Fault::Lost);
        across.at(1).will(At::Abort, Fault::Lost);
        across.two_phase.adopt(&stray, decision, "ada", "that shop is closed").await.unwrap();
        assert_eq!((across.prepared(0).await.len(), across.prepared(1).await.len()), (0, 1));
        across.another_node().await.recover().await.unwrap();
        across.is_at_rest().await;
        assert_eq!(across.have(&what).await, if decision == Decision::Commit { 2 } else { 0 });
        across.at(1).forget_faults();
    }
}

/// A47
pub(super) async fn a_participant_that_is_away_hides_no_stray_of_others<S: Subject>(subject: &S) {
    let across = Across::open(subject, 3).await;
    let mut tx = across.two_phase.begin();
    for i in 0..2 {
        write(&mut tx, across.at(i), "one").await;
    }
    crashes(tx.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    across.at(2).will(At::Scan, Fault::Lost);
    let strays = across.two_phase.strays().await.unwrap();
    assert_eq!(strays.unasked.keys().collect::<Vec<_>>(), ["mail"]);
    let [stray] = &strays.found[..] else { panic!("{strays:?}") };
    assert_eq!(stray.committed, BTreeSet::from(["stock".to_owned()]));
    assert_eq!(stray.unknown, BTreeSet::from(["mail".to_owned()]));
    across.two_phase.adopt(stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    across.is_at_rest().await;
    assert_eq!(across.have("one").await, 2);
}

/// A48
pub(super) async fn what_is_found_after_it_was_adopted_is_shown_and_ended<S: Subject>(subject: &S) {
    let across = Across::open(subject, 3).await;
    let theirs = with(&MemoryBackend::new(), across.databases.iter().map(|(_, own)| own.clone()));
    let mut tx = theirs.begin();
    for i in 0..3 {
        write(&mut tx, across.at(i), "one").await;
    }
    let txn = tx.id();
    crashes(tx.commit(), &[0, 1, 2].map(|i| across.at(i).stops(At::Prepare, true))).await;
    let some = across.another(&[0, 1]).await;
    let stray = only_stray(&some).await;
    assert_eq!((stray.prepared.len(), stray.decision), (2, None));
    some.adopt(&stray, Decision::Commit, "ada", "that shop is closed").await.unwrap();
    let all = across.another_node().await;
    let stray = only_stray(&all).await;
    assert_eq!((stray.txn, stray.decision), (txn, Some(Decision::Commit)));
    assert_eq!(stray.prepared.keys().collect::<Vec<_>>(), ["mail"]);
    all.adopt(&stray, Decision::Abort, "bob", "that shop is closed").await.unwrap_err();
    all.adopt(&stray, Decision::Commit, "bob", "one more").await.unwrap();
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, all.strays().await.unwrap().found.len()), (3, 0));
    // What both have said is kept.
    let said = Table::<Value>::new("two-phase.resolved").unwrap().all(&across.backend).await.unwrap();
    assert_eq!(
        (&said[0].value["actor"], &said[0].value["before"][0]["actor"]),
        (&"bob".into(), &"ada".into())
    );
}

/// A49
pub(super) async fn a_branch_of_a_participant_that_was_renamed_is_shown_and_ended<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let renamed = |i: usize, name: &str| {
        let other = across.at(1 - i).clone();
        let own = PgParticipant::new(name, across.pool(i).clone()).unwrap();
        with(&across.backend, [Partner::new(own), other].into_iter())
    };
    crashes(across.written("one").await.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    let node = renamed(1, "billing-2");
    assert_eq!(node.recover().await.unwrap().torn.len(), 1);
    let stray = only_stray(&node).await;
    assert_eq!(stray.prepared.keys().collect::<Vec<_>>(), ["billing"]);
    assert_eq!(stray.renamed["billing"], "billing-2");
    node.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    across.is_at_rest().await;
    assert_eq!(across.have("one").await, 2);
    // The one that is committed was renamed: its marker has the name that it had.
    crashes(across.written("two").await.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    let found = renamed(0, "stock-2").recover().await.unwrap();
    assert_eq!((found.aborted, found.torn.len(), across.prepared(1).await.len()), (0, 1, 1));
    let stray = only_stray(&across.two_phase).await;
    across.two_phase.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    across.two_phase.recover().await.unwrap();
    assert_eq!(across.have("two").await, 2);
}

/// A59
pub(super) async fn what_a_renamed_participant_has_committed_is_settled_by_its_own_name<S: Subject>(
    subject: &S,
) {
    let across = Across::open(subject, 2).await;
    let stock = Partner::new(PgParticipant::new("stock-2", across.pool(0).clone()).unwrap());
    let node = with(&across.backend, [stock.clone(), across.at(1).clone()].into_iter());
    let odd = |txn| (txn, "stock".to_owned(), PendingState::Parked(Odd::Committed));
    for decision in [Decision::Commit, Decision::Abort] {
        let what = format!("{decision:?}");
        let tx = across.written(&what).await;
        let txn = tx.id();
        crashes(tx.commit(), &prepared(&across)).await;
        commits_by_hand(&across, 0).await;
        assert_eq!(node.recover().await.unwrap().torn, BTreeSet::from([txn]));
        let stray = only_stray(&node).await;
        assert_eq!(stray.committed, BTreeSet::from(["stock".to_owned()]));
        assert_eq!(stray.renamed["stock"], "stock-2");
        node.adopt(&stray, decision, "ada", "as it was in the order").await.unwrap();
        node.recover().await.unwrap();
        assert_eq!(across.prepared(1).await, [""; 0]);
        match decision {
            Decision::Commit => assert_eq!(pending(&node).await, []),
            Decision::Abort => {
                assert_eq!(pending(&node).await, [odd(txn)]);
                node.accept(txn, "stock", "ada", "taken back").await.unwrap();
            }
        }
        assert_eq!(across.have(&what).await, if decision == Decision::Commit { 2 } else { 1 });
    }
    // Nobody could ask it before the rest was rolled back.
    let tx = across.written("unasked").await;
    let txn = tx.id();
    crashes(tx.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    stock.will(At::Marked, Fault::Lost);
    assert_eq!(node.recover().await.unwrap().aborted, 1);
    node.recover().await.unwrap();
    assert_eq!(pending(&node).await, [odd(txn)]);
    node.accept(txn, "stock", "ada", "taken back").await.unwrap();
    // Its name was given to another one.
    let other = database("stock").await;
    let node = with(&across.backend, [stock, across.at(1).clone(), other.1].into_iter());
    crashes(across.written("given").await.commit(), &prepared(&across)).await;
    commits_by_hand(&across, 0).await;
    assert_eq!(node.recover().await.unwrap().torn.len(), 1);
    let stray = only_stray(&node).await;
    node.adopt(&stray, Decision::Commit, "ada", "as it was in the order").await.unwrap();
    assert_eq!((pending(&node).await, across.have("given").await), (vec![], 2));
}

/// A61
pub(super) async fn strays_leave_out_nothing_without_saying_so<S: Subject>(subject: &S) {
    const MANY: usize = 10;
    let (across, limit) = (Across::open(subject, 3).await, Duration::from_secs(1));
    for n in 0..MANY {
        let mut tx = across.two_phase.begin();
        for i in 0..2 {
            write(&mut tx, across.at(i), &n.to_string()).await;
        }
        crashes(tx.commit(), &prepared(&across)).await;
    }
    let tx = across.written("torn").await;
    let txn = tx.id();
    crashes(tx.commit(), &[0, 1, 2].map(|i| across.at(i).stops(At::Prepare, true))).await;
    commits_by_hand(&across, 2).await;
    let node = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::ZERO).limit(limit);
    let node = across.databases.iter().fold(node, |node, (_, own)| node.participant(own.clone()));
    let node = node.build().unwrap();
    // No answer is late, and all of them together are.
    for _ in 0..=MANY {
        across.at(2).will(At::Marked, Fault::Slow(limit.mul_f64(0.8)));
    }
    let strays = node.strays().await.unwrap();
    assert_eq!(strays.found.iter().map(|stray| stray.txn).collect::<Vec<_>>(), [txn]);
    assert!(strays.unasked.is_empty(), "{strays:?}");
    across.at(2).forget_faults();
    // Who does not answer is asked no more: what is committed there is not known.
    across.at(2).hangs(At::Marked, None);
    let strays = node.strays().await.unwrap();
    assert!(strays.found.is_empty() && strays.unasked.keys().eq(["mail"]), "{strays:?}");
    across.at(2).forget_faults();
    // Nor does who fails at once.
    for _ in 0..=MANY {
        across.at(2).will(At::Marked, Fault::Lost);
    }
    let strays = node.strays().await.unwrap();
    assert!(strays.found.is_empty() && strays.unasked.keys().eq(["mail"]), "{strays:?}");
}

/// A66
pub(super) async fn what_two_stores_have_prepared_under_one_id_is_not_decided_together<S: Subject>(
    subject: &S,
) {
    let across = Across::open(subject, 1).await;
    let txn = es_core::id::Ids::default().next();
    for n in [1, 2] {
        let id = BranchId::new(Uuid::from_u128(n), txn, "stock").unwrap();
        let prepares = format!("begin; insert into done values ('{n}'); prepare transaction 'es:{id}'");
        across.by_hand(0, prepares).await;
    }
    let app = App::on(across.backend.clone()).two_phase(&across.two_phase).looks_on().start().await.unwrap();
    let all = app.transactions();
    let page = all.page(&Filter::needs_person(), None, 10).await.unwrap();
    let [torn] = &page.transactions[..] else { panic!("{page:?}") };
    let decide = Act::Decide(Decision::Commit);
    let error = all.ask(&torn.which, decide, "ada", "because", Duration::from_secs(30)).await.unwrap_err();
    assert!(matches!(&error, ActError::Declined { .. }), "{error:?}");
    assert_eq!(across.prepared(0).await.len(), 2);
    for stray in across.two_phase.strays().await.unwrap().found {
        across.two_phase.adopt(&stray, Decision::Commit, "ada", "because").await.unwrap();
    }
    across.is_at_rest().await;
    app.shutdown(Duration::from_secs(10)).await;
}

/// A67
pub(super) async fn a_decision_that_cannot_be_read_hides_no_stray<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let tx = across.written("one").await;
    let unread = tx.id();
    crashes(tx.commit(), &prepared(&across)).await;
    let decisions = Table::<Value>::new("two-phase.decisions").unwrap();
    let of_tomorrow = serde_json::json!({ "decision": "of-tomorrow" });
    let damaged = decisions.insert(unread.simple().to_string(), of_tomorrow).unwrap();
    assert!(write_rows(&across.backend, vec![damaged]).await.unwrap().is_yes());
    let tx = across.written("two").await;
    let torn = tx.id();
    crashes(tx.commit(), &prepared(&across)).await;
    let gid = across.prepared(0).await.into_iter().find(|gid| gid.contains(&torn.simple().to_string()));
    across.by_hand(0, format!("commit prepared '{}'", gid.unwrap())).await;
    let strays = across.two_phase.strays().await.unwrap();
    let shown = |txn| strays.found.iter().find(|stray| stray.txn == txn).unwrap();
    assert_eq!((strays.found.len(), &shown(torn).unread), (2, &None));
    assert!(shown(unread).unread.as_ref().is_some_and(|why| why.contains("of-tomorrow")), "{strays:?}");
    assert_eq!(shown(unread).prepared.len(), 2);
    across.two_phase.adopt(shown(torn), Decision::Commit, "ada", "as it was in the order").await.unwrap();
    // Of the other one a person cannot say anything, either, before somebody has seen to it.
    across.two_phase.adopt(shown(unread), Decision::Commit, "ada", "as it was").await.unwrap_err();
    let row = decisions.get(&across.backend, &unread.simple().to_string()).await.unwrap().unwrap();
    assert!(write_rows(&across.backend, vec![decisions.delete(&row)]).await.unwrap().is_yes());
    assert_eq!(across.another_node().await.recover().await.unwrap().aborted, 2);
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, across.have("two").await), (0, 2));
}
