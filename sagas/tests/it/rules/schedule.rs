//! Commands that are sent at a time.

use std::ops::Deref as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use es_core::clock::Clock as _;
use es_core::command::{Dispatch, Halted, Interceptor, NamedCommand, Next};
use es_core::prelude::*;
use es_core::{BoxError, ErrorKind, Timestamp};
use sagas::{Processes as _, Schedule, Scheduled, Schedules as _, Verb};
use serde::{Deserialize, Serialize};

use super::Subject;
use super::ground::Ground;
use super::play::{Enter, Ledger, breaks};
use super::world::{View, World};

/// Lets no command for a ledger through while it is shut.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<AtomicBool>);

#[async_trait::async_trait]
impl Interceptor for Gate {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        if self.0.load(Ordering::Relaxed) && dispatch.stream().as_str().starts_with("ledger-") {
            return Err(Halted::because("nobody can say who you are"));
        }
        next.run(dispatch).await
    }
}

fn is_held(view: &View) -> bool {
    view.rows["hot.process.sends"].iter().any(|(_, row)| row["trouble"]["held"] == true)
}

impl<S: Subject> World<'_, S, Schedule> {
    pub(super) fn at(&self, seconds: i64) -> Timestamp {
        self.clock.now() + jiff::SignedDuration::from_secs(seconds)
    }

    /// An entry in the ledger `bells`, at a time. Asked again it takes its own place.
    pub(super) async fn plan(&self, name: &str, owner: &str, at: Timestamp, what: &str) -> Scheduled {
        let enter = || Enter { what: what.to_owned(), refuse: false, asked: None };
        let bells = "bells".to_owned();
        self.ask(async || self.nodes[0].schedule(at, &bells, enter()).named(name).owned_by(owner).await).await
    }

    async fn call_off(&self, planned: &Scheduled) {
        self.ask(async || self.nodes[0].call_off(planned).await).await;
    }
}

/// S8
pub(super) async fn what_is_scheduled_is_sent_once_its_time_has_come<S: Subject>(subject: &S) {
    let mut world = World::<S, Schedule>::start(subject).await;
    world.plan("soon", "a", world.at(10), "soon").await;
    world.plan("odd name: ä\u{1F600}", "o/w:n er", world.at(10), "odd").await;
    world.plan("never", "a", Timestamp::MAX, "never").await;
    world.plan("over", "b", world.at(-100_000_000), "over").await;
    world.until(|view| view.entered("bells") == ["over"] && view.is_quiet()).await;
    world.plan("late", "a", world.at(30), "late").await;
    assert_eq!(world.settled().await.n("hot.process.timers"), 4);
    world.seconds(9);
    world.plan("after", "c", world.at(0), "now").await;
    world.until(|view| view.entered("bells") == ["over", "now"]).await;
    world.seconds(2);
    world.until(|view| view.entries.len() == 4).await;
    // Its time comes while nobody is there.
    world.stop().await;
    world.seconds(60);
    world.join().await;
    world.until(|view| view.entered("bells").contains(&"late") && view.is_quiet()).await;
    // The name is free again.
    world.plan("late", "a", world.at(5), "again").await;
    world.seconds(6);
    world.until(|view| view.entered("bells").contains(&"again") && view.is_quiet()).await;
    let view = world.settled().await;
    let mut entered = view.entered("bells");
    entered.sort_unstable();
    assert_eq!(entered, ["again", "late", "now", "odd", "over", "soon"]);
    assert_eq!(view.n("hot.process.timers"), 1);
    world.end().await;
}

/// S8
pub(super) async fn what_is_called_off_is_not_sent<S: Subject>(subject: &S) {
    let world = World::<S, Schedule>::start(subject).await;
    let off = world.plan("off", "a", world.at(10), "off").await;
    world.plan("replaced", "a", world.at(10), "of before").await;
    world.plan("replaced", "a", world.at(20), "replaced").await;
    for name in ["1", "2", "3"] {
        world.plan(name, "leaves", world.at(10), name).await;
    }
    world.plan("1", "stays", world.at(10), "stays").await;
    world.settled().await;
    world.call_off(&off).await;
    world.call_off(&Scheduled::named("there is none")).await;
    world.ask(async || world.nodes[0].call_off_all("leaves").await).await;
    world.seconds(100);
    let view = world.until(|view| view.entries.len() == 2 && view.n("hot.process.timers") == 0).await;
    drop(view);
    world.call_off(&Scheduled::named("1").owned_by("stays")).await;
    let view = world.settled().await;
    let mut entered = view.entered("bells");
    entered.sort_unstable();
    assert_eq!(entered, ["replaced", "stays"]);
    world.end().await;
}

