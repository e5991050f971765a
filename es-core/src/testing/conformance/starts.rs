//! What the start of a program leaves to others if it is refused, or ends early: P16, P17, P18.

use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backfills::state;
use super::cluster::overwrite;
use super::deploys::{Beside, Coded};
use super::domain::Donate;
use super::double::{Double, Line};
use super::inline_code::{
    Counts, EVERYTHING, LEASE, LESS, MORE, app, counts, inline, open, pay, says, starts,
};
use super::patient::{Patient, ask};
use super::payments::{eventually, payment, rows};
use super::reactors::Posts;
use super::renames::Named;
use super::versions::Paid;
use super::{LIMIT, Subject, sent, settle, start, store};
use crate::command::CommandError;
use crate::processor::{Backfill, ProcessorOptions, RebuildOptions};
use crate::projection::{Change, Project, Projection, View};
use crate::store::{
    Backend, Commit, CommitError, EventFilter, EventStore as _, RecordedEvent, RowStore, RowWrite, StoredRow,
    Tables,
};
use crate::{App, AppBuilder, BoxError, ErrorKind};

/// What only the last commit of a view that becomes inline writes, if it was there before.
const LAST_COMMIT: Line = Line::HoldsCommits("generations");

/// The table of another program, under the name and the version of this one's.
struct Altered<S>(PhantomData<fn() -> S>);

impl<S: Subject> Projection for Altered<S> {
    const NAME: &'static str = Paid::<S, 1>::NAME;
    const SCHEMA: &'static str = "create table elsewhere (n integer)";
    fn filter() -> EventFilter {
        Paid::<S, 1>::filter()
    }
}

impl<S: Subject> Project<<S::Backend as Backend>::Tx> for Altered<S> {
    async fn project(&self, _: &RecordedEvent, _: &mut <S::Backend as Backend>::Tx) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The same where there are tables.
struct Reshaped<S>(PhantomData<fn() -> S>);

impl<S: Subject> Projection for Reshaped<S> {
    const NAME: &'static str = Altered::<S>::NAME;
    const SCHEMA: &'static str = if S::PAID.is_empty() { "" } else { Altered::<S>::SCHEMA };
    fn filter() -> EventFilter {
        Altered::<S>::filter()
    }
}

impl<S: Subject> Project<<S::Backend as Backend>::Tx> for Reshaped<S> {
    async fn project(&self, _: &RecordedEvent, _: &mut <S::Backend as Backend>::Tx) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The same in rows by key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct InRows(u64);

impl Projection for InRows {
    const NAME: &'static str = "paid-versions";
    fn filter() -> EventFilter {
        EventFilter::all()
    }
}

impl View for InRows {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.to_string(), count)])
    }
}

/// P17
pub async fn a_projection_does_not_become_a_view_of_its_version<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let (other, posts) = (subject.again(&store.0).await, Posts::new(0));
    posts.open();
    let old = || app(&store.0).projection(Paid::<S, 1>::new()).reactor(Named::<false>(posts.clone()));
    let old = start(old).await;
    store.put("account-a", vec![payment(1)]).await;
    settle(&old).await;
    assert_eq!(Paid::<S, 1>::NAME, InRows::NAME);
    let before = state::<S>(&store).await;
    let new = || app(&other).view::<InRows>().reactor(Named::<true>(posts.clone()));
    says(new, "has begun as a projection of another kind").await;
    assert_eq!(state::<S>(&store).await, before);
}

/// P17, P18
pub async fn a_start_whose_tables_cannot_be_made_changes_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let posts = Posts::new(0);
    posts.open();
    let old = || {
        app(&store.0)
            .projection(Paid::<S, 1>::new())
            .reactor(Named::<false>(posts.clone()))
            .view::<Beside<1>>()
    };
    let old = start(old).await;
    store.put("account-a", vec![payment(1)]).await;
    settle(&old).await;
    let before = state::<S>(&store).await;
    let altered = || app(&other).projection(Altered::<S>(PhantomData));
    let new = || altered().reactor(Named::<true>(posts.clone())).view::<Beside<2>>();
    says(new, "the schema of projection paid-versions").await;
    assert_eq!(state::<S>(&store).await, before);
}

