//! Programs that handle more than a build did, when something goes wrong: P17.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::data::encoded;
use super::domain::{Deposited, Opened, opened};
use super::double::{Double, Line};
use super::inline::refused_start;
use super::patient::{Patient, ask, commit};
use super::payments::{answered, eventually, payment, rows};
use super::{LIMIT, Subject, settle, start, store};
use crate::processor::{Backfill, Processor, ProcessorOptions, ProcessorState, Rebuild, RebuildOptions};
use crate::projection::{Change, Code, OnFailure, Project, Projection, View};
use crate::store::{
    Backend, Commit, EventFilter, ExpectedVersion, INLINE, NewEvent, RecordedEvent, StoredRow,
};
use crate::{App, AppBuilder, BoxError};

/// Short, so that a node which has gone is soon known to be.
const LEASE: Duration = Duration::from_millis(400);
const ACCOUNT: &str = "account-a";

type Store<S> = Patient<<S as Subject>::Backend>;

/// What was paid into each account, and with any code but 0, a hundred for its opening. Openings fail while it is broken, and
/// halt the build.
struct Fees<S, const CODE: u64>(Broken, PhantomData<fn() -> S>);

#[derive(Clone, Default)]
struct Broken(Arc<AtomicBool>);

impl Broken {
    fn set(&self, broken: bool) {
        self.0.store(broken, Ordering::SeqCst);
    }
}

impl<S: Subject, const CODE: u64> Projection for Fees<S, CODE> {
    const NAME: &'static str = "fees";
    const SCHEMA: &'static str = S::PAID;
    const ON_FAILURE: OnFailure = OnFailure::Stop;
    fn filter() -> EventFilter {
        filter(CODE > 0)
    }
    fn code() -> Code {
        code(CODE, CODE > 0)
    }
}

impl<S: Subject, const CODE: u64> Project<<S::Backend as Backend>::Tx> for Fees<S, CODE> {
    async fn project(
        &self,
        event: &RecordedEvent,
        tx: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        if let Some(Deposited { amount, .. }) = event.payload::<Deposited>()? {
            return S::pay(tx, event.stream.as_str(), amount).await;
        }
        if self.0.0.load(Ordering::SeqCst) {
            return Err("openings cannot be handled".into());
        }
        S::pay(tx, event.stream.as_str(), 100).await
    }
}

fn filter(openings: bool) -> EventFilter {
    let payments = EventFilter::of::<Deposited>();
    if openings { payments.or(EventFilter::of::<Opened>()) } else { payments }
}

fn code(code: u64, openings: bool) -> Code {
    let code = Code::new(code).handling::<Deposited>();
    if openings { code.handling::<Opened>() } else { code }
}

fn wiring<const CODE: u64, S: Subject, B: Backend<Tx = <S::Backend as Backend>::Tx> + Clone>(
    backend: &B,
    broken: &Broken,
) -> AppBuilder<B> {
    let at_once = Duration::from_millis(1);
    let fees = Fees::<S, CODE>(broken.clone(), PhantomData);
    App::on(backend.clone()).projection(fees).lease(LEASE).processor_retries(1, at_once, at_once)
}

async fn run<const CODE: u64, S: Subject>(subject: &S, of: &Store<S>, broken: &Broken) -> App {
    let backend = subject.again(&of.0).await;
    start(|| wiring::<CODE, S, _>(&backend, broken)).await
}

async fn put<S: Subject>(store: &Store<S>, event: NewEvent) {
    store.put(ACCOUNT, vec![event]).await;
}

/// A program that does not handle openings has passed one.
async fn passed<S: Subject>(subject: &S, store: &Store<S>, broken: &Broken) -> App {
    let less = run::<0, S>(subject, store, broken).await;
    put::<S>(store, encoded(&opened("Ada"))).await;
    put::<S>(store, payment(1)).await;
    settle(&less).await;
    less
}

async fn end(app: App) {
    assert!(app.shutdown(LIMIT).await);
}

fn fees(app: &App) -> &Processor {
    app.processors().iter().find(|processor| processor.name() == "fees/1").expect("the app runs it")
}

/// What queries read.
async fn paid<S: Subject>(store: &Store<S>, expected: i64) {
    eventually(|| async {
        let paid = S::paid(&store.0).await.map_err(|e| e.to_string())?;
        if paid.get(ACCOUNT) == Some(&expected) { Ok(()) } else { Err(format!("{paid:?}")) }
    })
    .await;
}

