//! Whose fault a failure is: the store's, or an event's. P21, P13, B67.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::domain::Deposited;
use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    KINDS, Kind, Ledger, Payments, Poison, Skipping, World, answered, eventually, parked, parked_keys,
    payment, refusal, retry, rows, until,
};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{Processor, ProcessorError, ProcessorOptions, ProcessorState, Receipt, WaitError};
use crate::projection::{Project, Projection};
use crate::store::{Backend, Commit, EventFilter, ExpectedVersion, Position, RecordedEvent, StoreError};
use crate::{App, BoxError};

const SHORT: Duration = Duration::from_millis(1);

/// P21
pub async fn a_store_that_takes_no_writes_blames_no_event<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let line = Double::new(world.store.0.clone());
    let wiring = || {
        let app = App::on(line.clone()).view::<Ledger>().view::<Skipping>();
        app.projection(Payments::<S>::default()).processor_retries(1, SHORT, SHORT)
    };
    let app = start(wiring).await;
    settle(&app).await;
    line.set(Line::ReadOnly);
    for account in ["a", "b", "c"] {
        world.pay(account, 1..=2).await;
    }
    for processor in app.processors() {
        let failed = |state: &ProcessorState| matches!(state, ProcessorState::Failing { attempts, .. } if *attempts > 5);
        until(processor, |status| failed(&status.state)).await;
    }
    line.set(Line::Up);
    settle(&app).await;
    for processor in app.processors() {
        assert_eq!(parked_keys(processor).await, [], "{}", processor.name());
        assert_eq!(ask(|| processor.skipped()).await, [], "{}", processor.name());
    }
    for account in ["a", "b", "c"] {
        world.assert_complete(account, 2).await;
    }
}

/// P21
pub async fn a_view_far_behind_says_for_how_long_the_store_takes_no_writes<S: Subject>(subject: S) {
    let world = World::<S>::new(&subject).await;
    let line = Double::new(world.store.0.clone());
    let app = start(|| App::on(line.clone()).view::<Ledger>().processor_retries(1, SHORT, SHORT)).await;
    settle(&app).await;
    let failed =
        |state: &ProcessorState| matches!(state, ProcessorState::Failing { attempts, .. } if *attempts > 5);
    // Many events to be folded; and one, behind another that the view does not want.
    let opened = super::data::encoded(&super::domain::opened("ada"));
    let many: Vec<_> = (1..=100).map(payment).collect();
    for (account, events) in [("a", many), ("b", vec![opened, payment(1)])] {
        let n = events.len() as u64 - u64::from(account == "b");
        line.set(Line::ReadOnly);
        world.put(account, events).await;
        until(Kind::View.of(&app), |status| failed(&status.state)).await;
        line.set(Line::Up);
        settle(&app).await;
        let tally = world.tally(account).await.expect("a row");
        assert_eq!((tally.n, tally.disorder), (n, 0));
    }
}

/// P21
pub async fn what_looks_like_the_store_for_long_is_the_events<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let patience = Duration::from_millis(300);
    let options = ProcessorOptions::default().retries(0, SHORT, SHORT).patience(patience);
    let app = start(|| World::<S>::wiring(&world.store.0).processors(options)).await;
    world.put("a", vec![payment(1), poison.payment(2, "store"), payment(3)]).await;
    world.pay("b", 1..=3).await;
    settle(&app).await;
    for kind in KINDS {
        let parked = parked(kind.of(&app)).await;
        let [only] = &*parked else { panic!("{kind:?}: {parked:?}") };
        assert_eq!((&*only.key, only.events), (&*kind.key("a"), 2), "{kind:?}");
        assert!(only.error.contains("300ms"), "it names the limit: {}", only.error);
        assert!(only.attempts > 1, "it was believed for a while: {only:?}");
        assert_eq!((world.sum(kind, "a").await, world.sum(kind, "b").await), (1, 6), "{kind:?}");
        // An operator who asks too soon gets an answer.
        assert!(retry(kind.of(&app), &kind.key("a")).await.is_some(), "{kind:?}");
    }
    poison.mend();
    for kind in KINDS {
        assert_eq!(retry(kind.of(&app), &kind.key("a")).await, None, "{kind:?}");
    }
    world.assert_complete("a", 3).await;
}

