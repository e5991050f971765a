//! What operators ask for, beside everything else that happens: S15.

use sagas::{Answer, Verb};

use super::Subject;
use super::play::{Act, ByKey, began, breaks, went};
use super::world::World;

fn bell(seconds: u64) -> Act {
    Act::Bell(seconds, vec![])
}

/// S15
pub(super) async fn what_is_asked_while_a_timer_is_overdue_is_done<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    // Whichever ranges there are, others are in the same one.
    let others: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    world.tell(others.iter().map(|key| began(key, "begun", vec![bell(20)])).collect()).await;
    world.tell(["ends", "fires"].map(|key| began(key, "begun", vec![bell(10)])).into()).await;
    world.settled().await;
    world.stop().await;
    world.seconds(30);
    let tickets = [
        world.wants("ends", Verb::End).await,
        world.wants("fires", Verb::Fire { timer: "bell".to_owned() }).await,
    ];
    world.join().await;
    world.until(|view| others.iter().all(|key| view.took(key) == ["begun", "bell"])).await;
    for ticket in &tickets {
        world.answer(ticket).await;
    }
    let view = world.settled().await;
    assert!(view.ended("ends"));
    assert_eq!([view.took("ends"), view.took("fires")], [vec!["begun"], vec!["begun", "bell"]]);
    assert_eq!(view.n("hot.process.timers"), 0);
    world.end().await;
}

/// S15
pub(super) async fn what_has_waited_sets_due_timers_anew<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    let mut events = vec![began("a", "begun", vec![]), went("a", "fails", vec![Act::Fail])];
    events.extend((0..250).map(|_| went("a", "sets", vec![bell(10)])));
    world.tell(events).await;
    world.settled().await;
    world.seconds(1_000);
    world.answer(&world.wants("a", Verb::Skip { input: 2 }).await).await;
    let view = world.until(|view| view.took("a").len() == 252).await;
    assert_eq!((view.took("a")[251], view.n("hot.process.timers")), ("bell", 0));
    world.end().await;
}

/// S15
pub(super) async fn a_command_that_is_retried_twice_at_once_is_sent<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let what = uuid::Uuid::new_v4().to_string();
    let broken = breaks(&what);
    let enter = Act::Enter("book".to_owned(), what.clone());
    world
        .tell(vec![began("a", "begun", vec![enter, Act::Enter("book".to_owned(), "next".to_owned())])])
        .await;
    world.until(|view| view.parked("a").is_some()).await;
    world.stop().await;
    drop(broken);
    let tickets = [world.wants("a", Verb::Retry).await, world.wants("a", Verb::Retry).await];
    world.join().await;
    let mut done = 0;
    for ticket in &tickets {
        done += usize::from(matches!(world.answer(ticket).await, Answer::Done { .. }));
    }
    assert!(done <= 1, "the other one had nothing to retry");
    let view = world.settled().await;
    assert_eq!(view.entered("book"), [&*what, "next"]);
    assert!(view.parked("a").is_none());
    world.end().await;
}
