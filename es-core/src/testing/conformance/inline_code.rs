//! Inline projections of two programs: P17, P18.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::domain::{Deposited, Donate, Open, Opened};
use super::patient::Patient;
use super::payments::eventually;
use super::{LIMIT, Subject, sent, settle, start, store};
use crate::command::{CommandError, RetryPolicy};
use crate::processor::{Backfill, ProcessorOptions};
use crate::projection::{Change, Code, Projection, View};
use crate::store::{Backend, CommitError, EventFilter, RecordedEvent, RowStore};
use crate::{App, AppBuilder, BoxError};

/// Short, so that a node which has gone is soon known to be.
pub(super) const LEASE: Duration = Duration::from_millis(400);
/// Handles payments, as [`SAME`] does.
pub(super) const LESS: u64 = 1;
const SAME: u64 = 2;
/// Handles payments and openings.
pub(super) const MORE: u64 = 3;
/// Handles payments, under one key.
const AT_ONCE: u64 = 4;
/// Handles what [`MORE`] does.
const MORE_TOO: u64 = 5;

/// Handles all events.
pub(super) const EVERYTHING: u64 = 6;

/// Counts what a program handles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts<const CODE: u64>(u64);

impl<const CODE: u64> Projection for Counts<CODE> {
    const NAME: &'static str = "counts";
    fn filter() -> EventFilter {
        if CODE == EVERYTHING {
            return EventFilter::all();
        }
        let payments = EventFilter::of::<Deposited>();
        if CODE == MORE || CODE == MORE_TOO { payments.or(EventFilter::of::<Opened>()) } else { payments }
    }
    fn code() -> Code {
        if CODE == EVERYTHING {
            return Code::of(&EventFilter::all());
        }
        let code = Code::new(CODE).handling::<Deposited>().keyed_by(u64::from(CODE == AT_ONCE));
        if CODE == MORE || CODE == MORE_TOO { code.handling::<Opened>() } else { code }
    }
}

impl<const CODE: u64> View for Counts<CODE> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        let key = if CODE == AT_ONCE { "all" } else { event.stream.as_str() };
        Ok(vec![Change::new(key.to_owned(), count)])
    }
}

pub(super) fn app<B: Backend + Clone>(backend: &B) -> AppBuilder<B> {
    App::on(backend.clone()).retry(RetryPolicy::default().with_attempts(100)).lease(LEASE)
}

pub(super) fn inline<const CODE: u64, B: Backend + Clone>(backend: &B) -> AppBuilder<B> {
    app(backend).inline_view::<Counts<CODE>>()
}

fn skips() -> ProcessorOptions {
    ProcessorOptions::default().backfill(Backfill::Skip)
}

pub(super) async fn open(app: &App, account: &str) {
    let account = account.to_owned();
    sent!(app.send(&account, Open { owner: "Ada".to_owned() })).expect("accepted");
}

pub(super) async fn pay(app: &App, account: &str) {
    let account = account.to_owned();
    sent!(app.send(&account, Donate { amount: 1 })).expect("accepted");
}

async fn is_refused(app: &App, account: &str) {
    let account = account.to_owned();
    let refused = sent!(app.send(&account, Donate { amount: 1 })).expect_err("it is older");
    assert!(matches!(&refused, CommandError::Commit(CommitError::Inline { .. })), "{refused:?}");
}

/// Until the row of an account, or of all, counts so many.
pub(super) async fn counts<B: Backend + RowStore + Clone>(store: &Patient<B>, key: &str, expected: u64) {
    eventually(|| async {
        let row = store.row("counts/1", key).await;
        let n = row.map(|row| serde_json::from_slice::<Counts<0>>(&row.data).expect("JSON").0);
        if n == Some(expected) { Ok(()) } else { Err(format!("{n:?}")) }
    })
    .await;
}

/// Until the program does not start, and says this.
pub(super) async fn says<B: Backend>(mut wiring: impl FnMut() -> AppBuilder<B>, part: &str) {
    for _ in 0..100 {
        let said = wiring().start().await.expect_err("it must not start").to_string();
        if !said.contains("could not be done now") {
            assert!(said.contains(part), "{said}");
            return;
        }
    }
    panic!("the store did not answer in 100 tries")
}