/// P21: no handler was called, so none has failed, whatever the error says.
pub async fn what_keeps_handlers_from_being_called_blames_no_event<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let options = ProcessorOptions::default().retries(0, SHORT, SHORT).patience(LIMIT);
    let app = start(|| World::<S>::wiring(&line).processors(options)).await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    settle(&app).await;
    poison.mend();
    line.set(Line::Broken("ledger/1~1"));
    let mut attempts = Vec::new();
    for kind in KINDS {
        attempts.push(parked(kind.of(&app)).await.pop().expect("it is parked").attempts);
        super::poisoned::ask(kind.of(&app), &kind.key("a")).await;
    }
    for account in ["b", "c"] {
        world.pay(account, 1..=2).await;
    }
    for (kind, attempts) in KINDS.into_iter().zip(attempts) {
        let failed = |state: &ProcessorState| matches!(state, ProcessorState::Failing { attempts, .. } if *attempts > 5);
        until(kind.of(&app), |status| failed(&status.state)).await;
        let parked = parked(kind.of(&app)).await;
        let [only] = &*parked else { panic!("{kind:?}: {parked:?}") };
        assert_eq!((&*only.key, only.attempts), (&*kind.key("a"), attempts), "{kind:?}");
    }
    line.set(Line::Up);
    settle(&app).await;
    for kind in KINDS {
        eventually(async || match parked_keys(kind.of(&app)).await {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{kind:?}: {some:?}")),
        })
        .await;
    }
    for (account, n) in [("a", 1), ("b", 2), ("c", 2)] {
        world.assert_complete(account, n).await;
    }
}

/// P26
pub async fn a_row_that_cannot_be_read_is_between_it_and_its_key<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let line = Double::new(world.store.0.clone());
    line.set(Line::Damages("ledger/1~1", "b"));
    for account in ["a", "b", "c"] {
        world.pay(account, 1..=2).await;
    }
    let app = start(|| World::<S>::wiring(&line).processor_retries(1, SHORT, SHORT)).await;
    settle(&app).await;
    assert_eq!(parked_keys(Kind::Table.of(&app)).await, []);
    let view = Kind::View.of(&app);
    assert_eq!(parked_keys(view).await, [("b".to_owned(), 2)]);
    line.set(Line::Up);
    assert_eq!(retry(view, "b").await, None);
    for account in ["a", "b", "c"] {
        world.assert_complete(account, 2).await;
    }
}

/// P26
pub async fn a_row_that_cannot_be_read_is_not_rebuilt_and_stops_no_other<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let line = Double::new(world.store.0.clone());
    let app = start(|| World::<S>::wiring(&line).workers(1)).await;
    let keys = ["a", "b", "c"].map(str::to_owned);
    for account in &keys {
        world.pay(account, 1..=2).await;
    }
    settle(&app).await;
    let view = Kind::View.of(&app);
    line.set(Line::Damages("ledger/1~1", "b"));
    let refused = answered(|| view.rebuild_keys(&keys, LIMIT)).await;
    assert!(matches!(&refused, Err(ProcessorError::RowFailed { key, .. }) if key == "b"), "{refused:?}");
    for account in ["a", "c"] {
        world.pay(account, 3..=3).await;
    }
    settle(&app).await;
    line.set(Line::Up);
    answered(|| view.rebuild_keys(&keys, LIMIT)).await.expect("it can be read");
    for (account, n) in [("a", 3), ("b", 2), ("c", 3)] {
        world.assert_complete(account, n).await;
    }
}

