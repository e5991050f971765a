//! Two programs: what the older one cannot do is left to the newer one.

use es_core::event::{DecodeError, DecodeProblem};
use es_core::prelude::*;
use es_core::projection::{Change, Code, nth};
use es_core::store::{EventFilter, Row};
use es_core::{AppBuilder, BoxError, Projection};
use sagas::{AfterEnd, Early, Next, On, OnTimer, Process, Processes as _, Sends, Step, To, Verb};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use sagas::Schedule;

use super::Subject;
use super::ground::Ground;
use super::play::{
    Act, Began, Bell, ByKey, Enter, Entered, Gong, Ledger, Memory, Replied, Went, began, breaks, replied,
    went,
};
use super::world::{View as Seen, World};

fn enter(what: &str) -> Act {
    Act::Enter("book".to_owned(), what.to_owned())
}

/// Counts entries; the newer one counts visits, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts<const NEWER: bool>(pub(super) u64);

impl<const NEWER: bool> Projection for Counts<NEWER> {
    const NAME: &'static str = "counts";
    fn filter() -> EventFilter {
        let entered = EventFilter::of::<Entered>();
        if NEWER { entered.or(EventFilter::of::<Went>()) } else { entered }
    }
    fn code() -> Code {
        let code = Code::new(1).handling::<Entered>();
        if NEWER { code.handling::<Went>() } else { code }
    }
}

impl<const NEWER: bool> View for Counts<NEWER> {
    type Key = String;
    fn changes(_: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new("all".to_owned(), count)])
    }
}

/// S7
pub(super) async fn commands_that_newer_inline_views_refuse_are_left_to_the_newer_program<S: Subject>(
    subject: &S,
) {
    let mut world = World::<S, Schedule>::on(subject).await;
    let process = |app: AppBuilder<S::Backend>| app.aggregate::<Ledger>().process::<Schedule>();
    let older = Ground::join(&world, |app| process(app).inline_view::<Counts<false>>()).await;
    let newer = Ground::join(&world, |app| process(app).inline_view::<Counts<true>>()).await;
    world.nodes.extend([newer, older]);
    let names: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    for name in &names {
        world.plan(name, "a", world.at(0), name).await;
    }
    // Those of the ranges that the older one has are shown, those of the others are sent.
    let is_shown = |view: &Seen| {
        let shown = view.rows["hot.process.sends"].iter().filter(|(_, row)| row.get("trouble").is_some());
        shown.count() + view.entries.len() == names.len()
    };
    let none_is_parked = |view: &Seen| names.iter().all(|name| view.parked(&format!("{name}/a")).is_none());
    let view = world.until(is_shown).await;
    assert!(none_is_parked(&view) && view.entries.len() < names.len(), "{view:?}");
    world.crash(1);
    let view = world.until(|view| view.entries.len() == names.len() && view.is_quiet()).await;
    assert!(none_is_parked(&view), "{view:?}");
    world.end().await;
}

/// S7
pub(super) async fn a_command_in_words_of_a_newer_program_waits_for_it<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let what = uuid::Uuid::new_v4().to_string();
    let broken = breaks(&what);
    world.tell(vec![began("a", "begun", vec![enter(&what)])]).await;
    let is_held = |row: &Value| row["trouble"]["held"] == true;
    world.until(|view| view.rows["hot.process.sends"].iter().any(|(_, row)| is_held(row))).await;
    // As a newer program has stored it.
    let mut instance = world.view().await.instances["a"].clone();
    world.stop().await;
    instance.as_object_mut().unwrap().remove("parked");
    world.overwrite(":a", &instance).await;
    let of = |row: &Row<Value>| row.value["key"] == "a";
    let mut stored = world.overwrite_in("hot.process.sends", of, &json!({ "key": "a" })).await;
    stored.as_object_mut().unwrap().remove("trouble");
    let mut newer = stored.clone();
    newer["command"]["payload"] = json!({ "says": what });
    world.overwrite_in("hot.process.sends", of, &newer).await;
    drop(broken);
    world.join().await;
    let view = world
        .until(|view| view.rows["hot.process.sends"].iter().any(|(_, row)| row.get("trouble").is_some()))
        .await;
    assert!(!is_held(&view.rows["hot.process.sends"][0].1) && view.parked("a").is_none(), "{view:?}");
    world.stop().await;
    world.overwrite_in("hot.process.sends", of, &stored).await;
    world.join().await;
    let view = world.settled().await;
    assert_eq!(view.entered("book"), [&*what]);
    world.end().await;
}

/// What is told it early waits for it. One that does not know `hard` events fails at them; `newer` ones are unknown to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Waits<const KNOWS: bool>(Memory);

impl<const KNOWS: bool> Process for Waits<KNOWS> {
    const NAME: &'static str = "waits";
    const AFTER_END: AfterEnd = AfterEnd::Again;
    type Key = String;

    fn filter() -> EventFilter {
        EventFilter::types([Began::SOURCES, Replied::SOURCES, Went::SOURCES].concat())
    }

    fn wire<B: Backend>(app: AppBuilder<B>) -> AppBuilder<B> {
        app.command::<Enter>()
    }

