//! Whole runs.

use es_core::store::EventStore as _;
use es_sqlite::SqliteBackend;

use crate::log;
use crate::program::BoxOffice;

const DATABASE: [&str; 2] = ["--database", "concert.db"];

#[test]
fn without_arguments_it_plays_a_thousand_flows_and_leaves_nothing() {
    let office = BoxOffice::new();
    let ran = office.run(&[]).well();
    let last = ran.last();
    assert!(last.starts_with("1,000 flows: "), "{ran:?}");
    assert!(last.ends_with(" released, 0 open, 0 charged without a ticket"), "{ran:?}");
    assert_eq!(office.entries(), 0, "the temporary store is deleted");
}

#[tokio::test]
async fn what_it_says_is_what_the_log_says_and_a_second_run_changes_nothing() {
    let office = BoxOffice::new();
    let play = [&["play", "--flows", "200", "--deadline", "500ms"], &DATABASE[..]].concat();
    let ran = office.run(&play).well();
    let totals = ran.totals();
    let [flows, sold, released, open, charged] = totals;
    assert_eq!((flows, sold + released, open, charged), (200, 200, 0, 0), "{ran:?}");
    // All that can happen, happened.
    for what in ["another buyer had the seat", "the card was refused", "the payment was too late"] {
        assert!(ran.out.contains(what), "{ran:?}");
    }
    let store = SqliteBackend::open(office.path("concert.db")).await.expect("nobody holds it");
    assert_eq!(log::totals(&store).await, totals);
    assert_eq!(store.verify().await.expect("readable"), Vec::<String>::new());
    let head = store.head().await.expect("readable");

    assert_eq!(office.run(&play).well().out, ran.out);
    assert_eq!(store.head().await.expect("readable"), head, "every order was known");
    let other = office.run(&[&["play", "--flows", "200", "--deadline", "600ms"], &DATABASE[..]].concat());
    other.complains(1, &["was placed with another deadline before"]);
    assert_eq!(store.head().await.expect("readable"), head);
}

/// The timeline of an order has these, in this order.
#[track_caller]
fn shows(office: &BoxOffice, order: &str, words: &[&str]) {
    let ran = office.run(&[&["show", order], &DATABASE[..]].concat()).well();
    let mut rest = ran.out.as_str();
    for word in words {
        let at = rest.find(word).unwrap_or_else(|| panic!("no {word:?}, or too early: {ran:?}"));
        rest = &rest[at + word.len()..];
    }
}

#[test]
fn a_timeline_has_events_commands_and_timers() {
    let office = BoxOffice::new();
    // So long that whoever answers is in time.
    office.run(&[&["play", "--flows", "5", "--deadline", "30s"], &DATABASE[..]].concat()).well();
    let sold = [
        "order 1: seat 1-1 for 70 dollars, held for 30s",
        "event    order.placed of order-1",
        "command  lock to seat-1-1, by the sale",
        "event    seat.locked of seat-1-1",
        "command  charge to payment-1, by the sale",
        "timer    hold_over set by the sale, due at ",
        "event    payment.charged of payment-1",
        "command  confirm to seat-1-1, by the sale",
        "timer    hold_over called off",
        "event    seat.confirmed of seat-1-1",
        "command  issue_ticket to order-1, by the sale",
        "event    order.ticket_issued of order-1",
        "the sale has ended",
    ];
    shows(&office, "1", &sold);
    shows(&office, "2", &["looks fired", "approve to payment-2", "approve to payment-2", "payment.charged"]);
    let refused = "refused  charge to payment-3: the card's limit is 40 dollars";
    shows(&office, "3", &[refused, "seat.unlocked", "order.released", "the sale has ended"]);
    let unknown = office.run(&[&["show", "6"], &DATABASE[..]].concat());
    unknown.complains(1, &["there is no order 6"]);
}

#[test]
fn a_timeline_shows_that_nobody_paid_in_time() {
    let office = BoxOffice::new();
    office.run(&[&["play", "--flows", "6", "--deadline", "200ms"], &DATABASE[..]].concat()).well();
    let late = [
        "hold_over set",
        "timer    hold_over fired",
        "command  cancel to payment-6, by the sale",
        "payment.cancelled",
        "command  unlock to seat-1-5, by the sale",
        "seat.unlocked",
        "order.released",
    ];
    shows(&office, "6", &late);
}

#[tokio::test]
async fn two_programs_on_one_store_sell_each_seat_once() {
    let office = BoxOffice::new();
    let play = [&["play", "--flows", "200", "--deadline", "500ms"], &DATABASE[..]].concat();
    let (one, other) = (office.start(&play), office.start(&play));
    let (one, other) = (one.wait().well(), other.wait().well());
    let store = SqliteBackend::open(office.path("concert.db")).await.expect("nobody holds it");
    let totals = log::totals(&store).await;
    assert_eq!((totals[0], totals[3], totals[4]), (200, 0, 0));
    assert_eq!((one.totals(), other.totals()), (totals, totals));
}