/// After something has begun to fail as the store fails, the store fails indeed, for longer than the patience with that.
/// When it was there again; `None` if that came too late to say anything.
async fn outage<B: Backend>(
    line: &Double<B>,
    processor: &Processor,
    begun: Instant,
    patience: Duration,
) -> Option<Instant> {
    let fails = |state: &ProcessorState| matches!(state, ProcessorState::Failing { error, .. } if error.contains("a partner"));
    until(processor, |status| fails(&status.state)).await;
    line.set(Line::ReadOnly);
    let in_time = begun.elapsed() < patience;
    if in_time {
        let before = line.refused("checkpoints");
        let asked =
            async || if line.refused("checkpoints") > before { Ok(()) } else { Err(before.to_string()) };
        eventually(asked).await;
        tokio::time::sleep(patience).await;
    }
    let up = Instant::now();
    line.set(Line::Up);
    in_time.then_some(up)
}

/// P21
pub async fn after_an_outage_the_store_is_suspected_afresh<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let patience = Duration::from_millis(500);
    let options = ProcessorOptions::default().retries(0, SHORT, SHORT).patience(patience);
    let app = start(|| App::on(line.clone()).view::<Ledger>().processors(options)).await;
    let processor = Kind::View.of(&app);
    let (mut account, mut told) = (0, [false; 2]);
    while told != [true; 2] {
        account += 1;
        let key = account.to_string();
        let attempts = async || {
            let sequence = parked(processor).await.into_iter().find(|sequence| sequence.key == key);
            sequence.map_or(0, |sequence| sequence.attempts)
        };
        // First as a new event, then as one that is retried.
        for told in &mut told {
            let (begun, before) = (Instant::now(), attempts().await);
            match before {
                0 => world.put(&key, vec![poison.payment(1, "store")]).await,
                _ => super::poisoned::ask(processor, &key).await,
            }
            let up = outage(&line, processor, begun, patience).await;
            eventually(async || if attempts().await > before { Ok(()) } else { Err(key.clone()) }).await;
            if let Some(up) = up {
                assert!(up.elapsed() >= patience, "it is blamed after {:?}", up.elapsed());
                *told = true;
            }
        }
    }
}

/// P21
pub async fn after_an_outage_a_rebuild_is_suspected_afresh<S: Subject>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let patience = Duration::from_millis(500);
    let options = ProcessorOptions::default().retries(0, SHORT, SHORT).patience(patience);
    let app = start(|| App::on(line.clone()).view::<Ledger>().processors(options).workers(1)).await;
    let processor = Kind::View.of(&app);
    for account in 0.. {
        poison.mend();
        let keys = [account.to_string()];
        world.put(&keys[0], vec![poison.payment(1, "store")]).await;
        settle(&app).await;
        poison.relapse();
        let begun = Instant::now();
        let asking = answered(|| processor.rebuild_keys(&keys, LIMIT));
        let (refused, up) = futures::join!(asking, outage(&line, processor, begun, patience));
        assert!(matches!(refused, Err(ProcessorError::RowFailed { .. })), "{refused:?}");
        if let Some(up) = up {
            assert!(up.elapsed() >= patience, "it is blamed after {:?}", up.elapsed());
            return;
        }
    }
}

