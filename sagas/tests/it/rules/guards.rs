//! Guard rows in a second database: D1 to D7, D12, D19.

use std::sync::Arc;
use std::time::Duration;

use es_core::ErrorKind;
use es_core::clock::Clock as _;
use es_core::guard::{
    self, Guard, GuardError, GuardKey, GuardRows as _, Guarded, GuardedDatabase as _, Outcome, Undoing,
};
use es_core::id::Ids;
use es_core::testing::TestClock;
use uuid::Uuid;

use super::shaky::{Fault, Ledger, Shaky, ShakyTx, WithOther};

/// What the calls are made with, unless it matters.
const WITH: u128 = 7;

struct Desk<D> {
    database: Shaky<D>,
    clock: TestClock,
    ids: Ids,
}

impl<D: Ledger + Clone> Desk<D> {
    async fn open<S: WithOther<Other = D>>(subject: &S) -> Self {
        let database = subject.other().await;
        database.make().await;
        let clock = TestClock::default();
        let ids = Ids::new(Arc::new(clock.clone()), Arc::new(es_core::entropy::SystemEntropy));
        Self { database: Shaky::new(database), clock, ids }
    }

    fn call(&self, run: Uuid) -> Guard<'_, Shaky<D>> {
        self.with(run, WITH)
    }

    fn with(&self, run: Uuid, fingerprint: u128) -> Guard<'_, Shaky<D>> {
        Guard::new(&self.database, GuardKey::new(run, "order/stock").unwrap(), fingerprint)
    }

    /// A call that writes "done" and answers `1`.
    async fn act(&self, run: Uuid) -> Result<Done, GuardError> {
        let call = self.call(run);
        match call.forward().await? {
            Guarded::Run(mut tx) => {
                write::<D>(&mut tx, "done").await;
                call.done(tx, "1".to_owned()).await?;
                Ok(Done::Acted)
            }
            Guarded::Done(output) => Ok(Done::Known(output)),
            Guarded::Refused(why) => Ok(Done::Refused(why)),
        }
    }

    /// An undo that writes "undone".
    async fn undo(&self, run: Uuid) -> Result<Option<Option<String>>, GuardError> {
        let call = self.call(run);
        match call.undo(false).await? {
            Undoing::Run(mut tx, output) => {
                write::<D>(&mut tx, "undone").await;
                call.undone(tx).await?;
                Ok(Some(output))
            }
            Undoing::Nothing => Ok(None),
        }
    }

    async fn written(&self) -> Vec<String> {
        self.database.written().await
    }
}

async fn write<D: Ledger>(tx: &mut ShakyTx<D::Tx>, what: &str) {
    D::write(&mut tx.tx, what).await.unwrap();
}

/// What a call came to.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Acted,
    Known(String),
    Refused(String),
}

fn known() -> Done {
    Done::Known("1".to_owned())
}

/// D1
pub(super) async fn a_call_whose_commit_is_in_doubt_acts_once<S: WithOther>(subject: &S) {
    let desk = Desk::open(subject).await;
    let run = desk.ids.next();
    desk.database.will(&[Fault::Lost, Fault::Unheard]);
    for _ in 0..2 {
        let error = desk.act(run).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    }
    assert_eq!(desk.act(run).await.unwrap(), known());
    assert_eq!(desk.written().await, ["done"]);
    // The same for its undo.
    desk.database.will(&[Fault::Lost, Fault::Unheard]);
    for _ in 0..2 {
        desk.undo(run).await.unwrap_err();
    }
    assert_eq!(desk.undo(run).await.unwrap(), None);
    assert_eq!(desk.written().await, ["done", "undone"]);
    // Calls of another run, and of another name, are others.
    assert_eq!(desk.act(desk.ids.next()).await.unwrap(), Done::Acted);
    let other = Guard::new(&desk.database, GuardKey::new(run, "order/pay").unwrap(), WITH);
    assert!(matches!(other.forward().await.unwrap(), Guarded::Run(_)));
}

