//! How events find instances: S2, S11, S14.

use es_core::store::Row;
use serde_json::{Value, json};

use super::Subject;
use super::by_hand::ByHand;
use super::ground::PATIENCE;
use super::play::{Act, Found, began, called, went, went_to};
use super::world::World;

fn associate(value: &str) -> Act {
    Act::Associate(value.to_owned())
}

fn dissociate(value: &str) -> Act {
    Act::Dissociate(value.to_owned())
}

/// S2
pub(super) async fn an_instance_is_found_by_what_it_is_associated_with_and_not_after<S: Subject>(
    subject: &S,
) {
    let mut world = World::<S, Found>::start(subject).await;
    // In one page: before, with it, after it.
    let page = vec![
        began("a", "begun", vec![]),
        called("x", "none", vec![]),
        went("a", "with", vec![associate("x"), associate("y")]),
        called("x", "found", vec![]),
        called("X", "another", vec![]),
        went("a", "without", vec![dissociate("x")]),
        called("x", "gone", vec![]),
    ];
    world.tell(page).await;
    world.settled().await;
    // And from what is stored.
    world.stop().await;
    world.join().await;
    world.tell(vec![called("y", "stored", vec![dissociate("y"), associate("x")])]).await;
    world.settled().await;
    world.tell(vec![called("y", "gone", vec![]), called("x", "back", vec![Act::End])]).await;
    world.tell(vec![called("x", "ended", vec![])]).await;
    let view = world.settled().await;
    assert_eq!(view.took("a"), ["begun", "with", "found", "without", "stored", "back"]);
    assert_eq!(view.n("process.associations"), 0);
    world.end().await;
}

/// S14
pub(super) async fn an_event_by_a_second_key_is_not_lost<S: Subject>(subject: &S) {
    let mut world = World::<S, Found>::start(subject).await;
    world.join().await;
    for n in 0..40 {
        // The event that is for it comes right behind the one that associates it, on another stream.
        let (key, value) = (format!("k{n}"), format!("v{n}"));
        world.tell(vec![began(&key, "begun", vec![associate(&value)])]).await;
        world.tell_to(&format!("stage-{n}"), vec![called(&value, "called", vec![])]).await;
        if n % 15 == 7 {
            let node = world.nodes.remove(0);
            node.shutdown(PATIENCE).await;
            world.join().await;
        }
    }
    let view = world.settled().await;
    for n in 0..40 {
        assert_eq!(view.took(&format!("k{n}")), ["begun", "called"], "{n}");
    }
    world.end().await;
}

/// S14
pub(super) async fn an_instance_that_an_event_names_twice_takes_it_once<S: Subject>(subject: &S) {
    let world = World::<S, Found>::start(subject).await;
    world
        .tell(vec![began("a", "begun", vec![associate("x")]), began("b", "begun", vec![associate("x")])])
        .await;
    let page = vec![
        went_to(&["a", "a", "b"], "twice", vec![Act::Enter("book".to_owned(), "twice".to_owned())]),
        // By key and by association, one event after the other.
        went("a", "by key", vec![]),
        called("x", "by value", vec![]),
    ];
    world.tell(page).await;
    let view = world.settled().await;
    assert_eq!(view.took("a"), ["begun", "twice", "by key", "by value"]);
    assert_eq!(view.took("b"), ["begun", "twice", "by value"]);
    assert_eq!(view.entered("book"), ["twice", "twice"]);
    world.end().await;
}

