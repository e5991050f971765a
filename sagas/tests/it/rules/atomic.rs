//! Transactions across databases: A1 to A9.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use es_core::ErrorKind;
use es_core::store::{
    Branch, BranchId, ExpectedVersion, Fate, Marked, Participant, Prepared, StoreError, Table,
    Transaction as _,
};
use sagas::two_phase::{AbortedBy, Decision, TwoPhase, TwoPhaseError};
use serde_json::Value;
use sqlx::Connection as _;
use uuid::Uuid;

use super::Subject;
use super::across::{Across, At, Fault, append, commit_event, crashes, event, write};

/// How many decisions are stored.
async fn decisions<S: Subject>(across: &Across<'_, S>) -> usize {
    let table = Table::<Value>::new("two-phase.decisions").unwrap();
    table.all(&across.backend).await.unwrap().len()
}

async fn markers<S: Subject>(across: &Across<'_, S>, i: usize) -> i64 {
    let all = "select count(*) from es_guard.guards where state = 'done'";
    sqlx::query_scalar(all).fetch_one(across.pool(i)).await.unwrap()
}

/// A1
pub(super) async fn all_databases_commit_or_none_does<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let done = across.written("one").await.commit().await.unwrap();
    assert_eq!((done.pending.as_slice(), done.journal.as_ref()), (&[] as &[String], None));
    done.wait_all().await.unwrap();
    // Nobody says yes for it, and it is dropped or rolled back: nothing stays.
    across.at(1).will(At::Prepare, Fault::Lost);
    let error = across.written("two").await.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(
        matches!(error, TwoPhaseError::Aborted { why: AbortedBy::Branch { ref branch, .. }, .. } if branch == "billing")
    );
    drop(across.written("three").await);
    across.written("four").await.rollback().await;
    // A yes that nobody hears is taken back.
    across.at(0).will(At::Prepare, Fault::Unheard);
    across.written("five").await.commit().await.unwrap_err();
    across.is_at_rest().await;
    let have = [across.have("one").await, across.have("two").await, across.have("three").await];
    assert_eq!((have, across.have("four").await, across.have("five").await), ([2, 0, 0], 0, 0));
    assert_eq!(decisions(&across).await, 1);
}

/// A2
pub(super) async fn the_store_commits_with_the_others_and_is_never_prepared<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let done = across.written_with_event("one").await.commit().await.unwrap();
    assert_eq!(done.journal.unwrap().versions.len(), 1);
    assert_eq!((across.have("one").await, across.events().await), (2, 1));
    // A conflict in the store takes the others back.
    let mut tx = across.written("two").await;
    let conflict = event("one", ExpectedVersion::NoStream);
    tx.journal().await.unwrap().staged().appends.push(conflict);
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", es_core::chain(&error));
    assert!(matches!(error, TwoPhaseError::Aborted { why: AbortedBy::Journal(_), .. }));
    // So does a no of one of them.
    across.at(0).will(At::Prepare, Fault::Lost);
    across.written_with_event("three").await.commit().await.unwrap_err();
    across.is_at_rest().await;
    assert_eq!((across.have("two").await, across.have("three").await, across.events().await), (0, 0, 1));
    // While others are prepared, the store goes on.
    let gate = across.at(0).stops(At::Prepare, true);
    let commit = across.written_with_event("four").await.commit();
    let others = async {
        gate.met().await;
        // In a file there is one writer at a time, and it is this one.
        if !es_core::Backend::has_one_writer(&across.backend) {
            commit_event(&across.backend, "other").await;
        }
        gate.let_go();
    };
    let (done, ()) = futures::join!(commit, others);
    done.unwrap();
    assert_eq!(across.have("four").await, 2);
}