/// D2
pub(super) async fn a_call_that_comes_after_its_undo_never_runs<S: WithOther>(subject: &S) {
    let desk = Desk::open(subject).await;
    let (first, undone) = (desk.ids.next(), desk.ids.next());
    assert_eq!(desk.undo(first).await.unwrap(), None);
    assert_eq!(desk.act(undone).await.unwrap(), Done::Acted);
    assert_eq!(desk.undo(undone).await.unwrap(), Some(Some("1".to_owned())));
    for run in [first, undone] {
        for _ in 0..2 {
            let error = desk.act(run).await.unwrap_err();
            assert!(matches!(error, GuardError::Hanging), "{error}");
        }
        assert_eq!(desk.undo(run).await.unwrap(), None);
    }
    assert_eq!(desk.written().await, ["done", "undone"]);
}

/// D3
pub(super) async fn a_refusal_leaves_nothing_and_is_repeated<S: WithOther>(subject: &S) {
    let desk = Desk::open(subject).await;
    let run = desk.ids.next();
    let refuse = async || {
        let call = desk.call(run);
        let Guarded::Run(mut tx) = call.forward().await.unwrap() else { panic!("it has an answer") };
        write::<S::Other>(&mut tx, "done").await;
        call.refused(tx, "sold \"out\"".to_owned()).await
    };
    desk.database.will(&[Fault::Lost]);
    refuse().await.unwrap_err();
    assert_eq!(refuse().await.unwrap(), Err("sold \"out\"".to_owned()));
    for _ in 0..2 {
        assert_eq!(desk.act(run).await.unwrap(), Done::Refused("sold \"out\"".to_owned()));
    }
    assert_eq!(desk.undo(run).await.unwrap(), None);
    assert_eq!(desk.act(run).await.unwrap(), Done::Refused("sold \"out\"".to_owned()));
    // A statement that fails may have ended its transaction.
    let run = desk.ids.next();
    let call = desk.call(run);
    let Guarded::Run(mut tx) = call.forward().await.unwrap() else { panic!("it has an answer") };
    write::<S::Other>(&mut tx, "done").await;
    S::Other::spoil(&mut tx.tx).await;
    assert_eq!(call.refused(tx, "no".to_owned()).await.unwrap(), Err("no".to_owned()));
    assert_eq!(desk.act(run).await.unwrap(), Done::Refused("no".to_owned()));
    assert_eq!(desk.written().await, [""; 0]);
    // Another call under the key was faster.
    let (run, other) = (desk.ids.next(), desk.ids.next());
    for (run, undo) in [(run, false), (other, true)] {
        match undo {
            true => assert_eq!(desk.undo(run).await.unwrap(), None),
            false => assert_eq!(desk.act(run).await.unwrap(), Done::Acted),
        }
        let tx = desk.database.begin().await.unwrap();
        let refused = desk.call(run).refused(tx, "no".to_owned()).await;
        match undo {
            true => assert!(matches!(refused, Err(GuardError::Hanging)), "{refused:?}"),
            false => assert_eq!(refused.unwrap(), Ok("1".to_owned())),
        }
    }
}

