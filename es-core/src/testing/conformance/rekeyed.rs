//! Views whose rows are found by other keys than before, under the same version: K2, K12, P17.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::domain::{Deposited, Opened};
use super::double::{Double, Line};
use super::patient::{Patient, ask};
use super::payments::{discard, eventually, parked_keys, payment, retry};
use super::{LIMIT, Subject, settle, start, store};
use crate::App;
use crate::processor::{Backfill, ProcessorOptions, RebuildOptions};
use crate::projection::{Change, Code, OnFailure, Projection, View};
use crate::store::{Backend, EventFilter, Position, RecordedEvent, RowStore};

/// Short, so that a node which has gone is soon known to be.
const LEASE: Duration = Duration::from_millis(400);
const ACCOUNTS: [&str; 4] = ["account-a", "account-b", "account-c", "account-d"];
const ALL: &str = "all";
/// Whose keys are the accounts, as long as nothing was said of keys.
const BY_ACCOUNT: u64 = 0;
/// Whose one key is `all`.
const AT_ONCE: u64 = 1;
/// The same, of a program that handles openings too, and does nothing with them.
const MORE: u64 = 3;
/// The same, of a program that cannot handle what was paid first: its rebuild never ends.
const STUCK: u64 = 2;
/// Of a program that handles openings only.
const OPENINGS: u64 = 4;
/// What a program that counts by accounts cannot handle.
const WRONG: i64 = 666;

/// Counts payments, by the keys of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyed<const RULE: u64>(u64);

impl<const RULE: u64> Projection for Keyed<RULE> {
    const NAME: &'static str = "keyed";
    const ON_FAILURE: OnFailure = if RULE == STUCK { OnFailure::Stop } else { OnFailure::Park };
    fn filter() -> EventFilter {
        let (payments, openings) = (EventFilter::of::<Deposited>(), EventFilter::of::<Opened>());
        match RULE {
            MORE => payments.or(openings),
            OPENINGS => openings,
            _ => payments,
        }
    }
    fn code() -> Code {
        let code = Code::of(&Self::filter());
        if RULE == BY_ACCOUNT { code } else { code.keyed_by(RULE) }
    }
}

impl<const RULE: u64> View for Keyed<RULE> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, crate::BoxError> {
        let Some(payment) = event.payload::<Deposited>()? else { return Ok(Vec::new()) };
        let fails = match RULE {
            STUCK => event.version.0 == 1,
            BY_ACCOUNT => payment.amount == WRONG,
            _ => false,
        };
        let count = move |row: &mut Self| {
            if fails {
                return Err("it is not for this program".into());
            }
            row.0 += 1;
            Ok(())
        };
        let key = if RULE == BY_ACCOUNT { event.stream.as_str() } else { ALL };
        Ok(vec![Change::new(key.to_owned(), count)])
    }
}

async fn run<const RULE: u64, S: Subject>(subject: &S, of: &Patient<S::Backend>, backfill: Backfill) -> App {
    let backend = subject.again(&of.0).await;
    let options = ProcessorOptions::default().backfill(backfill);
    start(|| App::on(backend.clone()).view::<Keyed<RULE>>().lease(LEASE).processors(options)).await
}

/// One more payment into each account.
async fn pay<B: Backend + RowStore + Clone>(store: &Patient<B>) {
    for account in ACCOUNTS {
        store.put(account, vec![payment(1)]).await;
    }
}

/// Until these rows are what queries read.
async fn reads<B: Backend + RowStore + Clone>(store: &Patient<B>, expected: &BTreeMap<&str, u64>) {
    eventually(|| async {
        let mut rows = BTreeMap::new();
        for key in ACCOUNTS.into_iter().chain([ALL]) {
            let row = store.row("keyed/1", key).await;
            rows.extend(row.map(|row| (key, serde_json::from_slice::<Keyed<0>>(&row.data).expect("JSON").0)));
        }
        if rows == *expected { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
}

fn each(n: u64) -> BTreeMap<&'static str, u64> {
    ACCOUNTS.into_iter().map(|account| (account, n)).collect()
}

fn at_once(n: u64) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([(ALL, n)])
}

/// P17
pub async fn a_view_whose_keys_change_is_rebuilt_by_itself<S: Subject>(subject: S) {
    rebuilt_forth_and_back::<AT_ONCE, S>(subject).await;
}

/// P17
pub async fn a_view_whose_keys_change_and_that_handles_more_is_rebuilt_by_itself<S: Subject>(subject: S) {
    rebuilt_forth_and_back::<MORE, S>(subject).await;
}

async fn rebuilt_forth_and_back<const NEW: u64, S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Online).await;
    pay(&store).await;
    settle(&old).await;
    reads(&store, &each(1)).await;
    let new = run::<NEW, _>(&subject, &store, Backfill::Online).await;
    new.until_ready(LIMIT).await.expect("it is rebuilt");
    reads(&store, &at_once(4)).await;
    // The older program does not find them.
    eventually(|| async { if old.ready() { Err("it is ready".to_owned()) } else { Ok(()) } }).await;
    pay(&store).await;
    settle(&new).await;
    reads(&store, &at_once(8)).await;
    // Rolled back, the rows are under keys that the older program does not look for.
    assert!(new.shutdown(LIMIT).await);
    reads(&store, &each(2)).await;
    pay(&store).await;
    reads(&store, &each(3)).await;
    old.until_ready(LIMIT).await.expect("it reads its own rows again");
}

