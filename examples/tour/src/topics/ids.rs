//! An id is any type with one text form. A newtype keeps ids of different things apart.

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::StreamId;
use tour::domain::{Account, AccountId, Open};
use uuid::Uuid;

/// From outside, as it is written there.
#[derive(AggregateId, Clone, Debug, PartialEq)]
struct Username(String);

/// A number that somebody else counts.
#[derive(AggregateId, Clone, Copy, Debug, PartialEq)]
struct InvoiceNumber(u64);

/// Made here, so that nobody has to be asked.
#[derive(AggregateId, Clone, Copy, Debug, PartialEq)]
struct OrderId(Uuid);

pub async fn run() -> anyhow::Result<()> {
    assert_eq!(Username::from("ada").to_string(), "ada");
    assert_eq!(InvoiceNumber::parse("42"), Some(InvoiceNumber(42)));
    assert_eq!(InvoiceNumber::parse("forty-two"), None);

    // A new id comes from the app, so that a test can repeat it. It is a UUIDv7, so it sorts by the millisecond.
    // In a command handler it is `ctx.new_id()`.
    let app = App::on(MemoryBackend::new()).start().await?;
    let order = OrderId(app.new_id());
    assert_eq!(OrderId::parse(&order.to_string()), Some(order));

    // An aggregate's stream is its name and its id.
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    let events = app.store().stream(&StreamId::new("account-ada")?, Version(0), 10).await?;
    assert_eq!(events.len(), 1);
    // An id of another type does not compile: `app.load::<Account>(&order)`.
    assert!(app.load::<Account>(&ada).await?.is_some());

    crate::say(format!("order {order} and {}", events[0].stream));
    Ok(())
}