/// D4
pub(super) async fn an_undo_waits_for_the_call_that_runs<S: WithOther>(subject: &S) {
    let desk = Desk::open(subject).await;
    // It ends well, or it is rolled back, and the undo was there before that.
    for commits in [true, false] {
        let run = desk.ids.next();
        let call = desk.call(run);
        let Guarded::Run(mut tx) = call.forward().await.unwrap() else { panic!("it has an answer") };
        write::<S::Other>(&mut tx, "done").await;
        let impatient = desk.database.inner.impatient().await;
        let early = Guard::new(&impatient, GuardKey::new(run, "order/stock").unwrap(), WITH);
        let error = early.undo(false).await.err().expect("it is not let in");
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        let end = async {
            match commits {
                true => call.done(tx, "1".to_owned()).await.unwrap(),
                false => tx.rollback().await.unwrap(),
            }
        };
        let (undone, ()) = futures::join!(desk.undo(run), end);
        assert_eq!(undone.unwrap(), commits.then(|| Some("1".to_owned())));
        assert!(matches!(desk.act(run).await, Err(GuardError::Hanging)));
    }
    assert_eq!(desk.written().await, ["done", "undone"]);
    // Both at once: one of the two orders.
    let mut orders = [0, 0];
    for _ in 0..20 {
        let run = desk.ids.next();
        match futures::join!(desk.act(run), desk.undo(run)) {
            (Ok(Done::Acted), Ok(Some(Some(_)))) => orders[0] += 1,
            (Err(GuardError::Hanging), Ok(None)) => orders[1] += 1,
            both => panic!("{both:?}"),
        }
    }
    assert_eq!(desk.written().await.len(), 2 + 2 * orders[0], "{orders:?}");
}

/// D5
pub(super) async fn what_was_forgotten_is_refused_and_never_run<S: WithOther>(subject: &S) {
    let desk = Desk::open(subject).await;
    let (done, refused, late) = (desk.ids.next(), desk.ids.next(), desk.ids.next());
    assert_eq!(desk.act(done).await.unwrap(), Done::Acted);
    let call = desk.call(refused);
    let Guarded::Run(tx) = call.forward().await.unwrap() else { panic!("it has an answer") };
    call.refused(tx, "no".to_owned()).await.unwrap().unwrap_err();
    desk.clock.advance(Duration::from_secs(60));
    let kept = desk.ids.next();
    assert_eq!(desk.act(kept).await.unwrap(), Done::Acted);
    let before = desk.clock.now();
    let forgotten = guard::forget(&desk.database, before).await.unwrap();
    assert_eq!(forgotten, 2);
    // The floor does not sink.
    desk.clock.advance(Duration::from_secs(60));
    let earlier = before - Duration::from_secs(3_600);
    assert_eq!(guard::forget(&desk.database, earlier).await.unwrap(), 0);
    for run in [done, refused, late] {
        let errors = [desk.act(run).await.map(drop), desk.undo(run).await.map(drop)];
        for error in errors {
            assert!(matches!(error, Err(GuardError::Expired)), "{error:?}");
        }
    }
    assert_eq!(desk.act(kept).await.unwrap(), known());
    assert_eq!(desk.act(desk.ids.next()).await.unwrap(), Done::Acted);
    assert_eq!(desk.written().await, ["done"; 3]);
    // While rows are deleted, a call waits for that, or is found: it does not act again.
    let mut tx = desk.database.begin().await.unwrap();
    desk.clock.advance(Duration::from_secs(60));
    let floor = desk.ids.at(desk.clock.now());
    tx.forget(floor).await.unwrap();
    let (answer, committed) = futures::join!(desk.act(kept), tx.commit());
    committed.unwrap();
    let error = match answer {
        // It went while it was read.
        Err(error) if error.kind() == ErrorKind::Transient => desk.act(kept).await.unwrap_err(),
        answer => answer.unwrap_err(),
    };
    assert!(matches!(error, GuardError::Expired), "{error}");
    assert_eq!(desk.written().await, ["done"; 3]);
}

/// D6
pub(super) async fn a_call_with_another_input_is_not_taken_for_the_same<S: WithOther>(subject: &S) {
    let desk = Desk::open(subject).await;
    let run = desk.ids.next();
    assert_eq!(desk.act(run).await.unwrap(), Done::Acted);
    let other = desk.with(run, WITH + 1);
    let error = other.forward().await.err().expect("it is another call");
    assert!(matches!(error, GuardError::OtherInput), "{error}");
    assert_eq!(desk.act(run).await.unwrap(), known());
    // An undo needs no input.
    assert!(matches!(other.undo(true).await.unwrap(), Undoing::Run(_, Some(_))));
    // What is said to have run, and has left no trace, is not taken for undone; its call is barred all the same.
    let run = desk.ids.next();
    for _ in 0..2 {
        let error = desk.call(run).undo(true).await.err().expect("it has left no trace");
        assert!(matches!(error, GuardError::NoTrace), "{error}");
    }
    assert!(matches!(desk.act(run).await, Err(GuardError::Hanging)));
    assert_eq!(desk.written().await, ["done"]);
}