/// S3
pub(super) async fn what_is_scheduled_within_a_transaction_shares_its_outcome<S: Subject>(subject: &S) {
    let world = World::<S, Schedule>::start(subject).await;
    let (app, bells) = (&world.nodes[0], "bells".to_owned());
    let enter = |what: &str| Enter { what: what.to_owned(), refuse: false, asked: None };
    world
        .ask(async || {
            let mut tx = world.backend.begin().await?;
            app.schedule(world.at(1), &bells, enter("undone")).named("x").within(&mut tx).await?;
            tx.rollback().await?;
            let mut tx = world.backend.begin().await?;
            app.schedule(world.at(1), &bells, enter("done")).named("y").within(&mut tx).await?;
            tx.commit().await?;
            Ok::<_, BoxError>(())
        })
        .await;
    world.seconds(10);
    world.until(|view| view.entered("bells") == ["done"] && view.is_quiet()).await;
    assert_eq!(world.settled().await.entered("bells"), ["done"]);
    world.end().await;
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sown {}
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watered {}
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Withered {}
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "plant")]
pub(crate) enum PlantEvent {
    Sown(Sown),
    Watered(Watered),
    Withered(Withered),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("it is wet")]
pub(crate) struct NotWatered {}

/// There is one once it was sown, until it withers.
#[derive(Aggregate, Clone, Copy, Debug, Default)]
#[aggregate(id = String, event = PlantEvent, error = NotWatered)]
pub(crate) struct Plant {
    ended: bool,
}

