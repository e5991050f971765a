//! What a receiver that has missed messages is given, where that is not plain: L7.

use es_core::chain;

use super::Subject;
use super::ground::PATIENCE;
use super::post::{Cancelled, Customers, NewerEvent, NewerOrders, Office, Orders};
use super::relays::behind;

/// L7
pub(super) async fn what_only_a_newer_program_knows_is_not_left_out_in_silence<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, NewerOrders).await;
    office.place_in(0..1, 1).await;
    office.ground.tell_to("shop-0", vec![NewerEvent::Cancelled(Cancelled { n: 1 })]).await;
    office.place_in(0..1, 1).await;
    office.until_arrived(3).await;
    office.settled().await;
    let sent = office.post.checked().remove("shop-0").unwrap();
    assert_eq!(behind(&office, "shop-0", None).await, sent);
    office.stop().await;
    let older = sagas::relay::Relay::of(Orders);
    loop {
        let first = sent[0].sequence.as_deref();
        let given = older.behind(&office.ground.backend, "shop-0", first, 10).await;
        let error = chain(&given.expect_err("one of them is not known to it"));
        if error.contains("newer program") {
            break;
        }
        // It is the store that fails sometimes.
        assert!(error.contains("could not be done now"), "{error}");
        office.ground.pause().await;
    }
}

/// How many answers it takes to get what was sent of a key, and whether they have all of it.
async fn searched<S: Subject, M: sagas::relay::Publishes + Clone>(
    office: &Office<'_, S, M>,
    key: &str,
) -> usize {
    let sent = office.post.checked().remove(key).unwrap();
    let (mut given, mut after, mut answers) = (Vec::new(), None, 0);
    loop {
        answers += 1;
        let ask = || office.relay.behind(&office.ground.backend, key, after.as_deref(), 10);
        let answer = office.ground.ask(ask).await;
        assert_eq!(answer.more, answer.next.is_some());
        given.extend(answer.messages);
        after = answer.next;
        if after.is_none() {
            assert_eq!(given, sent);
            return answers;
        }
    }
}

/// L7
pub(super) async fn a_rare_key_is_searched_for_in_parts<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, Customers).await;
    office.relay = office.relay.clone().search(5);
    for round in 0..3 {
        office.place("shop-0", "rare", 2).await;
        for n in 0..12 + round {
            office.place("shop-1", &format!("c{}", n % 3), 1).await;
        }
    }
    office.settled().await;
    assert!(searched(&office, "rare").await > 4, "some answers have no message, and it goes on behind them");
    office.stop().await;

    // The same in a stream most of whose events are no messages.
    let mut office = Office::start(subject, Orders).await;
    office.relay = office.relay.clone().search(5);
    for copies in [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] {
        office.place("shop-0", "c0", copies).await;
        office.place("shop-1", "c1", 1).await;
    }
    office.settled().await;
    assert!(searched(&office, "shop-0").await > 2);
    office.stop().await;
}

/// L7
pub(super) async fn what_was_taken_and_then_refused_can_be_asked_behind<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, Orders).await;
    office.place_in(0..1, 1).await;
    office.until("the first", |state| state.arrived.len() == 1).await;
    office.post.state().denies.insert("shop-0".to_owned());
    office.place_in(0..1, 1).await;
    office.until_parked(1).await;
    office.post.state().denies.clear();
    office.ground.ask(|| office.processor().discard("shop-0", "it is there", PATIENCE)).await;
    office.place_in(0..1, 1).await;
    office.place_in(0..1, 1).await;
    office.settled().await;
    let n = |message: &sagas::message::Envelope| message.data["n"].as_u64();
    let taken = office.post.state().arrived.iter().find(|message| n(message) == Some(2)).cloned().unwrap();
    let missed = behind(&office, "shop-0", taken.sequence.clone()).await;
    assert_eq!(missed.iter().map(n).collect::<Vec<_>>(), [Some(3), Some(4)]);
    assert!(missed[0].previous <= taken.sequence && missed[1].previous == missed[0].sequence);
    office.stop().await;
}