async fn until_halted(rebuild: &Rebuild) {
    eventually(async || match Box::pin(rebuild.progress()).next().await {
        Some(Ok(progress)) if matches!(progress.state, ProcessorState::Halted { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// P17
pub async fn a_rebuild_by_itself_that_is_halted_holds_nothing_up<S: Subject>(subject: S) {
    let (store, broken) = (store(&subject).await, Broken::default());
    let less = passed(&subject, &store, &broken).await;
    broken.set(true);
    let line = Double::new(subject.again(&store.0).await);
    let more = start(|| wiring::<1, S, _>(&line, &broken)).await;
    let rebuild = ask(|| fees(&more).rebuilding()).await.expect("it has begun by itself");
    until_halted(&rebuild).await;
    // It catches up, and is halted again before queries could be switched to it.
    line.set(Line::Refuses("generations"));
    broken.set(false);
    ask(|| fees(&more).resume()).await;
    eventually(async || if line.refusals() > 0 { Ok(()) } else { Err("it does not switch".to_owned()) })
        .await;
    broken.set(true);
    put::<S>(&store, encoded(&opened("Bob"))).await;
    until_halted(&rebuild).await;
    line.set(Line::Up);
    let steps = line.commits("generations").len();
    for n in 2..8 {
        // All of them together are longer than the pause after a switch that failed.
        tokio::time::sleep(LEASE).await;
        put::<S>(&store, payment(1)).await;
        settle(&less).await;
        paid::<S>(&store, n).await;
    }
    assert_eq!(line.commits("generations").len(), steps, "what is read was held for a build that is halted");
    assert!(!more.ready());
    broken.set(false);
    ask(|| fees(&more).resume()).await;
    more.until_ready(LIMIT).await.unwrap_or_else(|late| panic!("{late}"));
    paid::<S>(&store, 207).await;
}

/// Until a program makes the build that queries read; whether that is known to lack events.
async fn made_by<const CODE: u64, S: Subject>(store: &Store<S>) -> bool {
    let code = Fees::<S, CODE>::code().fingerprint();
    let row = async || rows(store, "es.codes").await.into_iter().find(|(build, _)| build == "fees/1~1");
    eventually(async || match row().await {
        Some((_, row)) if row["code"] == code => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    row().await.is_some_and(|(_, row)| row["incomplete"] == true)
}

/// A program that handles more continues a build without what was passed, for the one that has it is halted.
async fn continued<S: Subject>(subject: &S, store: &Store<S>, broken: &Broken) {
    end(passed(subject, store, broken).await).await;
    broken.set(true);
    let more = run::<1, S>(subject, store, broken).await;
    assert!(made_by::<1, S>(store).await);
    end(more).await;
}

/// P17
pub async fn what_a_build_lacks_is_not_forgotten_by_the_next_program<S: Subject>(subject: S) {
    let (store, broken) = (store(&subject).await, Broken::default());
    continued(&subject, &store, &broken).await;
    let next = run::<2, S>(&subject, &store, &broken).await;
    assert!(made_by::<2, S>(&store).await, "it has missed them too");
    assert!(!next.ready());
    // Also if the rebuild that was to have them is given up.
    let given_up = ask(|| fees(&next).rebuilding()).await.expect("it is under way");
    answered(|| given_up.abort()).await.expect("it is not read");
    eventually(async || match fees(&next).rebuilding().await {
        Ok(Some(rebuild)) if rebuild.generation() > given_up.generation() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    broken.set(false);
    ask(|| fees(&next).resume()).await;
    next.until_ready(LIMIT).await.unwrap_or_else(|late| panic!("{late}"));
    paid::<S>(&store, 101).await;
}

/// P17
pub async fn what_a_build_lacks_is_known_after_a_rollback<S: Subject>(subject: S) {
    let (store, broken) = (store(&subject).await, Broken::default());
    continued(&subject, &store, &broken).await;
    let less = run::<0, S>(&subject, &store, &broken).await;
    assert!(!made_by::<0, S>(&store).await, "it has all that it handles");
    put::<S>(&store, payment(1)).await;
    settle(&less).await;
    paid::<S>(&store, 2).await;
    end(less).await;
    let options = ProcessorOptions::default().backfill(Backfill::Refuse);
    let said = refused_start(|| wiring::<2, S, _>(&store.0, &broken).processors(options)).await;
    assert!(said.contains("handles account.opened now") && said.contains("the first at #1:"), "{said}");
}

/// P17
pub async fn what_a_build_lacks_is_known_after_a_fix_is_rolled_back<S: Subject>(subject: S) {
    let (store, broken) = (store(&subject).await, Broken::default());
    continued(&subject, &store, &broken).await;
    let next = run::<2, S>(&subject, &store, &broken).await;
    assert!(made_by::<2, S>(&store).await);
    // The rebuild is that of the fix, too.
    let fix = Fees::<S, 2>::code().fingerprint();
    eventually(async || {
        match rows(&store, "es.codes").await.into_iter().find(|(build, _)| build == "fees/1~2") {
            Some((_, row)) if row["code"] == fix => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    end(next).await;
    let back = run::<1, S>(&subject, &store, &broken).await;
    assert!(made_by::<1, S>(&store).await, "it lacks what it lacked when this program made it");
    assert!(!back.ready());
    broken.set(false);
    ask(|| fees(&back).resume()).await;
    back.until_ready(LIMIT).await.unwrap_or_else(|late| panic!("{late}"));
    paid::<S>(&store, 101).await;
}

/// Views of a program: one that has another code in the next program, one that then handles openings too, and one that is
/// inline and gets another version.
const VIEWS: [&str; 3] = ["recoded", "strict", "inlined"];
const RECODED: usize = 0;
const STRICT: usize = 1;
const INLINED: usize = 2;

/// Counts events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts<const VIEW: usize, const PROGRAM: u32>(u64);

impl<const VIEW: usize, const PROGRAM: u32> Counts<VIEW, PROGRAM> {
    const OPENINGS: bool = VIEW == STRICT && PROGRAM == 2;
}

impl<const VIEW: usize, const PROGRAM: u32> Projection for Counts<VIEW, PROGRAM> {
    const NAME: &'static str = VIEWS[VIEW];
    const VERSION: u32 = if VIEW == INLINED { PROGRAM } else { 1 };
    fn filter() -> EventFilter {
        filter(Self::OPENINGS)
    }
    fn code() -> Code {
        code(PROGRAM.into(), Self::OPENINGS)
    }
}

impl<const VIEW: usize, const PROGRAM: u32> View for Counts<VIEW, PROGRAM> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), count)])
    }
}

/// Which builds there are, who makes them, and what is inline.
pub(super) async fn state<S: Subject>(store: &Store<S>) -> Vec<Vec<StoredRow>> {
    let mut all = Vec::new();
    for table in ["es.codes", "generations", INLINE.0] {
        all.push(store.scan(table, 1_000).await);
    }
    all
}

/// P17, P18
pub async fn a_start_that_is_refused_changes_nothing<S: Subject>(subject: S) {
    let (store, broken) = (store(&subject).await, Broken::default());
    for event in [encoded(&opened("Ada")), payment(1)] {
        put::<S>(&store, event).await;
    }
    let backend = subject.again(&store.0).await;
    let old = start(|| {
        let views = wiring::<0, S, _>(&backend, &broken).view::<Counts<RECODED, 1>>();
        views.view::<Counts<STRICT, 1>>().inline_view::<Counts<INLINED, 1>>()
    })
    .await;
    settle(&old).await;
    let new = || {
        let views = wiring::<1, S, _>(&store.0, &broken).view::<Counts<RECODED, 2>>();
        views.view::<Counts<STRICT, 2>>()
    };
    let inline = || new().inline_view::<Counts<INLINED, 2>>().retire_inline("inlined/1");
    let mut before = state::<S>(&store).await;
    assert_eq!(before.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 1]);
    let refuses = ProcessorOptions::default().backfill(Backfill::Refuse);
    let said = refused_start(|| inline().processor_options("strict", refuses)).await;
    assert!(said.contains("strict/1~1: it handles account.opened now"), "{said}");
    assert_eq!(state::<S>(&store).await, before);
    // It does not know what is inline.
    let said = refused_start(new).await;
    assert!(said.contains("inlined/1 is inline"), "{said}");
    assert_eq!(state::<S>(&store).await, before);
    // One of those that are to be rebuilt cannot be.
    let rebuild = ask(|| fees(&old).rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    ask(|| rebuild.switch()).await;
    before = state::<S>(&store).await;
    let said = refused_start(inline).await;
    assert!(said.contains("an older build is kept"), "{said}");
    assert_eq!(state::<S>(&store).await, before);
    // The older program writes and answers as before.
    let more = || Commit::default().and(ACCOUNT, ExpectedVersion::Any, vec![payment(1)]);
    commit(old.store(), more()).await.expect("its inline projections are those of the store");
    settle(&old).await;
    paid::<S>(&store, 2).await;
}