/// P21
pub async fn a_partner_that_is_away_clears_no_suspicion_of_another_key<S: Subject>(subject: S) {
    let (world, [store, failing, away]) = (World::new(&subject).await, [(); 3].map(|()| Poison::new()));
    let options = ProcessorOptions::default().retries(0, SHORT, SHORT).patience(Duration::from_millis(300));
    let app = start(|| App::on(world.store.0.clone()).view::<Ledger>().processors(options).workers(1)).await;
    let processor = Kind::View.of(&app);
    world.put("a", vec![store.payment(1, "store")]).await;
    world.put("b", vec![failing.payment_while(&away, 1)]).await;
    settle(&app).await;
    failing.mend();
    let attempts = async || {
        let parked = parked(processor).await;
        parked.into_iter().map(|sequence| sequence.attempts).collect::<Vec<_>>()
    };
    let before = attempts().await;
    for key in ["b", "a"] {
        super::poisoned::ask(processor, key).await;
    }
    eventually(async || match &*attempts().await {
        [a, b] if *a > before[0] && *b == before[1] => Ok(()),
        now => Err(format!("{now:?} after {before:?}")),
    })
    .await;
    away.mend();
    // One that a store refuses for as long, because it fails now and then, is asked for again.
    eventually(async || match processor.retry("b", LIMIT).await {
        Ok(None) | Err(ProcessorError::NotParked { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// P21
pub async fn what_was_suspected_holds_for_the_others_of_a_round<S: Subject>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let options = ProcessorOptions::default().retries(0, SHORT, SHORT).patience(Duration::from_millis(300));
    let payments = Payments::<S>::default();
    let app = start(|| App::on(world.store.0.clone()).projection(payments.clone()).processors(options)).await;
    let processor = Kind::Table.of(&app);
    for account in ["a", "b"] {
        world.put(account, vec![poison.payment(1, "store")]).await;
    }
    settle(&app).await;
    // A store that fails here and there is suspected afresh after that.
    for _ in 0..50 {
        payments.take_calls();
        for account in ["a", "b"] {
            super::poisoned::ask(processor, &Kind::Table.key(account)).await;
        }
        eventually(async || match rows(&world.store, "payments/1~1/requests").await.len() {
            0 => Ok(()),
            n => Err(format!("{n} are not answered")),
        })
        .await;
        let calls = payments.take_calls();
        let last =
            |position| calls.iter().rposition(|(called, _)| *called == position).expect("it was called");
        let (first, second) = (last(Position(1)), last(Position(2)));
        let (answered, left) = (first.min(second), first.max(second));
        if left - answered <= 1 {
            return;
        }
    }
    panic!("each of them is suspected anew");
}

/// B67
pub async fn without_retries_only_what_fails_is_blamed<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    for account in ["a", "b", "c"] {
        world.pay(account, 1..=2).await;
    }
    world.put("a", vec![poison.payment(3, "row"), payment(4)]).await;
    world.put("b", vec![poison.payment(3, "statement"), payment(4)]).await;
    world.put("c", vec![payment(3), payment(4)]).await;
    let app = start(|| World::<S>::wiring(&world.store.0).processor_retries(0, SHORT, SHORT)).await;
    settle(&app).await;
    for kind in KINDS {
        let blamed: Vec<String> = match kind {
            // The statement is one of the table's.
            Kind::View => vec![kind.key("a")],
            Kind::Table => vec![kind.key("a"), kind.key("b")],
        };
        let parked = parked_keys(kind.of(&app)).await;
        assert_eq!(parked, blamed.into_iter().map(|key| (key, 2)).collect::<Vec<_>>(), "{kind:?}");
        assert_eq!(world.sum(kind, "c").await, 10, "{kind:?}");
    }
}

/// P13
pub async fn a_position_is_not_reached_while_something_before_it_is_parked<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.pay("b", 1..=2).await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    settle(&app).await;
    let head = ask(|| app.store().head()).await;
    for kind in KINDS {
        let processor = kind.of(&app);
        let waited = processor.wait_for(head, LIMIT).await;
        assert!(matches!(&waited, Err(WaitError::Parked { key, .. }) if *key == kind.key("a")), "{waited:?}");
        processor.wait_for(Position(2), LIMIT).await.expect("nothing before it is parked");
    }
    poison.mend();
    for kind in KINDS {
        assert_eq!(retry(kind.of(&app), &kind.key("a")).await, None);
        kind.of(&app).wait_for(head, LIMIT).await.expect("nothing is parked any more");
    }
}

/// P13: its position is that of its aggregate's last event, and what others have parked before that is not its business.
pub async fn who_wrote_nothing_hears_nothing_of_other_keys<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("b", 1..=2).await;
    settle(&app).await;
    let head = ask(|| app.store().head()).await;
    let nothing = |position| Receipt { position, events: Some(0) };
    for kind in KINDS {
        let processor = kind.of(&app);
        processor.wait_for(nothing(head), LIMIT).await.expect("its own key is not parked");
        let waited = processor.wait_for(nothing(Position(1)), LIMIT).await;
        assert!(matches!(&waited, Err(WaitError::Parked { key, .. }) if *key == kind.key("a")), "{waited:?}");
    }
}

/// B67
pub async fn one_event_at_a_time_is_blamed_as_many_are<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    world.put("a", vec![payment(1), poison.payment(2, "row"), payment(3)]).await;
    world.pay("b", 1..=5).await;
    let options = ProcessorOptions::default().retries(1, SHORT, SHORT).page(1);
    let app = start(|| World::<S>::wiring(&world.store.0).processors(options)).await;
    settle(&app).await;
    for kind in KINDS {
        assert_eq!(parked_keys(kind.of(&app)).await, [(kind.key("a"), 2)], "{kind:?}");
        assert_eq!((world.sum(kind, "a").await, world.sum(kind, "b").await), (1, 15), "{kind:?}");
    }
}