/// A3
pub(super) async fn what_only_reads_is_not_prepared_and_one_writer_needs_no_decision<S: Subject>(
    subject: &S,
) {
    let across = Across::open(subject, 2).await;
    let read = async |tx: &mut sagas::two_phase::GlobalTx<S::Backend>, i: usize| {
        let branch = tx.branch(across.at(i)).await.unwrap();
        sqlx::query("set transaction isolation level serializable")
            .execute(&mut *branch.inner)
            .await
            .unwrap();
        sqlx::query("select * from done").execute(&mut *branch.inner).await.unwrap();
    };
    // Whatever is prepared fails.
    for i in 0..2 {
        across.at(i).will(At::Prepare, Fault::Lost);
    }
    let mut tx = across.two_phase.begin();
    read(&mut tx, 0).await;
    read(&mut tx, 1).await;
    tx.commit().await.unwrap();
    let mut tx = across.two_phase.begin();
    read(&mut tx, 0).await;
    write(&mut tx, across.at(1), "alone").await;
    // A transaction within a branch is a savepoint.
    let branch = tx.branch(across.at(1)).await.unwrap();
    let mut within = branch.inner.begin().await.unwrap();
    sqlx::query("insert into done values ('alone')").execute(&mut *within).await.unwrap();
    within.rollback().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((across.have("alone").await, decisions(&across).await), (1, 0));
    assert_eq!((markers(&across, 0).await, markers(&across, 1).await), (0, 1));
    // The decision is that of the store.
    let mut tx = across.two_phase.begin();
    read(&mut tx, 0).await;
    append(&mut tx, "alone").await;
    tx.commit().await.unwrap();
    assert_eq!((across.events().await, decisions(&across).await), (1, 1));
    across.two_phase.begin().commit().await.unwrap();
    across.is_at_rest().await;
}

/// A4
pub(super) async fn one_writer_of_whose_commit_nobody_hears_is_asked_for<S: Subject>(subject: &S) {
    let across = Across::open(subject, 1).await;
    let alone = async |what: &str| across.written(what).await.commit().await;
    across.at(0).will(At::Alone, Fault::Unheard);
    alone("one").await.unwrap();
    across.at(0).will(At::Alone, Fault::Lost);
    let error = alone("two").await.unwrap_err();
    assert!(matches!(error, TwoPhaseError::Aborted { .. }), "{error}");
    // It cannot be asked either: later it can be, and the answer is for good.
    for (what, fault, then) in
        [("three", Fault::Unheard, Decision::Commit), ("four", Fault::Lost, Decision::Abort)]
    {
        let impatient = TwoPhase::on(across.backend.clone()).unwrap().participant(across.at(0).clone());
        let mut tx = impatient.patience(Duration::ZERO).build().unwrap().begin();
        write(&mut tx, across.at(0), what).await;
        across.at(0).will(At::Alone, fault);
        across.at(0).will(At::Outcome, Fault::Lost);
        let error = tx.commit().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown);
        let TwoPhaseError::Unknown(doubt) = error else { panic!("{error}") };
        for _ in 0..2 {
            assert_eq!(across.another_node().await.resolve(&doubt).await.unwrap(), then);
        }
    }
    let have = [across.have("one").await, across.have("two").await];
    assert_eq!((have, across.have("three").await, across.have("four").await), ([1, 0], 1, 0));
    // Asked for while it is under way: it never commits.
    let gate = across.at(0).stops(At::Alone, false);
    let tx = across.written("five").await;
    let id = BranchId::new(es_core::EventStore::identity(&across.backend), tx.id(), "stock").unwrap();
    let asks = async {
        gate.met().await;
        assert_eq!(across.at(0).inner.outcome(&id).await.unwrap(), Fate::Aborted);
        gate.let_go();
    };
    let (error, ()) = futures::join!(tx.commit(), asks);
    assert!(matches!(error.unwrap_err(), TwoPhaseError::Aborted { .. }));
    assert_eq!(across.have("five").await, 0);
}

