//! The plain names of a projection's tables, and the versions that come and go under them: P16, P19, P28.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::double::{Double, Line};
use super::inline_code::starts;
use super::patient::{Patient, ask, commit};
use super::payments::{eventually, payment};
use super::versions::{
    ACCOUNTS, LEASE, Paid, all, assert_paid, drop_version, of, pay, plain, run, until_ready, wired,
};
use super::{LIMIT, Subject, settle, start, store};
use crate::processor::{ProcessorError, ProcessorOptions, RebuildOptions, VersionStatus};
use crate::store::{Backend, Commit, ExpectedVersion, RowStore};
use crate::{App, ErrorKind};

/// What an app of a version reads.
async fn own<S: Subject>(app: &App) -> BTreeMap<String, i64> {
    loop {
        if let Ok(paid) = S::paid_through(app.services()).await {
            return paid;
        }
    }
}

/// One more payment into each account, by an app with an inline projection.
async fn pay_inline(app: &App) {
    for account in ACCOUNTS {
        let one = Commit::default().and(account, ExpectedVersion::Any, vec![payment(1)]);
        commit(app.store(), one).await.expect("nothing else writes them");
    }
}

async fn versions<S: Subject, const VERSION: u32>(app: &App) -> [VersionStatus; 2] {
    let all = ask(|| of::<Paid<S, VERSION>>(app).versions()).await;
    all.try_into().expect("both are there")
}

/// While there is nothing to do, nodes look at each other four times in the time of a lease.
async fn no_look_without_need<B: Backend + RowStore + Clone>(store: &Patient<B>) {
    let looks = async || {
        let nodes = ask(|| store.0.scan("nodes", None, 100)).await;
        nodes.iter().map(|node| node.rev).collect::<Vec<u64>>()
    };
    let (before, since) = (looks().await, store.now().await);
    let more = |now: Vec<u64>| before.iter().zip(now).map(|(before, now)| now - before).collect::<Vec<_>>();
    eventually(async || match more(looks().await) {
        more if more.iter().all(|n| *n >= 8) => Ok(()),
        more => Err(format!("{more:?} looks")),
    })
    .await;
    let (looks, now) = (more(looks().await), store.now().await);
    let due = 4 * now.duration_since(since).unsigned_abs().as_millis() / LEASE.as_millis();
    let are_due = looks.iter().all(|n| u128::from(*n) <= 2 * due + 20);
    assert!(are_due, "{looks:?} looks, where {due} are due");
}

/// P16, P28
pub async fn an_inline_projection_of_another_version_writes_tables_of_its_own<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    assert_paid::<1, S>(&old, 1).await;
    let backend = subject.again(&store.0).await;
    let new = start(|| App::on(backend.clone()).inline_projection(Paid::<S, 2>::new()).lease(LEASE)).await;
    pay_inline(&new).await;
    assert_eq!(own::<S>(&new).await, all(4));
    assert_paid::<1, S>(&old, 2).await;
    // No processor runs it, so its names would go back to the older one after a lease.
    eventually(async || {
        let [_, inline] = versions::<S, 1>(&old).await;
        let now = store.now().await;
        let is_over =
            inline.unseen_since.is_some_and(|since| now.duration_since(since).unsigned_abs() > 3 * LEASE);
        if is_over { Ok(()) } else { Err(format!("{inline:?} at {now}")) }
    })
    .await;
    no_look_without_need(&store).await;
    pay_inline(&new).await;
    assert_eq!(own::<S>(&new).await, all(6));
    assert_paid::<1, S>(&old, 3).await;
    plain::<S>(&store, &all(6)).await;
    let refused = drop_version::<Paid<S, 1>>(&old, 2).await.expect_err("commits write it");
    assert!(matches!(refused, ProcessorError::Inline { .. }), "{refused}");
}