/// D12
pub(super) async fn what_has_failed_within_a_call_is_not_committed<S: WithOther>(subject: &S) {
    let desk = Desk::open(subject).await;
    let run = desk.ids.next();
    let call = desk.call(run);
    for writes in [true, false] {
        let Guarded::Run(mut tx) = call.forward().await.unwrap() else { panic!("it has an answer") };
        write::<S::Other>(&mut tx, "before").await;
        S::Other::spoil(&mut tx.tx).await;
        if writes {
            S::Other::write(&mut tx.tx, "after").await.unwrap_err();
        }
        call.done(tx, "1".to_owned()).await.unwrap_err();
        assert_eq!(desk.written().await, [""; 0]);
    }
    // Whoever has the connection next is not in its way.
    for n in 1..=8 {
        assert_eq!(desk.act(desk.ids.next()).await.unwrap(), Done::Acted);
        assert_eq!(desk.written().await.len(), n);
    }
    assert_eq!(desk.act(run).await.unwrap(), Done::Acted);
}

/// D20
pub(super) async fn whether_a_call_has_run_is_answered_for_good<S: WithOther>(subject: &S) {
    let desk = Desk::open(subject).await;
    let (ran, never) = (desk.ids.next(), desk.ids.next());
    assert_eq!(desk.act(ran).await.unwrap(), Done::Acted);
    desk.database.will(&[Fault::Lost, Fault::Unheard]);
    for _ in 0..2 {
        // It is not known whether the answer is there for others.
        desk.call(never).outcome().await.unwrap_err();
    }
    for _ in 0..2 {
        assert_eq!(desk.call(ran).outcome().await.unwrap(), Outcome::Ran);
        assert_eq!(desk.call(never).outcome().await.unwrap(), Outcome::Never(None));
    }
    assert!(matches!(desk.act(never).await, Err(GuardError::Hanging)));
    // It is asked while the call runs: the answer waits for that.
    for commits in [true, false] {
        let run = desk.ids.next();
        let call = desk.call(run);
        let Guarded::Run(tx) = call.forward().await.unwrap() else { panic!("it has an answer") };
        let end = async {
            match commits {
                true => call.done(tx, "1".to_owned()).await.unwrap(),
                false => tx.rollback().await.unwrap(),
            }
        };
        let (outcome, ()) = futures::join!(call.outcome(), end);
        assert_eq!(outcome.unwrap(), if commits { Outcome::Ran } else { Outcome::Never(None) });
    }
    desk.clock.advance(Duration::from_secs(60));
    guard::forget(&desk.database, desk.clock.now()).await.unwrap();
    for run in [ran, never] {
        assert!(matches!(desk.call(run).outcome().await, Err(GuardError::Expired)));
    }
}

/// D7
pub(super) async fn a_database_without_tables_says_what_to_do<S: WithOther>(subject: &S) {
    let database = subject.other().await;
    let error = guard::check(&database).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("::install"), "{error}");
    let run = Ids::default().next();
    let call = Guard::new(&database, GuardKey::new(run, "order/stock").unwrap(), WITH);
    let error = es_core::chain(&call.forward().await.err().expect("there are no tables"));
    assert!(error.contains("::install"), "{error}");
    database.make().await;
    guard::check(&database).await.unwrap();
    assert!(matches!(call.forward().await.unwrap(), Guarded::Run(_)));
}