/// A5
pub(super) async fn a_failed_prepare_is_a_rollback_and_says_why<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let breaks = [
        // Checked as late as it can be.
        ("insert into late values (1), (1)", "late_x_key"),
        // PostgreSQL prepares none of these.
        ("notify other", "NOTIFY"),
        ("create temporary table t (x integer)", "temporary"),
        // Its own statements have ended it.
        ("rollback", "by its SQL"),
    ];
    for (sql, why) in breaks {
        let mut tx = across.written_with_event("one").await;
        let branch = tx.branch(across.at(1)).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *branch.inner).await.unwrap();
        let error = tx.commit().await.unwrap_err();
        let text = es_core::chain(&error);
        assert!(text.contains(why) && text.contains("\"billing\""), "{text}");
        assert_eq!(error.kind(), ErrorKind::Misuse, "{text}");
    }
    // A statement has failed, and nobody has looked.
    let mut tx = across.written_with_event("one").await;
    let branch = tx.branch(across.at(1)).await.unwrap();
    sqlx::raw_sql("select 1 / 0").execute(&mut *branch.inner).await.unwrap_err();
    tx.commit().await.unwrap_err();
    across.is_at_rest().await;
    assert_eq!((across.have("one").await, across.events().await, decisions(&across).await), (0, 0, 0));
    // Whoever has the connections next is not in its way.
    for n in 1..=8 {
        across.written("next").await.commit().await.unwrap();
        assert_eq!(across.have("next").await, 2 * n);
    }
}

/// A6
pub(super) async fn a_decision_that_nobody_can_hear_is_found_out_later<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    // Decided, and a branch cannot be reached: the others need not wait.
    for fault in [Fault::Lost, Fault::Unheard] {
        across.at(1).will(At::Commit, fault);
        let done = across.written_with_event("one").await.commit().await.unwrap();
        assert_eq!(done.pending, ["billing"]);
        done.wait_all().await.unwrap();
        across.is_at_rest().await;
    }
    assert_eq!((across.have("one").await, across.events().await), (4, 2));
}

/// A7
pub(super) async fn a_participant_that_is_not_configured_cannot_be_in_a_transaction<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let mut tx = across.another(&[1]).await.begin();
    let error = tx.branch(across.at(0)).await.err().expect("recovery would not know it");
    assert!(error.to_string().contains("\"stock\""), "{error}");
    // Nor one of another type under its name.
    let mut tx = across.two_phase.begin();
    write(&mut tx, across.at(0), "one").await;
    let error = tx.branch(&across.at(0).inner).await.expect_err("it is of another type");
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    let twice = TwoPhase::on(across.backend.clone()).unwrap();
    let twice = twice.participant(across.at(0).clone()).participant(across.at(0).clone()).build();
    assert!(twice.unwrap_err().to_string().contains("\"stock\""));
}

/// A8
pub(super) async fn two_databases_of_one_server_are_two_participants<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let gates = [across.at(0).stops(At::Prepare, true), across.at(1).stops(At::Prepare, true)];
    let tx = across.written("one").await;
    let (txn, cluster) = (tx.id(), es_core::EventStore::identity(&across.backend));
    crashes(tx.commit(), &gates).await;
    for (i, name) in ["stock", "billing"].into_iter().enumerate() {
        let gid = format!("es:{}:{}:{name}", cluster.simple(), txn.simple());
        assert_eq!(across.prepared(i).await, [gid]);
        let seen = across.at(i).inner.prepared(cluster).await.unwrap();
        assert_eq!(seen.iter().map(|prepared| prepared.id.name()).collect::<Vec<_>>(), [name]);
        // Of another store it is none.
        assert_eq!(across.at(i).inner.prepared(Uuid::nil()).await.unwrap(), []);
    }
    // Each is ended from its own database.
    let id = BranchId::new(cluster, txn, "stock").unwrap();
    across.at(1).inner.abort(&id).await.unwrap_err();
    assert_eq!(across.at(0).inner.abort(&id).await.unwrap(), Fate::Aborted);
    let found = across.another_node().await.recover().await.unwrap();
    assert_eq!((found.committed, found.aborted), (0, 1));
    across.is_at_rest().await;
}

/// A service with a contract of its own: it keeps what it is asked for until it is told.
#[derive(Clone, Debug, Default)]
struct Courier(Arc<Mutex<BTreeMap<BranchId, Kept>>>);

#[derive(Debug)]
struct Kept {
    what: String,
    fate: Fate,
    /// It was prepared, and waits still or not.
    prepared: Option<bool>,
}

impl Courier {
    fn booked(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.values().filter(|kept| kept.fate == Fate::Committed).map(|kept| kept.what.clone()).collect()
    }

    /// Of those that were prepared.
    fn ends(&self, id: &BranchId, to: Fate) -> Fate {
        match self.0.lock().unwrap().get_mut(id) {
            Some(Kept { fate, prepared: Some(waits), .. }) => {
                if std::mem::take(waits) {
                    *fate = to;
                }
                *fate
            }
            _ => Fate::Aborted,
        }
    }
}

