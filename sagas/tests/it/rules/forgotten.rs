//! Instances that ended long ago: S16.

use std::time::Duration;

use es_core::clock::Clock as _;
use es_core::testing::TestClock;
use sagas::{Processes as _, Verb};
use serde_json::json;
use tokio::time::Instant;

use super::Subject;
use super::ground::PATIENCE;
use super::play::{Act, Brief, BriefAgain, Ledger, began, breaks, keys_of_one_slice, went};
use super::world::{View, World};

const HOUR: u64 = 3_600;

fn ends(key: &str) -> super::play::StageEvent {
    went(key, "ends", vec![Act::End])
}

/// How many inputs the instances that there are have, and how many are stored.
fn inputs(view: &View) -> (u64, u64) {
    let noted = view.instances.values().map(|instance| instance["noted"].as_u64().unwrap()).sum();
    (noted, view.n("process.inputs") as u64)
}

/// S16
pub(super) async fn an_instance_is_forgotten_some_time_after_its_end<S: Subject>(subject: &S) {
    let world = World::<S, Brief>::start(subject).await;
    let what = uuid::Uuid::new_v4().to_string();
    let broken = breaks(&what);
    let bell = vec![Act::Bell(HOUR, vec![Act::Associate("a".to_owned())])];
    world.tell(vec![began("a", "begun", bell), began("runs", "begun", vec![])]).await;
    world.tell(vec![began("tomb", "begun", vec![Act::End])]).await;
    let enter = Act::Enter("book".to_owned(), what.clone());
    world.tell(vec![began("sends", "begun", vec![enter]), ends("sends")]).await;
    // More than go at once.
    world.tell((0..250).map(|n| went("a", &n.to_string(), vec![])).collect()).await;
    world.until(|view| view.parked("sends").is_some()).await;
    world.answer(&world.wants("a", Verb::Fire { timer: "bell".to_owned() }).await).await;
    world.tell(vec![ends("a")]).await;
    world.settled_but_for_commands().await;
    world.seconds(23 * HOUR);
    world.tell(vec![went("runs", "a day later, nearly", vec![])]).await;
    let view = world.until(|view| view.took("runs").len() == 2).await;
    assert!(view.ended("a") && view.ended("tomb"));
    assert_eq!(world.all("process.requests").await.len(), 1);
    world.seconds(2 * HOUR);
    let view = world.until(|view| view.instances.len() == 2).await;
    assert!(view.instances.contains_key("runs") && view.parked("sends").is_some(), "{view:?}");
    let (noted, stored) = inputs(&view);
    assert_eq!(noted, stored, "{view:?}");
    for of in ["process.requests", "process.ended"] {
        assert_eq!(world.all(of).await, [], "{of}");
    }
    // It is kept until its command is answered, and a day longer.
    drop(broken);
    world.answer(&world.wants("sends", Verb::Retry).await).await;
    world.until(|view| view.ended("sends")).await;
    assert_eq!(world.all("process.ended").await.len(), 1);
    world.seconds(25 * HOUR);
    world.until(|view| !view.instances.contains_key("sends")).await;
    // Nobody knows the key any more.
    world.tell(vec![went("a", "too late", vec![]), began("a", "anew", vec![])]).await;
    let view = world.until(|view| view.instances.contains_key("a")).await;
    assert_eq!(view.took("a"), ["anew"]);
    world.settled().await;
    world.end().await;
}

/// S16
pub(super) async fn an_incarnation_that_has_ended_is_forgotten_and_the_next_one_is_not<S: Subject>(
    subject: &S,
) {
    let world = World::<S, BriefAgain>::start(subject).await;
    world.tell(vec![began("a", "1", vec![]), ends("a")]).await;
    world.settled().await;
    world.tell(vec![began("a", "2", vec![])]).await;
    // Several in one commit.
    let begun = |label: &str| began("b", label, vec![]);
    world.tell(vec![begun("1"), ends("b"), begun("2"), ends("b"), begun("3")]).await;
    let view = world.until(|view| view.took("a") == ["2"] && view.took("b") == ["3"]).await;
    assert_eq!((view.n("process.inputs"), world.all("process.ended").await.len()), (8, 3));
    world.seconds(25 * HOUR);
    let view = world.until(|view| view.n("process.inputs") == 2).await;
    assert_eq!([view.took("a"), view.took("b")], [["2"], ["3"]]);
    world.settled().await;
    world.end().await;
}

