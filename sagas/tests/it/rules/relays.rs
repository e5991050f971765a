//! What is sent to other services: L1 to L7.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use es_core::processor::{ParkedFilter, ProcessorState, RangeStatus};
use es_core::store::Table;
use sagas::message::{Envelope, Publishing as _};
use sagas::relay::{Publishes, Relays as _, ReplayError, TopicMessages};
use serde_json::json;

use super::Subject;
use super::ground::{Ground, PATIENCE};
use super::post::{Customers, Office, Orders, Post, Unknown};

/// L1
pub(super) async fn messages_of_a_key_are_sent_in_order_and_those_of_many_keys_at_the_same_time<
    S: Subject,
>(
    subject: &S,
) {
    let mut office = Office::start(subject, Orders).await;
    office.stop().await;
    for copies in [1, 2, 0, 3] {
        office.place_in(0..20, copies).await;
    }
    office.post.close(true);
    office.join().await;
    office.until("ten are on their way", |state| state.most >= 10).await;
    office.post.close(false);
    office.until_arrived(20 * 6).await;
    office.stop().await;

    // Of two customers in each stream.
    let mut office = Office::start(subject, Customers).await;
    for n in 0..40 {
        office.place(&format!("shop-{}", n % 7), &format!("c{}", n % 4), 2).await;
    }
    office.until_arrived(80).await;
    let keys: BTreeSet<_> = office.post.checked().into_keys().collect();
    assert_eq!(keys, ["c0", "c1", "c2", "c3"].map(str::to_owned).into());
    office.stop().await;
}

/// L2
pub(super) async fn a_crash_before_the_checkpoint_repeats_messages_as_they_were_and_loses_none<S: Subject>(
    subject: &S,
) {
    let mut office = Office::start(subject, Orders).await;
    for round in 1..=5_usize {
        let before = office.post.state().arrived.len();
        office.post.state().is_mute = true;
        office.place_in(0..8, 2).await;
        office.until("some arrived", |state| state.arrived.len() > before).await;
        office.crash(0);
        office.post.state().is_mute = false;
        office.join().await;
        office.until_arrived(round * 16).await;
    }
    let all = office.post.state().arrived.len();
    let once = office.post.n();
    assert!(all >= once + 5, "what was on its way came again: {all} of {once}");
    office.stop().await;
}

/// L3
pub(super) async fn a_receiver_that_is_away_for_long_parks_nothing_and_then_gets_all<S: Subject>(
    subject: &S,
) {
    let mut office = Office::start(subject, Orders).await;
    office.place_in(0..10, 1).await;
    office.until_arrived(10).await;
    office.post.state().is_away = true;
    office.place_in(0..10, 1).await;
    let fails = |range: &RangeStatus| matches!(&range.state, ProcessorState::Failing { error, .. } if error.contains("nobody is at the counter"));
    for _ in 0..2 {
        let before = office.post.state().tries;
        // Far more often than a handler is called before its event is parked.
        office.until("it is tried again", |state| state.tries > before + 20).await;
        office.until_shown(|ranges| ranges.iter().any(fails)).await;
        office.until_parked(0).await;
        // The program may end meanwhile.
        office.stop().await;
        office.join().await;
    }
    // Also while a message is on its way and gets no answer.
    office.post.close(true);
    office.place_in(0..10, 1).await;
    office.until("one is on its way", |state| !state.on_way.is_empty()).await;
    office.stop().await;
    office.post.close(false);
    office.post.state().is_away = false;
    office.join().await;
    office.until_arrived(30).await;
    office.settled().await;
    office.until_shown(|ranges| ranges.iter().all(|range| range.state == ProcessorState::Running)).await;
    office.stop().await;
}

/// L4
pub(super) async fn a_message_that_is_refused_parks_its_key_and_no_other<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, Orders).await;
    office.place_in(0..5, 1).await;
    office.until_arrived(5).await;
    office.post.state().refuses = ["shop-3", "shop-4"].map(str::to_owned).into();
    office.place_in(0..5, 1).await;
    office.place_in(0..5, 2).await;
    office.until_arrived(5 + 3 * 3).await;
    let why = office.until_parked(2).await;
    assert!(why["shop-3"].contains("no such address"), "{why:?}");

    office.ground.ask(|| office.processor().retry("shop-3", PATIENCE)).await;
    office.until_parked(2).await;
    office.post.state().refuses.remove("shop-3");
    office.place("shop-3", "c3", 1).await;
    office.settled().await;
    assert_eq!(office.post.n(), 14, "nothing overtakes what is parked");
    office.ground.ask(|| office.processor().retry("shop-3", PATIENCE)).await;
    office.until_arrived(14 + 4).await;

    office.post.state().refuses.clear();
    office.ground.ask(|| office.processor().discard("shop-4", "nobody lives there", PATIENCE)).await;
    office.until_parked(0).await;
    office.place("shop-4", "c4", 1).await;
    office.until_arrived(18 + 1).await;
    office.stop().await;
}

