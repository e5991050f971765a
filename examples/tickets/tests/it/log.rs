//! What the log says, read without the program's own types.

use std::collections::BTreeMap;

use es_core::store::{EventFilter, EventStore, Position, read_all};
use serde_json::Value;

/// What an order came to.
#[derive(Debug, Default)]
pub(crate) struct Told {
    placed: u64,
    tickets: u64,
    released: u64,
    charged: u64,
    refunded: u64,
    /// Seats that it has: locked or confirmed.
    seats: Vec<String>,
    confirmed: u64,
    /// Whether the bank has asked the card's holder.
    pub(crate) asked: bool,
    /// What the card paid and did not get back.
    paid: i64,
    why: Value,
}

impl Told {
    /// Its row in the view of flows.
    pub(crate) fn row(&self) -> Value {
        serde_json::json!({ "paid": self.paid, "ticket": self.tickets == 1, "released": self.why })
    }
}

/// Checks every order and every seat.
#[track_caller]
fn check(events: &[(String, String, Value)]) -> BTreeMap<String, Told> {
    let mut orders = BTreeMap::<String, Told>::new();
    let mut seats = BTreeMap::<&str, (String, bool)>::new();
    for (stream, name, data) in events {
        let (_, id) = stream.split_once('-').expect("a name and an id");
        let by = data["order"].to_string();
        let price = data["price"].as_i64().unwrap_or_default();
        let order = orders.get_mut(id);
        let order = || order.expect("placed");
        match name.as_str() {
            "order.placed" => orders.entry(id.to_owned()).or_default().placed += 1,
            "order.ticket_issued" => order().tickets += 1,
            "order.released" => {
                let order = order();
                (order.released, order.why) = (order.released + 1, data["why"].clone());
            }
            "payment.charged" => {
                let order = order();
                (order.charged, order.paid) = (order.charged + 1, order.paid + price);
            }
            "payment.refunded" => {
                let order = order();
                (order.refunded, order.paid) = (order.refunded + 1, order.paid - price);
            }
            "payment.holder_asked" => order().asked = true,
            "payment.cancelled" => {}
            "seat.locked" => {
                orders.get_mut(&by).expect("placed").seats.push(stream.clone());
                let before = seats.insert(stream, (by, false));
                assert_eq!(before, None, "{stream} was locked while an order had it");
            }
            "seat.confirmed" => {
                orders.get_mut(&by).expect("placed").confirmed += 1;
                let before = seats.insert(stream, (by.clone(), true));
                assert_eq!(before, Some((by, false)), "{stream} was sold to one who had not locked it");
            }
            "seat.unlocked" => {
                orders.get_mut(&by).expect("placed").seats.retain(|seat| seat != stream);
                assert_eq!(seats.remove(stream.as_str()), Some((by, false)), "{stream}");
            }
            other => panic!("what is {other}?"),
        }
    }
    for (order, told) in &orders {
        assert_eq!(told.placed, 1, "order {order}: {told:?}");
        assert!(told.charged <= 1 && told.tickets + told.released <= 1, "order {order}: {told:?}");
        if told.tickets == 1 {
            let paid = (told.charged, told.refunded, told.confirmed, told.seats.len());
            assert_eq!(paid, (1, 0, 1, 1), "order {order}: {told:?}");
        }
        if told.released == 1 {
            assert_eq!((told.confirmed, told.seats.len()), (0, 0), "order {order}: {told:?}");
        }
    }
    orders
}

/// Flows, sold, released, open, charged without a ticket.
pub(crate) fn totals_of(orders: &BTreeMap<String, Told>) -> [u64; 5] {
    let mut totals = [0; 5];
    for told in orders.values() {
        totals[0] += 1;
        totals[1] += told.tickets;
        totals[2] += told.released;
        totals[3] += u64::from(told.tickets + told.released == 0);
        totals[4] += u64::from(told.charged != told.refunded && told.tickets == 0);
    }
    totals
}

/// What the log of a store comes to; what the store promises holds.
pub(crate) async fn totals(store: &dyn EventStore) -> [u64; 5] {
    totals_of(&orders(store).await)
}

/// What each order comes to, by the log of a store.
pub(crate) async fn orders(store: &dyn EventStore) -> BTreeMap<String, Told> {
    let page = read_all(store, &EventFilter::default(), Position(0)).await.expect("readable");
    let read = |data: &[u8]| serde_json::from_slice(data).expect("the program writes JSON");
    let events: Vec<_> =
        page.events.iter().map(|e| (e.stream.to_string(), e.name.to_string(), read(&e.data))).collect();
    check(&events)
}

fn event(stream: &str, name: &str, order: u32) -> (String, String, Value) {
    (stream.to_owned(), name.to_owned(), serde_json::json!({ "order": order }))
}

#[test]
#[should_panic(expected = "seat-1 was locked while an order had it")]
fn a_seat_that_is_locked_twice_is_noticed() {
    let placed = |n: u32| event(&format!("order-{n}"), "order.placed", n);
    check(&[placed(1), placed(2), event("seat-1", "seat.locked", 1), event("seat-1", "seat.locked", 2)]);
}

#[test]
#[should_panic(expected = "order 1")]
fn a_ticket_that_nobody_paid_is_noticed() {
    let events = ["order.placed", "order.ticket_issued"].map(|name| event("order-1", name, 1));
    let seat = ["seat.locked", "seat.confirmed"].map(|name| event("seat-1", name, 1));
    let [placed, issued] = events;
    let [locked, confirmed] = seat;
    check(&[placed, locked, confirmed, issued]);
}

#[test]
fn money_without_a_ticket_is_counted() {
    let paid = [event("order-1", "order.placed", 1), event("payment-1", "payment.charged", 1)];
    assert_eq!(totals_of(&check(&paid)), [1, 0, 0, 1, 1]);
    let refunded = event("payment-1", "payment.refunded", 1);
    let released = event("order-1", "order.released", 1);
    let events = [paid.as_slice(), &[refunded, released]].concat();
    assert_eq!(totals_of(&check(&events)), [1, 0, 1, 0, 0]);
}