/// S16
pub(super) async fn an_instance_of_whose_key_events_are_set_aside_is_not_forgotten<S: Subject>(subject: &S) {
    let mut world = World::<S, Brief>::start(subject).await;
    let keys = keys_of_one_slice(2, 20);
    let [aside, other] = &keys[..] else { panic!("{keys:?}") };
    world.tell(vec![began(aside, "begun", vec![]), ends(aside)]).await;
    world.settled().await;
    world.seconds(1);
    world.tell(vec![began(other, "begun", vec![]), ends(other)]).await;
    world.settled().await;
    world.stop().await;
    let instance = world.overwrite(aside, &json!({ "not": "an instance" })).await;
    world.join().await;
    // A start that comes again, and that nobody can tell from one that begins it.
    world.tell(vec![began(aside, "again", vec![])]).await;
    world.until_parked(1).await;
    world.stop().await;
    world.overwrite(aside, &instance).await;
    world.join().await;
    world.seconds(25 * HOUR);
    // It is looked at before the other one, for it ended before.
    let view = world.until(|view| !view.instances.contains_key(other)).await;
    assert!(view.ended(aside));
    assert_eq!(view.took(aside), ["begun", "ends"]);
    world.retry_all().await;
    world.until_parked(0).await;
    // Had it begun again, it would be there for good.
    let begun = Instant::now();
    while !world.view().await.instances.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", world.view().await);
        world.seconds(30);
        world.pause().await;
    }
    world.end().await;
}

/// The one node works on a machine with this clock.
async fn join_by<S: Subject>(world: &mut World<'_, S, Brief>, clock: &TestClock) {
    world.stop().await;
    let store = world.subject.again(&world.backend, &world.clock).await;
    let app = world.join_by(clock, &store, |app| app.aggregate::<Ledger>().process::<Brief>()).await;
    world.nodes.push(app);
}

/// S16
pub(super) async fn of_the_clocks_of_store_and_app_the_one_that_is_behind_forgets_instances<S: Subject>(
    subject: &S,
) {
    let mut world = World::<S, Brief>::on(subject).await;
    let begun = world.clock.now();
    let after = |hours: u64| begun + Duration::from_secs(hours * HOUR);
    // The machine on which they end is two days behind, but for the first.
    for (key, at) in [("early", 0), ("mid", 10), ("late", 20)] {
        world.clock.set(after(at));
        let app = TestClock::at(world.clock.now());
        if key != "early" {
            app.set(begun - Duration::from_secs(48 * HOUR));
        }
        join_by(&mut world, &app).await;
        world.tell(vec![began(key, "begun", vec![]), ends(key)]).await;
        world.settled().await;
    }
    let goes = async |world: &World<'_, S, Brief>, keys: &[&str]| {
        let view = world.until(|view| view.instances.len() <= keys.len()).await;
        let left: Vec<&str> = view.instances.keys().map(String::as_str).collect();
        assert_eq!(left, keys);
    };
    // Then it is ahead by days.
    world.clock.set(after(26));
    join_by(&mut world, &TestClock::at(after(26 + 100))).await;
    goes(&world, &["late", "mid"]).await;
    // Then the store is.
    world.stop().await;
    world.clock.set(after(36 + 100));
    join_by(&mut world, &TestClock::at(after(36))).await;
    goes(&world, &["late"]).await;
    world.stop().await;
    join_by(&mut world, &TestClock::at(after(46))).await;
    goes(&world, &[]).await;
    world.end().await;
}