/// P16, P28
pub async fn no_switch_takes_the_plain_names_from_an_inline_projection<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let backend = subject.again(&store.0).await;
    let inline = || App::on(backend.clone()).inline_projection(Paid::<S, 1>::new()).lease(LEASE);
    let old = start(inline).await;
    pay_inline(&old).await;
    assert!(old.shutdown(LIMIT).await);
    let retires =
        || App::on(store.0.clone()).projection(Paid::<S, 2>::new()).retire_inline("paid-versions/1");
    let new = start(|| retires().lease(LEASE)).await;
    until_ready(&new).await;
    // Rolled back, while the newer program still runs.
    let old = starts(inline).await;
    let refused = loop {
        let rebuild = ask(|| new.rebuild_online::<Paid<S, 2>>(RebuildOptions::default())).await;
        match rebuild.switch().await {
            Err(error) if error.kind() == ErrorKind::Transient => {}
            answer => break answer.expect_err("commits write the older version by the plain names"),
        }
    };
    assert!(
        matches!(&refused, ProcessorError::Inline { processor } if processor == "paid-versions/1"),
        "{refused}"
    );
    pay_inline(&old).await;
    assert_eq!(own::<S>(&old).await, all(2));
    plain::<S>(&store, &all(2)).await;
}

/// An app of a version that is not given the plain names, though it has caught up.
async fn unnamed<const VERSION: u32, S: Subject>(
    subject: &S,
    store: &Patient<S::Backend>,
) -> (App, Double<S::Backend>) {
    let line = Double::new(subject.again(&store.0).await);
    line.set(Line::RefusesNames);
    let new = start(|| App::on(line.clone()).projection(Paid::<S, VERSION>::new()).lease(LEASE)).await;
    until_ready(&new).await;
    (new, line)
}

/// P28
pub async fn plain_names_that_cannot_be_given_are_tried_again_and_hold_up_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    settle(&old).await;
    let (new, line) = unnamed::<2, S>(&subject, &store).await;
    let refused = async |times| {
        eventually(async || match line.refusals() {
            n if n >= times => Ok(()),
            n => Err(format!("tried {n} times")),
        })
        .await;
    };
    refused(1).await;
    let (since, before) = (Instant::now(), line.refusals());
    // What else is to be done is done: that no node runs the older one any more is noted.
    assert!(old.shutdown(LIMIT).await);
    eventually(async || {
        let [older, _] = versions::<S, 2>(&new).await;
        if older.unseen_since.is_some() { Ok(()) } else { Err(format!("{older:?}")) }
    })
    .await;
    refused(before + 2).await;
    let (tries, seconds) = (line.refusals() - before, since.elapsed().as_secs());
    assert!(tries <= seconds + 1, "tried {tries} times in {seconds} seconds");
    let [_, newer] = versions::<S, 2>(&new).await;
    assert!(!newer.published, "the store has not given them: {newer:?}");
    plain::<S>(&store, &all(1)).await;
    line.set(Line::Up);
    plain::<S>(&store, &all(2)).await;
    eventually(async || {
        let [_, newer] = versions::<S, 2>(&new).await;
        if newer.published { Ok(()) } else { Err(format!("{newer:?}")) }
    })
    .await;
}

