//! What is left out while a rebuild is under way: K12.

use futures::StreamExt as _;

use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    KINDS, Kind, Ledger, Poison, Skipping, World, discard, eventually, parked_keys, payment,
};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{ProcessorOptions, Rebuild, RebuildOptions};
use crate::{App, ErrorKind};

/// K12
pub async fn what_is_left_out_while_a_rebuild_is_under_way_stays_left_out_of_it<S: Subject>(subject: S) {
    for (table, rebuilt) in [("ledger/1~2", "ledger/1"), ("skipping/1~2", "skipping/1")] {
        let (world, poison) = (World::new(&subject).await, Poison::new());
        let line = Double::new(world.store.0.clone());
        let options = ProcessorOptions::default().page(1);
        let wiring = || App::on(line.clone()).view::<Ledger>().view::<Skipping>().processors(options);
        let app = start(wiring).await;
        world.put("a", vec![payment(1)]).await;
        settle(&app).await;
        // The rebuild is held in the middle of the first event.
        line.set(Line::HoldsLookups(table));
        let processor =
            app.processors().iter().find(|processor| processor.name() == rebuilt).expect("it runs");
        let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
        eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
        world.put("a", vec![poison.payment(2, "fails"), payment(3)]).await;
        settle(&app).await;
        discard(app.processor::<Ledger>().expect("it runs"), "a", "booked twice").await;
        poison.mend();
        line.set(Line::Up);
        ask(|| rebuild.caught_up(LIMIT)).await;
        ask(|| rebuild.switch()).await;
        settle(&app).await;
        let right = if rebuilt == "ledger/1" { 1 } else { 4 };
        assert_eq!(world.tally_of(rebuilt, "a").await.expect("a row").sum, right, "{rebuilt}");
        assert!(app.shutdown(LIMIT).await);
    }
}

/// Until a rebuild has handled everything.
async fn complete(rebuild: &Rebuild) {
    eventually(async || match Box::pin(rebuild.progress()).next().await {
        Some(Ok(progress)) if progress.is_complete() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// K12
pub async fn what_is_discarded_behind_a_rebuild_is_left_out_of_it<S: Subject>(subject: S) {
    for kind in KINDS {
        let (world, poison) = (World::new(&subject).await, Poison::new());
        let app = world.start().await;
        world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
        world.pay("b", 1..=3).await;
        settle(&app).await;
        poison.mend();
        let processor = kind.of(&app);
        let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
        complete(&rebuild).await;
        discard(processor, &kind.key("a"), "booked twice").await;
        world.pay("a", 4..=4).await;
        ask(|| rebuild.switch()).await;
        settle(&app).await;
        assert_eq!((world.sum(kind, "a").await, world.sum(kind, "b").await), (5, 6), "{kind:?}");
        // The first of the two was left out as it was discarded, the other one behind it: neither is parked.
        assert_eq!(parked_keys(processor).await, [], "{kind:?}");
        assert!(app.shutdown(LIMIT).await);
    }
}

/// K12
pub async fn what_is_discarded_while_queries_are_switched_is_left_out<S: Subject>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let app = start(|| World::<S>::wiring(&line)).await;
    let ledger = app.processor::<Ledger>().expect("it runs");
    world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
    settle(&app).await;
    poison.mend();
    let rebuild = ask(|| ledger.rebuild_online(RebuildOptions::default())).await;
    complete(&rebuild).await;
    // It is asked for, and its commit does not come through.
    line.set(Line::HoldsCommits("ledger/1~1/skipped"));
    let switching = async {
        eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
        let early = rebuild.switch().await.expect_err("not before it is discarded");
        assert_eq!(early.kind(), ErrorKind::Transient, "{early}");
        line.set(Line::Up);
        ask(|| rebuild.switch()).await;
    };
    futures::join!(discard(ledger, "a", "booked twice"), switching);
    world.pay("a", 4..=4).await;
    settle(&app).await;
    assert_eq!(world.sum(Kind::View, "a").await, 5);
    assert_eq!(parked_keys(ledger).await, []);
}