/// Takes a payment of `b` in only where none of `a` came before it in its transaction, and none of any `k`.
struct Crowded<S: Subject> {
    line: Double<S::Backend>,
    /// Which transaction had one of `a`.
    disturbed: Arc<AtomicUsize>,
    /// How many of `b` failed for that.
    failed: Arc<AtomicUsize>,
}

impl<S: Subject> Clone for Crowded<S> {
    fn clone(&self) -> Self {
        let Self { line, disturbed, failed } = self;
        Self { line: line.clone(), disturbed: disturbed.clone(), failed: failed.clone() }
    }
}

/// What one of `b` fails with.
const DISTURBED: &str = "another payment has disturbed it";

impl<S: Subject> Projection for Crowded<S> {
    const NAME: &'static str = "crowded";
    const SCHEMA: &'static str = S::PAID;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<S: Subject> Project<<S::Backend as Backend>::Tx> for Crowded<S> {
    async fn project(
        &self,
        event: &RecordedEvent,
        tx: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        let (account, opened) = (event.stream.as_str().trim_start_matches("account-"), self.line.opened());
        if account.starts_with('k') {
            return Err(refusal());
        }
        if account.starts_with('b') && self.disturbed.load(Ordering::SeqCst) == opened {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::transient("a statement", std::io::Error::other(DISTURBED)).into());
        }
        if account.starts_with('a') {
            self.disturbed.store(opened, Ordering::SeqCst);
        }
        S::pay(tx, account, 1).await
    }
}

/// B67, P21
pub async fn an_event_is_blamed_alone_also_where_others_were_suspected_in_vain<S: Subject>(subject: S) {
    let world = World::<S>::new(&subject).await;
    let line = Double::new(world.store.0.clone());
    let options = ProcessorOptions::default().retries(0, SHORT, SHORT).patience(SHORT);
    let crowded = Crowded::<S> { line: line.clone(), disturbed: Arc::default(), failed: Arc::default() };
    let wiring = || App::on(line.clone()).projection(crowded.clone()).processors(options).workers(1);
    let app = start(wiring).await;
    for n in 0..8 {
        world.pay(&format!("k{n}"), 1..=1).await;
        settle(&app).await;
    }
    let failed = || crowded.failed.load(Ordering::SeqCst);
    for n in 0..100 {
        let both = ["a", "b"].map(|account| format!("account-{account}{n}"));
        let pay = |commit: Commit, account: &String| {
            commit.and(account.as_str(), ExpectedVersion::Any, vec![payment(1)])
        };
        world.store.commit(both.iter().fold(Commit::default(), pay)).await.expect("an append anywhere");
        settle(&app).await;
        if failed() > 0 {
            break;
        }
    }
    assert!(failed() > 0, "none of them came together");
    let parked = parked(&app.processors()[0]).await;
    assert!(parked.iter().all(|sequence| !sequence.error.contains(DISTURBED)), "{parked:?}");
}