/// P18, P19
pub async fn a_version_whose_removal_was_cut_short_begins_with_other_tables<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = start(|| app(&store.0).projection(Paid::<S, 1>::new())).await;
    store.put("account-a", vec![payment(1)]).await;
    settle(&old).await;
    assert!(old.shutdown(LIMIT).await);
    let (key, mut row) = rows(&store, "generations").await.pop().expect("it is the only one");
    row["retiring"] = true.into();
    overwrite::<S>(&store, "generations", &key, row.to_string().as_bytes()).await;
    let new = start(|| app(&store.0).projection(Reshaped::<S>(PhantomData))).await;
    settle(&new).await;
}

/// P11
pub async fn a_start_makes_no_tables_of_a_build_that_is_just_removed<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = start(|| app(&store.0).projection(Paid::<S, 1>::new())).await;
    let rebuild = ask(|| old.processors()[0].rebuild_online(RebuildOptions::default())).await;
    assert!(old.shutdown(LIMIT).await);
    // Whoever removes it is faster than a start that has seen it.
    let tables = Tables { name: Paid::<S, 1>::NAME, version: 1, schema: S::PAID };
    let generation = rebuild.generation();
    store.uninstall(&tables, generation, Commit::default()).await.expect("queries do not read it");
    let other = subject.again(&store.0).await;
    let _new = start(|| app(&other).projection(Paid::<S, 1>::new())).await;
    let refused = loop {
        match store.0.begin_at(&tables, generation, LIMIT).await {
            Err(error) if error.kind() == ErrorKind::Transient => {}
            answer => break answer.map(drop).expect_err("its tables have gone"),
        }
    };
    assert!(refused.to_string().contains("is not installed"), "{refused}");
}

async fn holds<B>(line: &Double<B>) {
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
}

/// P16, P17
pub async fn a_view_is_not_retired_for_a_processor_that_may_not_continue<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let less = start(|| inline::<LESS, _>(&store.0)).await;
    open(&less, "a").await;
    pay(&less, "a").await;
    let before = state::<S>(&store).await;
    let refuses = ProcessorOptions::default().backfill(Backfill::Refuse);
    let more = || app(&other).view::<Counts<MORE>>().retire_inline("counts/1").processors(refuses);
    says(more, "handles account.opened now").await;
    assert_eq!(state::<S>(&store).await, before);
    pay(&less, "a").await;
    counts(&store, "account-a", 2).await;
}

/// P16, P18
pub async fn a_start_that_may_not_make_a_view_inline_takes_nothing_over<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let old = start(|| app(&store.0).view::<Beside<1>>().view::<Counts<LESS>>()).await;
    pay(&old, "a").await;
    settle(&old).await;
    let before = state::<S>(&store).await;
    let new = || app(&other).view::<Beside<2>>().inline_view::<Counts<LESS>>();
    says(new, "runs counts/1 by a processor").await;
    assert_eq!(state::<S>(&store).await, before);
}

/// A program that also makes a view inline that the one of before ran by a processor.
fn with_another<const CODE: u64, B: Backend + Clone>(backend: &B) -> AppBuilder<B> {
    inline::<CODE, _>(backend).inline_view::<Beside<1>>()
}

/// Until a program that runs both, one of them by a processor, has gone again.
async fn ran_by_a_processor<B: Backend + RowStore + Clone>(store: &Patient<B>) {
    let before = start(|| inline::<LESS, _>(&store.0).view::<Beside<1>>()).await;
    pay(&before, "a").await;
    settle(&before).await;
    assert!(before.shutdown(LIMIT).await);
}

