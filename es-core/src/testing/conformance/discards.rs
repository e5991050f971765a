//! What is left out while a rebuild is under way: K12.

use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{Ledger, Poison, Skipping, World, discard, eventually, payment};
use super::{LIMIT, Subject, settle, start};
use crate::App;
use crate::processor::{ProcessorOptions, RebuildOptions};

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
