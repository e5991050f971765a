//! Timers: S8, S13.

use serde_json::json;

use super::Subject;
use super::play::{Act, ByKey, began, keys_of_one_slice, went};
use super::world::World;

fn bell(seconds: u64) -> Act {
    Act::Bell(seconds, vec![Act::Enter("bells".to_owned(), "bell".to_owned())])
}

fn gong(seconds: u64) -> Act {
    Act::Gong(seconds, vec![Act::Enter("bells".to_owned(), "gong".to_owned())])
}

/// S8
pub(super) async fn a_timer_fires_once_unless_it_was_cleared<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.tell(vec![began("set", "begun", vec![bell(10), gong(20)])]).await;
    world
        .tell(vec![began("cleared", "begun", vec![bell(10)]), went("cleared", "clears", vec![Act::Clear])])
        .await;
    world.tell(vec![began("replaced", "begun", vec![bell(10)])]).await;
    world.tell(vec![began("late", "begun", vec![bell(10)]), began("ends", "begun", vec![bell(10)])]).await;
    world
        .tell(vec![
            began("both", "begun", vec![bell(10), Act::Clear, bell(15)]),
            began("z", "begun", vec![gong(30)]),
        ])
        .await;
    world.settled().await;
    world
        .tell(vec![went("replaced", "replaces", vec![bell(20)]), went("late", "clears", vec![Act::Clear])])
        .await;
    world.tell(vec![went("ends", "ends", vec![Act::End])]).await;
    let view = world.settled().await;
    assert_eq!(view.n("hot.process.timers"), 5);
    world.seconds(9);
    world.tell(vec![went("z", "nothing is early", vec![])]).await;
    assert!(world.settled().await.entries.is_empty());
    world.seconds(2);
    world.until(|view| view.entries.len() == 1).await;
    // Their time comes while nobody is there.
    world.stop().await;
    world.seconds(20);
    world.join().await;
    let view = world.until(|view| view.took("z").len() == 3 && view.is_quiet()).await;
    assert_eq!(view.took("set"), ["begun", "bell", "gong"]);
    assert_eq!(view.took("replaced"), ["begun", "replaces", "bell"]);
    assert_eq!(view.took("both"), ["begun", "bell"]);
    assert_eq!([view.took("cleared"), view.took("late")], [["begun", "clears"]; 2]);
    assert_eq!(view.took("ends"), ["begun", "ends"]);
    assert_eq!([view.entries.len(), view.n("hot.process.timers")], [5, 0]);
    world.end().await;
}

/// S8
pub(super) async fn a_timer_that_is_cleared_as_it_fires_does_one_of_both<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    let keys: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
    world.tell(keys.iter().map(|key| began(key, "begun", vec![bell(10)])).collect()).await;
    world.settled().await;
    world.seconds(10);
    for key in &keys {
        world.tell(vec![went(key, "clears", vec![Act::Clear])]).await;
    }
    let view = world.until(|view| view.n("hot.process.timers") == 0 && view.is_quiet()).await;
    drop(view);
    let view = world.settled().await;
    let mut fired = 0;
    for key in &keys {
        let took = view.took(key);
        // Whichever came first; never the bell after it was cleared.
        let bells = took.iter().filter(|label| **label == "bell").count();
        assert!(took == ["begun", "clears"] || took == ["begun", "bell", "clears"], "{took:?}");
        fired += bells;
    }
    assert_eq!(view.entries.len(), fired);
    world.end().await;
}

/// S13
pub(super) async fn a_timer_does_not_overtake_what_was_recorded_before_it<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.tell(vec![began("a", "begun", vec![bell(10)]), began("b", "begun", vec![bell(10)])]).await;
    world.settled().await;
    world.stop().await;
    world.seconds(5);
    // Many events lie between, so that it comes pages later.
    let filler = || (0..600).map(|_| went("nobody", "", vec![])).collect::<Vec<_>>();
    world.tell(filler()).await;
    world.tell(filler()).await;
    world.tell(vec![went("a", "in time", vec![Act::Clear])]).await;
    world.seconds(60);
    world.join().await;
    let view = world.until(|view| view.took("b").len() == 2 && view.is_quiet()).await;
    assert_eq!(view.took("b"), ["begun", "bell"]);
    assert_eq!(world.settled().await.took("a"), ["begun", "in time"]);
    world.end().await;
}

/// S13
pub(super) async fn a_timer_does_not_overtake_events_that_are_set_aside<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.tell(vec![began("a", "begun", vec![bell(10)]), began("b", "begun", vec![bell(10)])]).await;
    world.settled().await;
    world.stop().await;
    let before = world.overwrite(":a", &json!({ "not": "an instance" })).await;
    world.join().await;
    world.tell(vec![went("a", "in time", vec![Act::Clear])]).await;
    world.until_parked(1).await;
    // It can be read again before the time has come.
    world.overwrite("a", &before).await;
    world.seconds(11);
    world.until(|view| view.took("b").len() == 2).await;
    world.tell(vec![went("b", "later", vec![])]).await;
    assert_eq!(world.settled().await.took("a"), ["begun"]);
    world.retry_all().await;
    world.until(|view| view.took("a").len() == 2).await;
    assert_eq!(world.settled().await.took("a"), ["begun", "in time"]);
    world.end().await;
}

/// S8
pub(super) async fn timers_of_one_slice_fire_however_many<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    // More than one read of all slices gives of one.
    let keys = keys_of_one_slice(30, 250);
    world.tell(keys.iter().map(|key| began(key, "begun", vec![Act::Bell(10, vec![])])).collect()).await;
    world.settled().await;
    world.seconds(11);
    world.until(|view| keys.iter().all(|key| view.took(key) == ["begun", "bell"])).await;
    world.end().await;
}