/// P18
pub async fn a_program_that_is_lost_in_its_start_is_believed_in_for_a_lease<S: Subject>(subject: S) {
    let lease = Duration::from_secs(1);
    let store = store(&subject).await;
    ran_by_a_processor(&store).await;
    let line = Double::new(subject.again(&store.0).await);
    line.set(LAST_COMMIT);
    tokio::select! {
        _ = start(|| with_another::<MORE, _>(&line).lease(lease)) => panic!("its last commit is held"),
        // No node hears that it has gone.
        () = holds(&line) => line.set(Line::Down),
    }
    let now = ask(|| store.0.now()).await.as_microsecond();
    let row = store.row("es.codes", "counts/1~1").await.expect("it was taken over");
    let row: serde_json::Value = serde_json::from_slice(&row.data).expect("JSON");
    let believed = row["until"].as_i64().expect("a time") - now;
    assert!(i128::from(believed) <= i128::try_from(lease.as_micros()).expect("a second"), "{row}");
    let less = starts(|| inline::<LESS, _>(&store.0)).await;
    pay(&less, "a").await;
    counts(&store, "account-a", 2).await;
}

/// P18
pub async fn an_older_program_takes_nothing_back_while_a_newer_one_starts<S: Subject>(subject: S) {
    let store = store(&subject).await;
    ran_by_a_processor(&store).await;
    let line = Double::new(subject.again(&store.0).await);
    line.set(LAST_COMMIT);
    let older = async {
        holds(&line).await;
        // Long after it has taken the view over.
        tokio::time::sleep(LEASE * 5).await;
        says(|| inline::<LESS, _>(&store.0), "a program is alive that handles more").await;
        line.set(Line::Up);
    };
    let (more, ()) = futures::join!(start(|| with_another::<MORE, _>(&line)), older);
    open(&more, "b").await;
    counts(&store, "account-b", 1).await;
}

/// P16
pub async fn two_programs_that_make_other_views_inline_do_not_shut_each_other_out<S: Subject>(subject: S) {
    let store = store(&subject).await;
    ran_by_a_processor(&store).await;
    let retired = start(|| app(&store.0).retire_inline("counts/1")).await;
    let line = Double::new(subject.again(&store.0).await);
    line.set(LAST_COMMIT);
    let faster = async {
        holds(&line).await;
        let faster = start(|| inline::<LESS, _>(&store.0)).await;
        line.set(Line::Up);
        faster
    };
    let slower = || app(&line).inline_view::<Beside<1>>();
    let (faster, ()) = futures::join!(faster, says(slower, "counts/1 is inline in this store"));
    pay(&faster, "a").await;
    counts(&store, "account-a", 2).await;
    drop(retired);
}

/// A start that was refused is believed in for longer than any rule takes.
const LONG: Duration = Duration::from_secs(3_600);

/// Which code makes a build, without the revision of that.
async fn made_by<B: Backend + RowStore + Clone>(store: &Patient<B>, build: &str) -> serde_json::Value {
    let row = store.row("es.codes", build).await.expect("it was made");
    serde_json::from_slice(&row.data).expect("JSON")
}

/// No program is believed to be on its way with the code that makes a build.
async fn is_left<B: Backend + RowStore + Clone>(store: &Patient<B>, build: &str) {
    let (row, now) = (made_by(store, build).await, store.now().await.as_microsecond());
    assert!(row["until"].as_i64() <= Some(now), "{build} is kept from other programs: {row}");
}