/// S6, S14
pub(super) async fn an_event_that_names_nobody_at_first_reaches_whom_it_finds_later<S: Subject>(subject: &S) {
    let mut world = World::<S, ByHand<1, false>>::start(subject).await;
    world.stop().await;
    world.join_as::<ByHand<1, true>>().await;
    let enter = |what: &str| Act::Enter("book".to_owned(), what.to_owned());
    let begun = vec![associate("hard"), Act::Associate("hard 2".to_owned())];
    world.tell(vec![began("a", "begun", begun), began("hard", "begun", vec![])]).await;
    let page = vec![
        called("hard", "hard", vec![enter("hard")]),
        // It queues up behind the one before it, and is passed as well.
        called("hard 2", "harder", vec![enter("harder")]),
        called("a", "easy", vec![]),
    ];
    world.tell(page).await;
    assert!(world.until_parked(1).await[0].contains("too hard"));
    assert_eq!(world.until(|view| view.took("a").len() == 2).await.took("a"), ["begun", "easy"]);
    world.stop().await;
    world.join().await;
    world.retry_all().await;
    world.until_parked(0).await;
    let view = world.until(|view| view.took("a").len() == 4 && view.is_quiet()).await;
    assert_eq!(view.took("a"), ["begun", "easy", "hard", "harder"]);
    assert_eq!(view.took("hard"), ["begun", "hard"]);
    let mut entered = view.entered("book");
    entered.sort_unstable();
    assert_eq!(entered, ["hard", "hard", "harder"]);
    world.settled().await;
    world.end().await;
}

/// S6, S14
pub(super) async fn an_event_whose_association_cannot_be_read_is_not_lost<S: Subject>(subject: &S) {
    let (mut world, bad) = (World::<S, Found>::start(subject).await, json!({ "not": "a row" }));
    world.tell(["a", "b"].map(|key| began(key, "begun", vec![associate("x"), associate(key)])).into()).await;
    world.settled().await;
    world.stop().await;
    let of_a = |row: &Row<Value>| row.value["key"] == "a" && row.value["association"]["value"] == "x";
    let before = world.overwrite_in("process.associations", of_a, &bad).await;
    world.join().await;
    let enter = |what: &str| vec![Act::Enter("book".to_owned(), what.to_owned())];
    world.tell(vec![called("x", "1", enter("1")), called("a", "by another", vec![])]).await;
    world.tell(vec![called("x", "2", enter("2"))]).await;
    assert!(world.until_parked(1).await[0].contains("cannot be read"));
    assert_eq!(world.settled().await.took("a"), ["begun", "by another"]);
    // Nobody can tell yet whom it is for, and the operator is told so.
    world.retry_all().await;
    assert!(world.until_parked(1).await[0].contains("cannot be read"));
    world.overwrite_in("process.associations", |row| row.value == bad, &before).await;
    world.retry_all().await;
    world.until_parked(0).await;
    let view = world.settled().await;
    assert_eq!(view.took("a"), ["begun", "by another", "1", "2"]);
    assert_eq!(view.took("b"), ["begun", "1", "2"]);
    let mut entered = view.entered("book");
    entered.sort_unstable();
    assert_eq!(entered, ["1", "1", "2", "2"]);
    // What an operator discards is for nobody, whomever it turns out to be for.
    world.overwrite_in("process.associations", of_a, &bad).await;
    world.tell(vec![called("x", "discarded", vec![])]).await;
    world.until_parked(1).await;
    let processor = &world.nodes[0].processors()[0];
    world.ask(|| processor.discard("stage-main", "nobody knows whom it is for", PATIENCE)).await;
    world.until_parked(0).await;
    world.overwrite_in("process.associations", |row| row.value == bad, &before).await;
    world.stop().await;
    world.join().await;
    world.tell(vec![called("x", "last", vec![])]).await;
    let view = world.settled().await;
    assert_eq!(view.took("a"), ["begun", "by another", "1", "2", "last"]);
    assert_eq!(view.took("b"), ["begun", "1", "2", "last"]);
    world.end().await;
}