/// Until it starts, which others may be in the way of for a while.
pub(super) async fn starts<B: Backend>(mut wiring: impl FnMut() -> AppBuilder<B>) -> App {
    let mut started = None;
    while started.is_none() {
        match wiring().start().await {
            Ok(app) => started = Some(app),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    started.expect("it has just started")
}

/// P17
pub async fn an_inline_view_that_handles_more_is_retired_rebuilt_and_inline_again<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let less = start(|| inline::<LESS, _>(&store.0)).await;
    open(&less, "a").await;
    pay(&less, "a").await;
    counts(&store, "account-a", 1).await;
    says(|| inline::<MORE, _>(&other), "handles account.opened now").await;
    says(|| inline::<MORE, _>(&other), r#".retire_inline("counts/1")"#).await;
    pay(&less, "a").await;
    counts(&store, "account-a", 2).await;
    assert!(less.shutdown(LIMIT).await);
    let retired = || app(&other).view::<Counts<MORE>>().retire_inline("counts/1");
    let by_processor = start(retired).await;
    by_processor.until_ready(LIMIT).await.expect("it is rebuilt by itself");
    counts(&store, "account-a", 3).await;
    assert!(by_processor.shutdown(LIMIT).await);
    // The build of before may still be on its way out.
    let more = starts(|| inline::<MORE, _>(&other)).await;
    open(&more, "b").await;
    counts(&store, "account-b", 1).await;
}

/// P16, P17
pub async fn a_view_that_has_missed_events_says_how_it_becomes_inline<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let less = start(|| app(&store.0).view::<Counts<LESS>>()).await;
    open(&less, "a").await;
    pay(&less, "a").await;
    settle(&less).await;
    assert!(less.shutdown(LIMIT).await);
    says(|| inline::<MORE, _>(&other), "run it by a processor until it has been rebuilt by itself").await;
    let by_processor = start(|| app(&other).view::<Counts<MORE>>()).await;
    by_processor.until_ready(LIMIT).await.expect("it is rebuilt by itself");
    assert!(by_processor.shutdown(LIMIT).await);
    // The build of before may still be on its way out.
    let more = starts(|| inline::<MORE, _>(&other)).await;
    pay(&more, "a").await;
    counts(&store, "account-a", 3).await;
}

/// P17
pub async fn an_inline_view_that_handles_more_goes_on_if_that_was_chosen<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let less = start(|| inline::<LESS, _>(&store.0)).await;
    open(&less, "a").await;
    pay(&less, "a").await;
    let more = start(|| inline::<MORE, _>(&other).processors(skips())).await;
    is_refused(&less, "a").await;
    open(&more, "b").await;
    pay(&more, "a").await;
    counts(&store, "account-a", 2).await;
    counts(&store, "account-b", 1).await;
}

/// P17
pub async fn an_inline_view_whose_keys_change_does_not_start<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let old = start(|| inline::<LESS, _>(&store.0)).await;
    pay(&old, "a").await;
    says(|| inline::<AT_ONCE, _>(&other), "finds the rows of account.deposited by other keys now").await;
    pay(&old, "a").await;
    counts(&store, "account-a", 2).await;
}

/// P18
pub async fn an_older_program_commits_nothing_where_a_newer_one_handles_more_inline<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let less = start(|| inline::<LESS, _>(&store.0)).await;
    pay(&less, "a").await;
    // Nothing of what it handles in addition is in the log.
    let more = start(|| inline::<MORE, _>(&other)).await;
    is_refused(&less, "a").await;
    open(&more, "b").await;
    counts(&store, "account-b", 1).await;
    assert!(less.shutdown(LIMIT).await);
    // Long after the newer one has begun, for until then it is believed to be starting.
    tokio::time::sleep(LEASE * 9 / 2).await;
    says(|| inline::<LESS, _>(&store.0), "a program is alive that handles more of it").await;
    // Rolled back: what the older program does not handle is remembered.
    assert!(more.shutdown(LIMIT).await);
    let less = starts(|| inline::<LESS, _>(&store.0)).await;
    open(&less, "c").await;
    pay(&less, "c").await;
    counts(&store, "account-c", 1).await;
    assert!(less.shutdown(LIMIT).await);
    says(|| inline::<MORE, _>(&other), "handles account.opened now").await;
}

/// P18
pub async fn programs_that_handle_the_same_inline_write_next_to_each_other<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let one = start(|| inline::<LESS, _>(&store.0)).await;
    let two = start(|| inline::<SAME, _>(&other)).await;
    for app in [&one, &two, &one] {
        pay(app, "a").await;
    }
    assert!(one.shutdown(LIMIT).await);
    let one = start(|| inline::<LESS, _>(&store.0)).await;
    for app in [&one, &two] {
        pay(app, "a").await;
    }
    counts(&store, "account-a", 5).await;
}

/// P18
pub async fn an_older_program_does_not_start_beside_one_that_is_like_the_newest<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let more = starts(|| inline::<MORE, _>(&store.0)).await;
    // It is noted as the one that writes, and goes.
    let canary = starts(|| inline::<MORE_TOO, _>(&other)).await;
    assert!(canary.shutdown(LIMIT).await);
    tokio::time::sleep(LEASE * 6).await;
    says(|| inline::<LESS, _>(&other), "a program is alive that handles more").await;
    open(&more, "a").await;
    counts(&store, "account-a", 1).await;
}