/// P18
pub async fn what_an_older_program_rebuilds_is_left_once_the_newer_one_is_back<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let line = Double::new(store.0.clone());
    let old = start(|| App::on(line.clone()).view::<Keyed<BY_ACCOUNT>>().lease(LEASE)).await;
    pay(&store).await;
    settle(&old).await;
    let new = run::<AT_ONCE, _>(&subject, &store, Backfill::Online).await;
    new.until_ready(LIMIT).await.expect("it is rebuilt");
    assert!(new.shutdown(LIMIT).await);
    // It is gone for longer than a lease: the older program builds for itself, slowly.
    line.set(Line::HoldsLookups("keyed/1~3"));
    eventually(|| async {
        // A store that loses answers may have it begin twice: then nothing holds it up.
        let begun = line.held() > 0 || store.row("keyed/1", ACCOUNTS[0]).await.is_some();
        if begun { Ok(()) } else { Err("it does not begin".to_owned()) }
    })
    .await;
    let new = run::<AT_ONCE, _>(&subject, &store, Backfill::Online).await;
    new.until_ready(LIMIT).await.expect("what it had built is there");
    line.set(Line::Up);
    pay(&store).await;
    settle(&new).await;
    // Long after the older one would have had queries switched to its own.
    for _ in 0..8 {
        tokio::time::sleep(LEASE).await;
        reads(&store, &at_once(8)).await;
    }
    assert!(new.ready());
}

/// P17
pub async fn rows_of_two_keys_are_never_mixed_while_it_is_rebuilt<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Online).await;
    pay(&store).await;
    settle(&old).await;
    assert!(old.shutdown(LIMIT).await);
    let stuck = run::<STUCK, _>(&subject, &store, Backfill::Online).await;
    pay(&store).await;
    // Long after what handles more would have been added to them, for nobody else keeps them up any more.
    tokio::time::sleep(LEASE * 8).await;
    assert!(!stuck.ready());
    reads(&store, &each(1)).await;
    assert!(stuck.shutdown(LIMIT).await);
    let new = run::<AT_ONCE, _>(&subject, &store, Backfill::Online).await;
    new.until_ready(LIMIT).await.expect("it is rebuilt");
    reads(&store, &at_once(8)).await;
}

/// P17
pub async fn a_view_whose_keys_change_does_not_start_if_that_was_chosen<S: Subject>(subject: S) {
    let store = store(&subject).await;
    // As long as there are no rows, nothing is under other keys.
    let first = run::<STUCK, _>(&subject, &store, Backfill::Refuse).await;
    assert!(first.shutdown(LIMIT).await);
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Refuse).await;
    pay(&store).await;
    settle(&old).await;
    reads(&store, &each(1)).await;
    let backend = subject.again(&store.0).await;
    let options = ProcessorOptions::default().backfill(Backfill::Refuse);
    eventually(|| async {
        let new = App::on(backend.clone()).view::<Keyed<AT_ONCE>>().lease(LEASE).processors(options);
        match new.start().await {
            Err(error)
                if error.to_string().contains("finds the rows of account.deposited by other keys now") =>
            {
                Ok(())
            }
            Err(error) => Err(error.to_string()),
            Ok(_) => panic!("its rows would be under two keys"),
        }
    })
    .await;
    pay(&store).await;
    settle(&old).await;
    reads(&store, &each(2)).await;
}

/// P17
pub async fn a_view_whose_keys_change_goes_on_if_that_was_chosen<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Skip).await;
    pay(&store).await;
    settle(&old).await;
    assert!(old.shutdown(LIMIT).await);
    let new = run::<AT_ONCE, _>(&subject, &store, Backfill::Skip).await;
    pay(&store).await;
    settle(&new).await;
    let mut both = each(1);
    both.extend(at_once(4));
    reads(&store, &both).await;
}