impl Apply for Plant {
    fn apply(&mut self, event: &PlantEvent) {
        self.ended |= matches!(event, PlantEvent::Withered(_));
    }
    fn ended(&self) -> bool {
        self.ended
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Water {}
#[commands]
impl Plant {
    fn water(&self, _: Water) -> Result<Watered, NotWatered> {
        Ok(Watered {})
    }
}

/// S7
pub(super) async fn what_comes_too_late_for_its_aggregate_keeps_no_name<S: Subject>(subject: &S) {
    let mut world = World::<S, Schedule>::start(subject).await;
    world.stop().await;
    let app = world.deref().join(|app| app.aggregate::<Plant>().process::<Schedule>()).await;
    world.nodes.push(app);
    world.tell_to("plant-gone", vec![PlantEvent::Sown(Sown {}), PlantEvent::Withered(Withered {})]).await;
    world.tell_to("plant-alive", vec![PlantEvent::Sown(Sown {})]).await;
    let plan = async |name: &str, plant: &str| {
        let (app, plant) = (&world.nodes[0], plant.to_owned());
        world.ask(async || app.schedule(world.at(10), &plant, Water {}).named(name).await).await;
    };
    let names = [("a", "gone"), ("b", "missing")];
    for (name, plant) in names {
        plan(name, plant).await;
    }
    world.settled().await;
    world.seconds(11);
    world.until(|view| names.iter().all(|(name, _)| view.ended(&format!("{name}/{name}")))).await;
    for (name, _) in names {
        plan(name, "alive").await;
    }
    world.settled().await;
    world.seconds(11);
    let alive = StreamId::new("plant-alive").unwrap();
    loop {
        let events = world.ask(|| world.backend.stream(&alive, Version(0), 100)).await;
        if events.len() == 1 + names.len() {
            break;
        }
        assert!(world.view().await.instances.values().all(|instance| instance["parked"].is_null()));
        world.pause().await;
    }
    world.end().await;
}

/// S8
pub(super) async fn a_firing_that_fails_is_tried_again_and_then_parked<S: Subject>(subject: &S) {
    let world = World::<S, Schedule>::start(subject).await;
    let what = uuid::Uuid::new_v4().to_string();
    let broken = breaks(&what);
    world.plan("a", "a", world.at(0), &what).await;
    let view = world.until(|view| view.parked("a/a").is_some()).await;
    assert!(is_held(&view) && view.parked("a/a").unwrap().contains("the ledger is broken"), "{view:?}");
    assert!(view.instances["a/a"]["parked"]["attempts"].as_u64() >= Some(5), "{view:?}");
    // Others are not held up, and what is planned under its name waits for it.
    world.plan("b", "a", world.at(0), "b").await;
    world.plan("a", "a", world.at(0), "again").await;
    world.until(|view| view.entered("bells") == ["b"]).await;
    drop(broken);
    world.answer(&world.wants("a/a", Verb::Retry).await).await;
    let view = world.until(|view| view.entries.len() == 3 && view.is_quiet()).await;
    assert_eq!(view.entered("bells"), ["b", &*what, "again"]);
    world.end().await;
}

/// S8
pub(super) async fn a_firing_that_an_interceptor_refuses_is_sent_by_a_retry<S: Subject>(subject: &S) {
    let mut world = World::<S, Schedule>::on(subject).await;
    let gate = Gate::default();
    let wire = |app: es_core::AppBuilder<S::Backend>| {
        app.aggregate::<Ledger>().process::<Schedule>().interceptor(gate.clone())
    };
    world.nodes.push(Ground::join(&world, wire).await);
    gate.0.store(true, Ordering::Relaxed);
    world.plan("a", "a", world.at(0), "entered").await;
    let view = world.until(|view| view.parked("a/a").is_some()).await;
    assert!(view.parked("a/a").unwrap().contains("nobody can say who you are"), "{view:?}");
    gate.0.store(false, Ordering::Relaxed);
    world.answer(&world.wants("a/a", Verb::Retry).await).await;
    let view = world.settled().await;
    assert_eq!(view.entered("bells"), ["entered"]);
    world.end().await;
}

/// S15
pub(super) async fn a_command_that_is_given_up_holds_up_nothing_more<S: Subject>(subject: &S) {
    let mut world = World::<S, Schedule>::start(subject).await;
    let what = uuid::Uuid::new_v4().to_string();
    let broken = breaks(&what);
    // One that is held; one whose command is in no program any more, and is sent for ever.
    world.plan("held", "a", world.at(0), &what).await;
    world.plan("dropped", "a", world.at(1_000), "dropped").await;
    world.until(is_held).await;
    world.plan("held", "a", world.at(0), "held again").await;
    world.settled_but_for_commands().await;
    world.stop().await;
    world.nodes.push(Ground::join(&world, |app| app.process::<Schedule>()).await);
    world.seconds(1_001);
    let trouble = |view: &View, key: &str| {
        let mut rows = view.rows["hot.process.sends"].iter().map(|(_, row)| row.clone());
        rows.find(|row| row["key"] == *key && row.get("trouble").is_some())
    };
    world.until(|view| trouble(view, "dropped/a").is_some()).await;
    let mut given_up = Vec::new();
    for key in ["held/a", "dropped/a"] {
        let view = world.view().await;
        assert_eq!(view.parked(key).is_some(), key == "held/a");
        let row = trouble(&view, key).unwrap();
        let input = row["input"].as_u64().unwrap();
        given_up.push(row);
        world.answer(&world.wants(key, Verb::Skip { input }).await).await;
    }
    // Once there is such a command again, what is planned under their names is all that is sent.
    drop(broken);
    world.stop().await;
    world.join().await;
    // A node that was stopped in the middle of sending one comes too late.
    for row in given_up {
        let key = format!("process/{}/{}/{}", row["id"].as_str().unwrap(), row["input"], row["ordinal"]);
        let command: NamedCommand = serde_json::from_value(row["command"].clone()).unwrap();
        let late = loop {
            let sent = world.nodes[0].sender().send_named(command.clone()).idempotency_key(&*key).await;
            match sent {
                Err(error) if error.kind() == ErrorKind::Transient => world.pause().await,
                answer => break answer,
            }
        };
        assert!(late.is_err(), "{late:?}");
    }
    world.plan("dropped", "a", world.at(0), "dropped again").await;
    world.until(|view| view.entries.len() >= 2 && view.is_quiet()).await;
    let view = world.settled().await;
    let mut entered = view.entered("bells");
    entered.sort_unstable();
    assert_eq!(entered, ["dropped again", "held again"]);
    world.end().await;
}