/// P19, P28
pub async fn a_newer_version_goes_by_itself_after_a_rollback<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let backend = subject.again(&store.0).await;
    let keeps = ProcessorOptions::default().keep_versions(Duration::from_millis(1));
    let old = start(|| wired::<1, S>(&backend).processors(keeps)).await;
    pay(&store).await;
    settle(&old).await;
    let new = run::<2, _>(&subject, &store).await;
    plain::<S>(&store, &all(2)).await;
    assert!(new.shutdown(LIMIT).await);
    eventually(async || {
        let left = of::<Paid<S, 1>>(&old).versions().await.map_err(|e| e.to_string())?;
        if left.len() == 1 { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    pay(&store).await;
    assert_paid::<1, S>(&old, 2).await;
    plain::<S>(&store, &all(2)).await;
    // A program that goes forward again builds it from the log.
    let new = run::<2, _>(&subject, &store).await;
    assert_paid::<2, S>(&new, 2).await;
    plain::<S>(&store, &all(4)).await;
    assert_paid::<1, S>(&old, 2).await;
}

/// A program of the first version, which has the names.
async fn named<S: Subject>(subject: &S, store: &Patient<S::Backend>) -> App {
    let old = run::<1, _>(subject, store).await;
    pay(store).await;
    settle(&old).await;
    eventually(async || {
        let known = of::<Paid<S, 1>>(&old).versions().await.map_err(|e| e.to_string())?;
        if known.iter().all(|version| version.published) { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;
    old
}

/// A version that has the names, and that no node runs any more; and an app of the next one, which has caught up.
async fn outlived<S: Subject>(
    subject: &S,
    store: &Patient<S::Backend>,
    line: Line,
) -> (App, Double<S::Backend>) {
    let old = named(subject, store).await;
    let double = Double::new(subject.again(&store.0).await);
    double.set(line);
    let new = start(|| App::on(double.clone()).projection(Paid::<S, 2>::new()).lease(LEASE)).await;
    until_ready(&new).await;
    assert!(old.shutdown(LIMIT).await);
    (new, double)
}

/// P19, P28
pub async fn a_version_whose_names_cannot_be_taken_stays_and_says_why<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let (new, line) = outlived(&subject, &store, Line::KeepsNames(true)).await;
    let held = drop_version::<Paid<S, 2>>(&new, 1).await.expect_err("its names cannot be taken from it");
    assert!(matches!(held, ProcessorError::NamesHeld { .. }), "{held}");
    assert!(held.to_string().contains("a view of somebody's is in the way"), "{held}");
    let [older, _] = versions::<S, 2>(&new).await;
    assert!(older.published, "{older:?}");
    plain::<S>(&store, &all(1)).await;
    line.set(Line::Up);
    drop_version::<Paid<S, 2>>(&new, 1).await.expect("nothing is in the way any more");
    plain::<S>(&store, &all(2)).await;
}

/// P19, P28
pub async fn a_version_that_cannot_go_keeps_no_other_from_going<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = named(&subject, &store).await;
    // A newer one that never had the names, and is rolled back.
    let (newest, line) = unnamed::<3, S>(&subject, &store).await;
    assert!(newest.shutdown(LIMIT).await);
    assert!(old.shutdown(LIMIT).await);
    line.set(Line::KeepsNames(true));
    let keeps = ProcessorOptions::default().keep_versions(Duration::from_millis(1));
    let wiring = || App::on(line.clone()).projection(Paid::<S, 2>::new()).processors(keeps).lease(LEASE);
    let new = start(wiring).await;
    eventually(async || {
        let left = of::<Paid<S, 2>>(&new).versions().await.map_err(|e| e.to_string())?;
        match &left[..] {
            [VersionStatus { version: 1, .. }, VersionStatus { version: 2, .. }] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// P19, P28
pub async fn a_version_gives_its_names_away_as_it_goes<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let (new, _line) = outlived(&subject, &store, Line::KeepsNames(false)).await;
    plain::<S>(&store, &all(1)).await;
    drop_version::<Paid<S, 2>>(&new, 1).await.expect("what is in the way goes with it");
    plain::<S>(&store, &all(2)).await;
    eventually(async || {
        let left = of::<Paid<S, 2>>(&new).versions().await.map_err(|e| e.to_string())?;
        match &left[..] {
            [own] if own.published => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// P19, P28
pub async fn a_version_that_nobody_runs_goes_by_itself_with_its_names<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let (new, line) = outlived(&subject, &store, Line::KeepsNames(false)).await;
    assert!(new.shutdown(LIMIT).await);
    let keeps = ProcessorOptions::default().keep_versions(Duration::from_millis(1));
    let app = || App::on(line.clone()).projection(Paid::<S, 2>::new()).lease(LEASE).processors(keeps);
    let _new = start(app).await;
    plain::<S>(&store, &all(2)).await;
}
