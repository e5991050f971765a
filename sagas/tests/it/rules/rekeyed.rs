//! A program that sends the messages of a relay in the order of other keys than the program before: L8.

use std::collections::BTreeSet;

use es_core::App;
use es_core::EventStore as _;
use es_core::processor::{Backfill, ParkedFilter, ProcessorOptions};
use sagas::relay::{Publishes, Relays as _};
use tokio::time::Instant;

use super::Subject;
use super::ground::PATIENCE;
use super::post::{Office, Orders, OrdersByCustomer};

/// The program with other keys tries to start.
async fn start<S: Subject>(office: &Office<'_, S, Orders>, backfill: Backfill) -> Result<App, String> {
    let ground = &office.ground;
    let backend = ground.subject.again(&ground.backend, &ground.clock).await;
    let app = App::on(backend).clock(ground.clock.clone()).relay(OrdersByCustomer, office.post.clone());
    let options = ProcessorOptions::default().backfill(backfill);
    app.processor_options(Orders.name(), options).start().await.map_err(|error| error.to_string())
}

/// Until it is refused for a reason. No store is asked in vain for ever, and leases of who was lost run out.
async fn is_refused<S: Subject>(office: &Office<'_, S, Orders>, why: &str) {
    let begun = Instant::now();
    loop {
        match start(office, Backfill::Online).await {
            Ok(_) => panic!("it starts, though {why}"),
            Err(error) if error.contains(why) => return,
            Err(error) => assert!(begun.elapsed() < PATIENCE / 4, "{error}"),
        }
        office.ground.pause().await;
    }
}

async fn starts<S: Subject>(office: &Office<'_, S, Orders>, backfill: Backfill) -> App {
    let begun = Instant::now();
    loop {
        match start(office, backfill).await {
            Ok(app) => return app,
            Err(error) => assert!(begun.elapsed() < PATIENCE / 4, "{error}"),
        }
        office.ground.pause().await;
    }
}

/// Two nodes end while the range of `shop-3` waits for its receiver, and another one has come further.
async fn stopped_in_between<S: Subject>(office: &mut Office<'_, S, Orders>) {
    office.post.state().away_for = ["shop-3".to_owned()].into();
    office.place_in(3..4, 1).await;
    office.place_in(4..24, 1).await;
    let head = office.ground.ask(|| office.ground.backend.head()).await;
    let begun = Instant::now();
    loop {
        if office.nodes.len() < 2 {
            office.join().await;
        }
        let ranges = || office.nodes.iter().flat_map(|node| node.processors()[0].status().ranges);
        if ranges().any(|range| range.position >= head) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", ranges().collect::<Vec<_>>());
        office.ground.pause().await;
    }
    office.stop().await;
}

/// The program of before runs until it has handled everything. Whether its places are stored as it ends is for the store to say.
async fn catches_up<S: Subject>(office: &mut Office<'_, S, Orders>, then: &str) {
    let begun = Instant::now();
    loop {
        office.join().await;
        office.settled().await;
        office.stop().await;
        match start(office, Backfill::Online).await {
            Err(error) if error.contains(then) => return,
            Err(error) => assert!(begun.elapsed() < PATIENCE / 4, "{error}"),
            Ok(_) => panic!("it starts, though {then}"),
        }
    }
}

/// L8
pub(super) async fn a_relay_that_goes_by_other_keys_starts_once_everything_was_sent<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, Orders).await;
    office.ground.flow();
    office.place_in(0..20, 1).await;
    office.until_arrived(20).await;
    is_refused(&office, "a program with the keys of before is at work").await;
    stopped_in_between(&mut office).await;
    is_refused(&office, "as far as the others").await;
    // What one key waits for is not sent in the order of another one.
    {
        let mut state = office.post.state();
        (state.away_for, state.refuses) = (BTreeSet::new(), ["shop-3".to_owned()].into());
    }
    catches_up(&mut office, "parked under the keys of before").await;
    office.post.state().refuses.clear();
    let begun = Instant::now();
    let app = loop {
        office.join().await;
        let all = ParkedFilter::all();
        office.ground.ask(|| office.processor().retry_all(&all, PATIENCE)).await;
        office.until_arrived(41).await;
        office.settled().await;
        office.stop().await;
        match start(&office, Backfill::Online).await {
            Ok(app) => break app,
            Err(error) => assert!(begun.elapsed() < PATIENCE / 4, "{error}"),
        }
    };
    office.place_in(0..20, 1).await;
    office.until_arrived(61).await;
    let all = office.post.checked();
    assert_eq!((all["shop-3"].len(), all["c3"].len()), (2, 1));
    app.shutdown(PATIENCE).await;
}

/// L8
pub(super) async fn a_relay_that_goes_by_other_keys_goes_on_from_here_if_that_was_chosen<S: Subject>(
    subject: &S,
) {
    let mut office = Office::start(subject, Orders).await;
    office.ground.flow();
    stopped_in_between(&mut office).await;
    is_refused(&office, "as far as the others").await;
    office.post.state().away_for.clear();
    let app = starts(&office, Backfill::Skip).await;
    office.place("shop-new", "new", 1).await;
    office
        .until("it goes on", |state| state.arrived.iter().any(|m| m.partitionkey.as_deref() == Some("new")))
        .await;
    app.shutdown(PATIENCE).await;
}