    fn steps(event: &RecordedEvent) -> Result<Vec<Step<'_, Self>>, BoxError> {
        let (mut steps, mut more) = (Vec::new(), false);
        if let Some(began) = nth::<Began>(event, 0, &mut more)? {
            Self::reads(event, &began.label)?;
            Step::of(began, event, &mut steps)?;
        }
        if let Some(replied) = nth::<Replied>(event, 0, &mut more)? {
            Self::reads(event, &replied.label)?;
            Step::of(replied, event, &mut steps)?;
        }
        if let Some(went) = nth::<Went>(event, 0, &mut more)? {
            Self::reads(event, &went.label)?;
            Step::of(went, event, &mut steps)?;
        }
        Ok(steps)
    }
}

impl<const KNOWS: bool> Waits<KNOWS> {
    fn reads(event: &RecordedEvent, label: &str) -> Result<(), BoxError> {
        match label.split_once(' ') {
            Some(("hard", _)) if !KNOWS => Err("it is too hard".into()),
            Some(("newer", _)) if !KNOWS => Err(DecodeError::new(event, DecodeProblem::UnknownType).into()),
            _ => Ok(()),
        }
    }
}

impl<const KNOWS: bool> Sends<Enter> for Waits<KNOWS> {}

impl<const KNOWS: bool> OnTimer<Bell> for Waits<KNOWS> {
    fn on(&mut self, timer: Bell) -> Result<Next<Self>, BoxError> {
        Ok(self.0.take("bell", &timer.acts)?)
    }
}

impl<const KNOWS: bool> OnTimer<Gong> for Waits<KNOWS> {
    fn on(&mut self, timer: Gong) -> Result<Next<Self>, BoxError> {
        Ok(self.0.take("gong", &timer.acts)?)
    }
}

macro_rules! takes {
    ($event:ident, $starts:literal, $early:ident, $keys:expr) => {
        impl<const KNOWS: bool> On<$event> for Waits<KNOWS> {
            const STARTS: bool = $starts;
            const EARLY: Early = Early::$early;

            fn to(event: Recorded<'_, $event>) -> Result<Vec<To<String>>, BoxError> {
                let keys: fn(&$event) -> Vec<String> = $keys;
                Ok(keys(&event).into_iter().map(To::Key).collect())
            }

            fn on(&mut self, event: Recorded<'_, $event>) -> Result<Next<Self>, BoxError> {
                Ok(self.0.take(&event.label, &event.acts)?)
            }
        }
    };
}
takes!(Began, true, Ignore, |event| vec![event.key.clone()]);
takes!(Replied, false, Stash, |event| vec![event.key.clone()]);
takes!(Went, false, Ignore, |event| event.keys.clone());

/// S4
pub(super) async fn a_reply_that_waits_is_not_lost_to_a_program_that_cannot_read_it<S: Subject>(subject: &S) {
    let mut world = World::<S, Waits<true>>::start(subject).await;
    world.tell(vec![replied("a", "hard reply", vec![]), replied("b", "newer reply", vec![])]).await;
    assert_eq!(world.settled().await.n("process.early"), 2);
    world.stop().await;
    // The older program is back.
    world.join_as::<Waits<false>>().await;
    world.tell_to("stage-a", vec![began("a", "begun", vec![])]).await;
    assert!(world.until_parked(1).await[0].contains("too hard"));
    world.tell_to("stage-b", vec![began("b", "begun", vec![])]).await;
    world.join_as::<Waits<true>>().await;
    world.until(|view| view.took("b") == ["begun", "newer reply"]).await;
    assert!(world.until_parked(1).await[0].contains("too hard"), "what is newer parks nothing");
    world.nodes.swap(0, 1);
    world.retry_all().await;
    let view = world.until(|view| view.took("a") == ["begun", "hard reply"]).await;
    assert_eq!(view.n("process.early"), 0);
    world.end().await;
}

/// S5, S6
pub(super) async fn what_has_waited_is_not_lost_to_a_program_that_cannot_read_it<S: Subject>(subject: &S) {
    let mut world = World::<S, Waits<true>>::start(subject).await;
    for key in ["hard", "newer"] {
        let begins = [began(key, "begun", vec![]), went(key, "fails", vec![Act::Fail])];
        let waits = [went(key, "ends", vec![Act::End]), began(key, &format!("{key} start"), vec![])];
        world.tell([begins, waits].concat()).await;
    }
    world.tell(vec![began("runs", "begun", vec![]), went("runs", "fails", vec![Act::Fail])]).await;
    world.tell(vec![went("runs", "newer event", vec![])]).await;
    world.settled().await;
    world.stop().await;
    let keys = ["hard", "newer", "runs"];
    let mut tickets = Vec::new();
    for key in keys {
        tickets.push(world.wants(key, Verb::Skip { input: 2 }).await);
    }
    world.join_as::<Waits<false>>().await;
    for ticket in &tickets {
        world.answer(ticket).await;
    }
    let view = world.until(|view| view.parked("hard").is_some_and(|why| why.contains("too hard"))).await;
    // It looks at all of them at once.
    assert!(view.parked("newer").is_none() && view.parked("runs").is_none(), "{view:?}");
    world.stop().await;
    world.join_as::<Waits<true>>().await;
    world.answer(&world.wants("hard", Verb::Retry).await).await;
    let view = world.until(|view| view.took("hard") == ["hard start"]).await;
    assert_eq!(view.took("newer"), ["newer start"]);
    assert_eq!(view.took("runs"), ["begun", "newer event"]);
    world.end().await;
}