/// P18
pub async fn a_start_that_is_refused_late_gives_back_what_it_has_taken_over<S: Subject>(subject: S) {
    let (store, posts) = (store(&subject).await, Posts::new(0));
    posts.open();
    ran_by_a_processor(&store).await;
    drop(start(|| app(&store.0).retire_inline("counts/1")).await);
    let other = subject.again(&store.0).await;
    // It is alive to the others, though the store is slow or fails when it says so.
    let old = || app(&other).view::<Coded<1>>().reactor(Named::<false>(posts.clone())).lease(LEASE * 10);
    let old = start(old).await;
    pay(&old, "a").await;
    settle(&old).await;
    let before = made_by(&store, "coded/1~1").await;
    let line = Double::new(subject.again(&store.0).await);
    line.set(LAST_COMMIT);
    let faster = async {
        holds(&line).await;
        assert_ne!(made_by(&store, "coded/1~1").await, before, "it was taken over");
        let faster = start(|| inline::<LESS, _>(&store.0)).await;
        line.set(Line::Up);
        faster
    };
    let refused = || {
        let new = app(&line).view::<Coded<2>>().reactor(Named::<true>(posts.clone()));
        new.inline_view::<Beside<1>>().lease(LONG)
    };
    let (faster, ()) = futures::join!(faster, says(refused, "counts/1 is inline in this store"));
    assert_eq!(made_by(&store, "coded/1~1").await, before);
    for build in ["mails~1", "letters~1", "a-beside/1~1"] {
        is_left(&store, build).await;
    }
    pay(&faster, "a").await;
    settle(&old).await;
    let calls = posts.calls();
    assert_eq!((calls.acted.len(), calls.repeats()), (2, 0));
}

/// P16, P18
pub async fn an_inline_view_is_left_to_the_program_of_before_by_a_start_that_is_refused_late<S: Subject>(
    subject: S,
) {
    let store = store(&subject).await;
    ran_by_a_processor(&store).await;
    let before = made_by(&store, "counts/1~1").await;
    let line = Double::new(subject.again(&store.0).await);
    line.set(LAST_COMMIT);
    let parks = async {
        holds(&line).await;
        assert_ne!(made_by(&store, "counts/1~1").await, before, "it was taken over");
        // What it has decided on changes: of the other view, something is parked.
        let StoredRow { key, rev, data } = store.row("generations", "a-beside/1").await.expect("it is there");
        let generations = RowWrite { table: "generations".into(), key, rev, row: Some(data) };
        let parked = RowWrite {
            table: "a-beside/1~1/parked".into(),
            key: "account-a".to_owned(),
            rev: 0,
            row: Some("{}".into()),
        };
        let commit = Commit { rows: vec![generations, parked], ..Commit::default() };
        store.commit(commit).await.expect("at these revisions");
        line.set(Line::Up);
    };
    let refused = || with_another::<MORE, _>(&line).lease(LONG);
    let ((), ()) = futures::join!(parks, says(refused, "1 sequences of a-beside/1 are parked"));
    is_left(&store, "counts/1~1").await;
    let less = start(|| inline::<LESS, _>(&store.0)).await;
    pay(&less, "a").await;
    counts(&store, "account-a", 2).await;
}

/// Pays until a program with other inline projections has shut it out.
async fn pay_until_refused(app: App) {
    loop {
        let account = "a".to_owned();
        match sent!(app.send(&account, Donate { amount: 1 })) {
            Err(CommandError::Commit(CommitError::Inline { .. })) => return,
            outcome => drop(outcome.expect("accepted")),
        }
    }
}

/// P17, P18
pub async fn a_program_that_handles_all_events_takes_an_inline_view_over_while_others_write<S: Subject>(
    subject: S,
) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let less = start(|| inline::<LESS, _>(&store.0)).await;
    pay(&less, "a").await;
    let writer = tokio::spawn(pay_until_refused(less));
    let mut line = Double::new(other.clone());
    let all = start(|| {
        line = Double::new(other.clone());
        // So that something comes between a look at the log and the commit.
        line.set(Line::Slow(Duration::from_millis(20)));
        inline::<EVERYTHING, _>(&line)
    })
    .await;
    writer.await.expect("it is shut out");
    // Once, if the store answers; not with each of the tries that come too late.
    let from_the_start = line.reads().iter().filter(|after| after.0 == 0).count();
    assert!(from_the_start < 9, "it looks at what has come since: {:?}", line.reads());
    open(&all, "b").await;
    counts(&store, "account-b", 1).await;
}