struct Booking {
    at: Courier,
    id: BranchId,
    what: Option<String>,
}

impl Booking {
    fn keep(self, fate: Fate, prepared: Option<bool>) {
        let what = self.what.unwrap_or_default();
        self.at.0.lock().unwrap().entry(self.id).or_insert(Kept { what, fate, prepared });
    }
}

#[async_trait]
impl Participant for Courier {
    type Branch = Booking;
    fn name(&self) -> &'static str {
        "courier"
    }
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
    async fn begin(&self, id: &BranchId) -> Result<Booking, StoreError> {
        Ok(Booking { at: self.clone(), id: id.clone(), what: None })
    }
    async fn commit(&self, id: &BranchId) -> Result<Fate, StoreError> {
        Ok(self.ends(id, Fate::Committed))
    }
    async fn abort(&self, id: &BranchId) -> Result<Fate, StoreError> {
        Ok(self.ends(id, Fate::Aborted))
    }
    async fn was_committed(&self, id: &BranchId) -> Result<Marked, StoreError> {
        let all = self.0.lock().unwrap();
        let is_committed = |kept: &Kept| kept.prepared == Some(false) && kept.fate == Fate::Committed;
        let committed = all.get(id).is_some_and(is_committed).then(|| id.name().to_owned());
        Ok(Marked::Committed(committed.into_iter().collect()))
    }
    async fn outcome(&self, id: &BranchId) -> Result<Fate, StoreError> {
        let never = || Kept { what: String::new(), fate: Fate::Aborted, prepared: None };
        Ok(self.0.lock().unwrap().entry(id.clone()).or_insert_with(never).fate)
    }
    async fn prepared(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        let all = self.0.lock().unwrap();
        let waits = all.iter().filter(|(id, kept)| kept.prepared == Some(true) && id.cluster() == cluster);
        Ok(waits.map(|(id, _)| Prepared { id: id.clone(), age: Duration::ZERO }).collect())
    }
}

#[async_trait]
impl Branch for Booking {
    async fn has_written(&mut self) -> Result<bool, StoreError> {
        Ok(self.what.is_some())
    }
    async fn end(self) -> Result<(), StoreError> {
        Ok(())
    }
    async fn prepare(self) -> Result<(), StoreError> {
        if self.what.as_deref() == Some("too heavy") {
            return Err(StoreError::misuse("it is too heavy"));
        }
        self.keep(Fate::Aborted, Some(true));
        Ok(())
    }
    async fn commit(self) -> Result<(), StoreError> {
        self.keep(Fate::Committed, None);
        Ok(())
    }
    async fn rollback(self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A9
pub(super) async fn a_service_can_take_part<S: Subject>(subject: &S) {
    let across = Across::open(subject, 1).await;
    let courier = Courier::default();
    let two_phase = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::ZERO);
    let two_phase = two_phase.participant(across.at(0).clone()).participant(courier.clone()).build().unwrap();
    let order = async |what: &str| {
        let mut tx = two_phase.begin();
        write(&mut tx, across.at(0), what).await;
        tx.branch(&courier).await.unwrap().what = Some(what.to_owned());
        append(&mut tx, what).await;
        tx
    };
    order("lamp").await.commit().await.unwrap();
    let error = order("too heavy").await.commit().await.unwrap_err();
    assert!(es_core::chain(&error).contains("it is too heavy"));
    let gate = across.at(0).stops(At::Prepare, true);
    crashes(order("vase").await.commit(), &[gate]).await;
    let found = two_phase.recover().await.unwrap();
    assert_eq!((found.committed, found.aborted), (0, 2));
    let gate = across.at(0).stops(At::Commit, false);
    let hangs = async {
        gate.met().await;
        gate.let_go();
    };
    let (done, ()) = futures::join!(order("chair").await.commit(), hangs);
    done.unwrap().wait_all().await.unwrap();
    assert_eq!(courier.booked(), ["lamp", "chair"]);
    assert_eq!((across.have("lamp").await, across.have("vase").await, across.have("chair").await), (1, 0, 1));
    assert_eq!(across.events().await, 2);
}
