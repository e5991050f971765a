//! Whose fault a failure is: the store's, or an event's. P21, P13, B67.

use std::time::Duration;

use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    KINDS, Ledger, Payments, Poison, Skipping, World, parked, parked_keys, payment, retry, until,
};
use super::{LIMIT, Subject, settle, start};
use crate::App;
use crate::processor::{ProcessorOptions, ProcessorState, Receipt, WaitError};

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
            super::payments::Kind::View => vec![kind.key("a")],
            super::payments::Kind::Table => vec![kind.key("a"), kind.key("b")],
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
        processor.wait_for(crate::Position(2), LIMIT).await.expect("nothing before it is parked");
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
        let waited = processor.wait_for(nothing(crate::Position(1)), LIMIT).await;
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