/// L5
pub(super) async fn what_cannot_be_a_message_parks_its_key_and_says_why<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, Orders).await;
    office.place("shop-0", "greedy", 1).await;
    office.place_in(0..3, 1).await;
    office.until_arrived(2).await;
    let why = office.until_parked(1).await;
    assert!(why["shop-0"].contains("bytes; the largest has 1048576"), "{why:?}");
    office.ground.ask(|| office.processor().discard("shop-0", "too large", PATIENCE)).await;
    office.place("shop-0", "c0", 1).await;
    office.until_arrived(3).await;
    office.place("shop-1", "c1", 10_001).await;
    let why = office.until_parked(1).await;
    assert!(why["shop-1"].contains("10001 messages; the most are 10000"), "{why:?}");
    office.stop().await;
}

/// L5
pub(super) async fn a_key_that_cannot_be_stored_parks_its_stream_and_no_other<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, Customers).await;
    let odd = [String::new(), "k".repeat(300), "a\0b".to_owned()];
    office.post.state().refuses = odd.clone().into();
    for (n, key) in odd.iter().enumerate() {
        office.place(&format!("shop-{n}"), key, 1).await;
        office.place("shop-9", "c9", 1).await;
    }
    office.until_arrived(3).await;
    let why = office.until_parked(3).await;
    assert!(why.keys().map(String::as_str).eq(["shop-0", "shop-1", "shop-2"]), "{why:?}");
    office.stop().await;
}

/// L3, K10
pub(super) async fn what_is_sent_late_is_not_parked_because_the_node_is_stopped<S: Subject>(subject: &S) {
    let mapping = Unknown::default();
    let mut office = Office::start(subject, mapping.clone()).await;
    office.place_in(0..3, 1).await;
    office.until_parked(3).await;
    office.stop().await;
    mapping.0.store(true, Ordering::Relaxed);
    office.post.close(true);
    office.join().await;
    office.until("one is on its way", |state| !state.on_way.is_empty()).await;
    office.stop().await;
    office.post.close(false);
    office.join().await;
    office.until_arrived(3).await;
    let why = office.until_parked(3).await;
    assert!(why.keys().map(String::as_str).eq(["shop-0", "shop-1", "shop-2"]), "no customer: {why:?}");
    let all = ParkedFilter::default();
    office.ground.ask(|| office.processor().retry_all(&all, PATIENCE)).await;
    office.until_parked(0).await;
    office.until_arrived(3).await;
    office.stop().await;
}

/// L5
pub(super) async fn a_mark_that_cannot_be_read_parks_its_key_and_no_other<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, Orders).await;
    office.place_in(0..3, 1).await;
    office.until_arrived(3).await;
    let marks = Table::new("relay.marks.orders").unwrap();
    // What has arrived is noted after that.
    office.ground.until_stored(&marks, "shop-1").await;
    office.stop().await;
    let before = office.ground.overwrite(&marks, "shop-1", &json!("?")).await;
    office.join().await;
    office.place_in(0..3, 1).await;
    office.until_arrived(5).await;
    let why = office.until_parked(1).await;
    assert!(why["shop-1"].contains("cannot be read"), "{why:?}");
    office.ground.overwrite(&marks, "shop-1", &before).await;
    office.ground.ask(|| office.processor().retry("shop-1", PATIENCE)).await;
    office.until_arrived(6).await;
    office.stop().await;
}

/// L6
pub(super) async fn nodes_that_come_and_go_share_the_keys_and_leave_no_gap<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, Customers).await;
    office.join().await;
    office.join().await;
    office.ground.flow();
    office.post.state().mumbles = Some(17);
    for n in 0..60_usize {
        office.place(&format!("shop-{}", n % 5), &format!("c{}", n % 13), 1 + u32::from(n % 4 == 0)).await;
        match n % 12 {
            3 => office.crash(n % office.nodes.len()),
            5 | 11 => office.join().await,
            9 => drop(office.nodes.remove(0).shutdown(PATIENCE).await),
            _ => office.ground.pause().await,
        }
    }
    office.until_arrived(75).await;
    office.stop().await;
}