/// P17
pub async fn a_rebuild_that_an_older_program_is_asked_for_knows_the_keys_of_the_newer_one<S: Subject>(
    subject: S,
) {
    let store = store(&subject).await;
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Online).await;
    pay(&store).await;
    settle(&old).await;
    let new = run::<AT_ONCE, _>(&subject, &store, Backfill::Online).await;
    new.until_ready(LIMIT).await.expect("it is rebuilt");
    reads(&store, &at_once(4)).await;
    // The older one stands by; the build of before goes by itself.
    let asked = &old.processors()[0];
    let in_words = |error: crate::processor::ProcessorError| crate::chain(&error);
    let begin = async || asked.rebuild_online(RebuildOptions::default()).await.map(drop).map_err(in_words);
    eventually(begin).await;
    let rebuild = ask(|| asked.rebuilding()).await.expect("it has begun");
    eventually(async || rebuild.switch().await.map_err(in_words)).await;
    ask(|| asked.drop_previous()).await;
    reads(&store, &at_once(4)).await;
    // Rolled back, the older one knows that the rows are not where it looks.
    assert!(new.shutdown(LIMIT).await);
    pay(&store).await;
    reads(&store, &each(2)).await;
}

/// K12
pub async fn what_was_discarded_under_other_keys_stays_left_out_of_a_rebuild<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Online).await;
    pay(&store).await;
    store.put(ACCOUNTS[0], vec![payment(WRONG)]).await;
    settle(&old).await;
    discard(&old.processors()[0], ACCOUNTS[0], "booked twice").await;
    let new = run::<AT_ONCE, _>(&subject, &store, Backfill::Online).await;
    new.until_ready(LIMIT).await.expect("it is rebuilt");
    reads(&store, &at_once(4)).await;
    // The next build knows it too.
    assert!(new.shutdown(LIMIT).await);
    reads(&store, &each(1)).await;
    assert_eq!(parked_keys(&old.processors()[0]).await, []);
    let mut skipped = ask(|| old.processors()[0].skipped()).await;
    skipped.retain(|skipped| skipped.key == ACCOUNTS[0]);
    assert_eq!((skipped.len(), skipped[0].position, &*skipped[0].reason), (1, Position(5), "booked twice"));
}

/// K12
pub async fn what_is_discarded_under_other_keys_behind_a_rebuild_is_left_out_of_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Online).await;
    pay(&store).await;
    store.put(ACCOUNTS[0], vec![payment(WRONG)]).await;
    settle(&old).await;
    // It is about to handle all of them.
    let line = Double::new(subject.again(&store.0).await);
    line.set(Line::HoldsLookups("keyed/1~2"));
    let new = start(|| App::on(line.clone()).view::<Keyed<AT_ONCE>>().lease(LEASE)).await;
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
    discard(&old.processors()[0], ACCOUNTS[0], "booked twice").await;
    line.set(Line::Up);
    new.until_ready(LIMIT).await.expect("it is rebuilt");
    reads(&store, &at_once(4)).await;
}

/// K2
pub async fn a_sequence_whose_key_its_events_do_not_have_any_more_is_not_emptied_by_a_retry<S: Subject>(
    subject: S,
) {
    let store = store(&subject).await;
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Skip).await;
    store.put(ACCOUNTS[0], vec![payment(WRONG), payment(1)]).await;
    store.put(ACCOUNTS[1], vec![payment(WRONG)]).await;
    settle(&old).await;
    assert!(old.shutdown(LIMIT).await);
    let new = run::<AT_ONCE, _>(&subject, &store, Backfill::Skip).await;
    settle(&new).await;
    let processor = &new.processors()[0];
    let left = retry(processor, ACCOUNTS[0]).await.expect("no handler was called for it");
    assert_eq!((left.position, left.events), (Position(1), 2));
    assert!(left.error.contains("under other keys: rebuild"), "{}", left.error);
    reads(&store, &BTreeMap::new()).await;
    discard(processor, ACCOUNTS[1], "booked twice").await;
    let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    ask(|| rebuild.switch()).await;
    reads(&store, &at_once(2)).await;
    assert_eq!(parked_keys(processor).await, []);
}

/// K2
pub async fn a_sequence_of_events_that_are_not_handled_any_more_is_not_emptied_by_a_retry<S: Subject>(
    subject: S,
) {
    let store = store(&subject).await;
    let old = run::<BY_ACCOUNT, _>(&subject, &store, Backfill::Skip).await;
    store.put(ACCOUNTS[0], vec![payment(WRONG)]).await;
    settle(&old).await;
    assert!(old.shutdown(LIMIT).await);
    let new = run::<OPENINGS, _>(&subject, &store, Backfill::Skip).await;
    settle(&new).await;
    let left = retry(&new.processors()[0], ACCOUNTS[0]).await.expect("no handler was called for it");
    assert!(left.error.contains("does not handle events of its type"), "{}", left.error);
}