/// S12, S14
pub(super) async fn an_event_that_one_of_two_versions_understands_is_taken_in_once<S: Subject>(subject: &S) {
    let mut world = World::<S, ByHand<2, false>>::start(subject).await;
    world.stop().await;
    world.join_as::<ByHand<2, true>>().await;
    let enter = |what: &str| Act::Enter("book".to_owned(), what.to_owned());
    world.tell(vec![began("a", "begun", vec![associate("hard")]), began("hard", "begun", vec![])]).await;
    for n in ["1", "2"] {
        world.tell(vec![called("hard", n, vec![enter(n)]), called("a", &format!("easy {n}"), vec![])]).await;
    }
    world.until_parked(1).await;
    world.until(|view| view.took("a").len() == 3).await;
    world.stop().await;
    world.join().await;
    world.retry_all().await;
    world.until_parked(0).await;
    let view = world.settled().await;
    assert_eq!(view.instances["a"]["version"], 2);
    assert_eq!(view.took("a"), ["begun", "easy 1", "easy 2", "1", "2"]);
    assert_eq!(view.took("hard"), ["begun", "1", "2"]);
    let mut entered = view.entered("book");
    entered.sort_unstable();
    assert_eq!(entered, ["1", "1", "2", "2"]);
    world.end().await;
}

/// S14
pub(super) async fn an_instance_that_is_found_twice_takes_it_once<S: Subject>(subject: &S) {
    let world = World::<S, ByHand<1, false>>::start(subject).await;
    let enter = |what: &str| Act::Enter("book".to_owned(), what.to_owned());
    let begun = ["a", "x", "y"].map(associate).to_vec();
    world.tell(vec![began("a", "begun", begun), began("x", "begun", vec![associate("y")])]).await;
    let page = vec![
        went_to(&["x", "y", "x"], "by two associations", vec![enter("1")]),
        called("a", "by key and association", vec![enter("2")]),
        called("x", "both", vec![enter("3")]),
    ];
    world.tell(page).await;
    let view = world.settled().await;
    assert_eq!(view.took("a"), ["begun", "by two associations", "by key and association", "both"]);
    assert_eq!(view.took("x"), ["begun", "by two associations", "both"]);
    let mut entered = view.entered("book");
    entered.sort_unstable();
    assert_eq!(entered, ["1", "1", "2", "3", "3"]);
    world.end().await;
}

/// S11
pub(super) async fn two_hundred_instances_over_shared_associations_agree<S: Subject>(subject: &S) {
    let mut world = World::<S, Found>::start(subject).await;
    world.join().await;
    let group = |n: usize| format!("g{}", n % 7);
    let begin = async |from: usize| {
        for n in (from..200).step_by(4) {
            let events = vec![began(&format!("k{n}"), "begun", vec![associate(&group(n)), associate("all")])];
            world.tell_to(&format!("stage-{from}"), events).await;
        }
    };
    let call = async || {
        for n in 0..60 {
            world.tell_to("stage-calls", vec![called(&group(n), &format!("c{n}"), vec![])]).await;
        }
    };
    let end = async || {
        for n in (0..200).step_by(5) {
            let acts = if n % 2 == 0 { vec![Act::End] } else { vec![dissociate(&group(n))] };
            world.tell_to("stage-ends", vec![went(&format!("k{n}"), "out", acts)]).await;
        }
    };
    tokio::join!(begin(0), begin(1), begin(2), begin(3), call(), end());
    world.tell(vec![called("all", "last", vec![]), called("g3", "last of g3", vec![])]).await;
    let view = world.settled().await;
    assert_eq!(view.instances.len(), 200);
    for (key, instance) in &view.instances {
        let (n, took): (usize, _) = (key[1..].parse().unwrap(), view.took(key));
        let out = took.contains(&"out");
        assert!(!out || n % 5 == 0, "{took:?}");
        let ends = out && n % 2 == 0;
        assert_eq!(view.ended(key), ends, "{instance}");
        assert_eq!(took.contains(&"last"), !ends, "{took:?}");
        assert_eq!(took.contains(&"last of g3"), n % 7 == 3 && !out, "{took:?}");
        let after = took.iter().skip_while(|label| **label != "out").filter(|label| label.starts_with('c'));
        assert_eq!(after.count(), 0, "{took:?}");
        let of_group =
            |label: &&&str| label.strip_prefix('c').is_some_and(|c| c.parse::<usize>().unwrap() % 7 != n % 7);
        assert_eq!(took.iter().filter(of_group).count(), 0, "{took:?}");
    }
    assert_eq!(world.end().await.took("k3"), view.took("k3"));
}