/// All pages of a key behind a message.
pub(super) async fn behind<S: Subject, M: Publishes + Clone>(
    office: &Office<'_, S, M>,
    key: &str,
    mut after: Option<String>,
) -> Vec<Envelope> {
    let mut all = Vec::new();
    loop {
        let ask = || office.relay.behind(&office.ground.backend, key, after.as_deref(), 3);
        let page = office.ground.ask(ask).await;
        assert!(page.messages.len() <= 3 && page.more == page.next.is_some());
        after = page.next;
        all.extend(page.messages);
        if !page.more {
            return all;
        }
    }
}

async fn comes_again<S: Subject, M: Publishes + Clone>(subject: &S, mapping: M) {
    let mut office = Office::start(subject, mapping).await;
    for n in 0..30 {
        office.place(&format!("shop-{}", n % 3), &format!("c{}", n % 3), n % 4).await;
    }
    office.settled().await;
    let key = office.post.checked().into_keys().next().unwrap();
    office.post.state().refuses.insert(key.clone());
    office.place("shop-0", "c0", 2).await;
    office.until_parked(1).await;
    let sent = office.post.checked();
    assert_eq!(behind(&office, &key, None).await, sent[&key], "what is parked was not sent");
    office.post.state().refuses.clear();
    office.ground.ask(|| office.processor().discard(&key, "not wanted", PATIENCE)).await;
    office.place("shop-0", "c0", 3).await;
    office.settled().await;
    for (key, sent) in office.post.checked() {
        assert_eq!(behind(&office, &key, None).await, sent);
        for (n, message) in sent.iter().enumerate() {
            assert_eq!(behind(&office, &key, message.sequence.clone()).await, sent[n + 1..]);
        }
        let wrong = office.relay.behind(&office.ground.backend, &key, Some("3.7"), 3).await;
        let is_told = matches!(&wrong, Err(ReplayError::NotSent { .. } | ReplayError::Failed(_)));
        assert!(is_told, "{wrong:?}");
    }
    assert_eq!(behind(&office, "nobody", None).await, []);
    office.stop().await;
}

/// L7
pub(super) async fn what_is_behind_a_message_comes_again_as_it_was_sent<S: Subject>(subject: &S) {
    comes_again(subject, Orders).await;
    comes_again(subject, Customers).await;
}

/// L1, L7
pub(super) async fn a_topic_goes_out_as_it_was_published<S: Subject>(subject: &S) {
    let mut office = Office::start(subject, TopicMessages::of("transfers")).await;
    for n in 0..12 {
        for topic in ["transfers", "other"] {
            let (key, body) = (format!("t{}", n % 3), json!({ "n": n }));
            let name = format!("{topic}/{n}");
            let send = async || {
                let sending = office.nodes[0].publish(topic, &key, &body)?;
                sending.idempotency_key(&*name).await.map_err(es_core::BoxError::from)
            };
            office.ground.ask(send).await;
        }
    }
    office.until_arrived(12).await;
    office.settled().await;
    for (key, sent) in office.post.checked() {
        let n: Vec<_> = sent.iter().map(|message| message.data["n"].as_u64().unwrap()).collect();
        assert!(n.len() == 4 && n.is_sorted(), "{n:?}");
        assert!(sent.iter().all(|message| message.r#type == "transfers" && message.relay.as_deref() == Some("transfers")));
        assert_eq!(behind(&office, &key, None).await, sent);
    }
    office.stop().await;
}

/// L1
pub(super) async fn a_topic_goes_to_any_number_of_receivers<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    let posts = [Post::default(), Post::default()];
    let relay = |n: usize| (TopicMessages::of("transfers").named(format!("to-{n}")), posts[n].clone());
    let wire = |app: es_core::AppBuilder<S::Backend>| {
        let [(first, one), (second, other)] = [relay(0), relay(1)];
        app.relay(first, one).relay(second, other)
    };
    let node = ground.join(wire).await;
    posts[1].state().is_away = true;
    let send = async |n: u64| {
        let sending = node.publish("transfers", "t", &n)?;
        sending.idempotency_key(n.to_string()).await.map_err(es_core::BoxError::from)
    };
    ground.ask(async || send(1).await).await;
    let arrived = |post: &Post, n: usize| post.checked().get("t").is_some_and(|all| all.len() == n);
    while !arrived(&posts[0], 1) {
        ground.pause().await;
    }
    posts[1].state().is_away = false;
    ground.ask(async || send(2).await).await;
    while !posts.iter().all(|post| arrived(post, 2)) {
        ground.pause().await;
    }
    for (n, post) in posts.iter().enumerate() {
        let all = post.checked().remove("t").unwrap();
        let relay = format!("to-{n}");
        assert!(all.iter().all(|one| one.r#type == "transfers" && one.relay.as_ref() == Some(&relay)));
    }
    node.shutdown(PATIENCE).await;
}
