//! A relay of one service, and the inbox of another: L4, I5.

use std::sync::Arc;

use es_core::App;
use es_core::store::Table;
use sagas::message::Envelope;
use sagas::relay::{PublishError, Publisher, Relay, Relays as _};
use serde_json::{Value, json};

use super::Subject;
use super::blame::{Audited, NewerEvent};
use super::desk::{Desk, InboxOf};
use super::ground::{Ground, PATIENCE};
use super::post::{Orders, Placed, ShopEvent};

/// Hands messages to an inbox, and understands its answers as `HttpPublisher` does.
struct Counter<S: Subject>(Arc<InboxOf<S>>);

impl<S: Subject> Publisher for Counter<S> {
    async fn publish(&self, message: &Envelope) -> Result<(), PublishError> {
        let answer = self.0.answer(&serde_json::to_vec(message).unwrap()).await;
        match answer.status {
            200..=299 => Ok(()),
            400..=499 => Err(PublishError::refused(answer.body)),
            _ => Err(PublishError::unavailable(answer.body)),
        }
    }
}

async fn place<S: Subject>(ground: &Ground<'_, S>, stream: &str) {
    let placed = Placed { customer: "c".to_owned(), n: 0, copies: 1 };
    ground.tell_to(stream, vec![ShopEvent::Placed(placed)]).await;
}

/// Until so many messages of a key were taken, and these keys are parked at the sender.
async fn until<S: Subject>(
    desk: &Desk<'_, S>,
    ground: &Ground<'_, S>,
    app: &App,
    key: &str,
    n: usize,
    keys: &[&str],
) {
    let begun = tokio::time::Instant::now();
    loop {
        let parked = ground.ask(|| app.processors()[0].parked(None, 10)).await;
        let entered = desk.entered(key).await.len();
        if entered == n && parked.iter().map(|parked| &*parked.key).eq(keys.iter().copied()) {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{key}: {entered}, {parked:?}, {:?}",
            app.processors()[0].status()
        );
        ground.pause().await;
    }
}

/// L4, I5
pub(super) async fn a_lane_that_takes_nothing_more_holds_up_no_other_key<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let ground = Ground::on(subject, desk.backend.clone(), desk.clock.clone());
    let inbox = Arc::new(desk.inbox().room(10, 1));
    let relay = || Relay::of(Orders).in_flight(4);
    let app = ground.join(|app| app.relay(relay(), Counter::<S>(inbox.clone()))).await;
    desk.orders.fail(&["shop-0"]);
    place(&ground, "shop-0").await;
    place(&ground, "shop-1").await;
    until(&desk, &ground, &app, "shop-1", 1, &[]).await;
    // One waits in it, and no more fit.
    place(&ground, "shop-0").await;
    place(&ground, "shop-1").await;
    until(&desk, &ground, &app, "shop-1", 2, &["shop-0"]).await;

    let marks = Table::<Value>::new("inbox.marks.desk").unwrap();
    let all = ground.ask(|| marks.all(&ground.backend)).await;
    let mark = all.into_iter().find(|row| row.value["key"] == "shop-1").unwrap();
    ground.overwrite(&marks, &mark.key, &json!("?")).await;
    place(&ground, "shop-1").await;
    place(&ground, "shop-2").await;
    until(&desk, &ground, &app, "shop-2", 1, &["shop-0", "shop-1"]).await;

    // Once an operator has looked at it, it goes on.
    ground.overwrite(&marks, &mark.key, &mark.value).await;
    ground.ask(|| app.processors()[0].retry("shop-1", PATIENCE)).await;
    until(&desk, &ground, &app, "shop-1", 3, &["shop-0"]).await;
    app.shutdown(PATIENCE).await;
}

/// L4, I5
pub(super) async fn a_lane_that_is_for_a_newer_program_holds_up_no_other_key<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let ground = Ground::on(subject, desk.backend.clone(), desk.clock.clone());
    let inbox = Arc::new(desk.inbox());
    ground.tell_to("ledger-shop-0", vec![NewerEvent::Audited(Audited {})]).await;
    let app = ground.join(|app| app.relay(Relay::of(Orders), inbox.clone())).await;
    for n in 1..=2 {
        place(&ground, "shop-0").await;
        place(&ground, "shop-1").await;
        until(&desk, &ground, &app, "shop-1", n, &["shop-0"]).await;
    }
    app.shutdown(PATIENCE).await;
}
