//! What operators ask for, beside everything else that happens: S15.

use es_core::store::Row;
use sagas::{Answer, Came, Life, Verb, WaitsFor};
use serde_json::{Value, json};

use super::Subject;
use super::play::{Act, ByKey, began, breaks, keys_of_one_slice, went};
use super::world::{View, World};

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

/// S15
pub(super) async fn an_instance_with_a_command_that_is_held_stays_parked<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    for (key, verb) in [("skips", Verb::Skip { input: 2 }), ("ends", Verb::End)] {
        let what = uuid::Uuid::new_v4().to_string();
        let broken = breaks(&what);
        let enter = vec![Act::Enter("book".to_owned(), what.clone())];
        world.tell(vec![began(key, "begun", enter), went(key, "fails", vec![Act::Fail])]).await;
        world.tell(vec![went(key, "waits", vec![])]).await;
        let is_held = |view: &View| {
            view.rows["hot.process.sends"].iter().any(|(_, row)| row["trouble"]["held"] == true)
        };
        world
            .until(|view| is_held(view) && view.parked(key).is_some_and(|why| why.contains("told to fail")))
            .await;
        world.answer(&world.wants(key, verb.clone()).await).await;
        let view =
            world.until(|view| view.parked(key).is_some_and(|why| why.contains("ledger is broken"))).await;
        assert_eq!((view.took(key), &view.instances[key]["taken"]), (vec!["begun"], &2.into()));
        drop(broken);
        world.answer(&world.wants(key, Verb::Retry).await).await;
        let view = world.settled().await;
        assert!(view.parked(key).is_none());
        assert_eq!(view.entered("book").last(), Some(&&*what));
        let view = world.until(|view| view.ended(key) || view.took(key).len() == 2).await;
        assert_eq!(view.ended(key), verb == Verb::End);
    }
    world.end().await;
}

/// S15
pub(super) async fn an_input_whose_event_is_gone_parks_its_instance<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.tell(vec![began("a", "begun", vec![]), went("a", "fails", vec![Act::Fail])]).await;
    world.tell(vec![went("a", "gone", vec![]), went("a", "waits", vec![])]).await;
    world.settled().await;
    world.stop().await;
    let third = |row: &Row<Value>| row.key.ends_with(":00000000000000000003");
    let mut gone = world.overwrite_in("process.inputs", third, &json!({})).await;
    // As a program notes it that has no code for the instance.
    gone["input"]["event"] = json!({ "position": 1_000_000_000 });
    world.overwrite_in("process.inputs", third, &gone).await;
    world.join().await;
    world.answer(&world.wants("a", Verb::Skip { input: 2 }).await).await;
    let view = world.until(|view| view.parked("a").is_some_and(|why| why.contains("no event at"))).await;
    assert_eq!(view.instances["a"]["taken"], 2);
    world.answer(&world.wants("a", Verb::Skip { input: 3 }).await).await;
    world.until(|view| view.took("a") == ["begun", "waits"]).await;
    // It is rebuilt there: nobody asks what an input means that was skipped.
    world.end().await;
}

/// S15
pub(super) async fn what_cannot_be_read_is_shown_as_that<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let what = uuid::Uuid::new_v4().to_string();
    let broken = breaks(&what);
    let enters = [&*what, "next"].map(|what| Act::Enter("book".to_owned(), what.to_owned()));
    world.tell(vec![began("sends", "begun", enters.into())]).await;
    world.tell(vec![began("input", "begun", vec![]), went("input", "fails", vec![Act::Fail])]).await;
    world.tell(vec![went("input", "waits", vec![])]).await;
    world.until(|view| view.parked("sends").is_some() && view.instances["input"]["noted"] == 3).await;
    world.answer(&world.wants("input", Verb::Retry).await).await;
    world.until(|view| view.instances["input"]["parked"]["attempts"] == 2).await;
    world.stop().await;
    let sends = |row: &Row<Value>| row.value["command"]["payload"]["what"] == *what;
    world.overwrite_in("hot.process.sends", sends, &json!({ "key": "sends" })).await;
    let third = |row: &Row<Value>| row.key.ends_with(":00000000000000000003");
    world.overwrite_in("process.inputs", third, &json!({})).await;
    let of_input = |row: &Row<Value>| row.value["key"] == "input";
    world.overwrite_in("process.requests", of_input, &json!({})).await;
    drop(broken);
    let instances = world.instances();
    let shown = world.ask(|| instances.show("sends")).await.unwrap();
    let [first, next] = &shown.commands[..] else { panic!("{shown:?}") };
    assert_eq!((first.input, first.ordinal, first.held, &first.command), (1, 0, true, &None));
    assert!(first.error.as_ref().unwrap().contains("cannot be read"), "{first:?}");
    assert_eq!((next.ordinal, next.command.as_ref().unwrap().name.as_str()), (1, "enter"));
    assert!(shown.waits.iter().any(|waits| matches!(waits, WaitsFor::Command(_))), "{shown:?}");
    let shown = world.ask(|| instances.show("input")).await.unwrap();
    assert!(matches!(shown.waits[0], WaitsFor::Input { number: 2, .. }), "{shown:?}");
    let inputs = world.ask(|| instances.inputs("input", 1, 10)).await;
    assert!(matches!(inputs[0].came, Came::Event(_)), "{inputs:?}");
    assert!(
        matches!(&inputs[1].came, Came::Unreadable { error } if error.contains("cannot be read")),
        "{inputs:?}"
    );
    let history = world.ask(|| instances.history("input")).await;
    assert_eq!(
        history.iter().map(|input| &input.input).skip(1).collect::<Vec<_>>(),
        [&inputs[0], &inputs[1], &inputs[2]]
    );
    assert!(history[2].waits);
    // Nobody can say what one comes to that cannot be read any more though it was taken in.
    let slice = format!("{:04}:", es_core::processor::slice_of("input"));
    let first = |row: &Row<Value>| row.key.ends_with(":00000000000000000001") && row.key.starts_with(&slice);
    world.overwrite_in("process.inputs", first, &json!({})).await;
    let error = loop {
        let error = instances.history("input").await.unwrap_err().to_string();
        if !error.contains("could not be done now") {
            break error;
        }
    };
    assert!(error.contains("cannot be read"), "{error}");
    // The list is one of all the others, too.
    world.overwrite("sends", &json!({ "key": "sends" })).await;
    let mut all = Vec::new();
    while let [one] = &world.ask(|| instances.page(all.last().map(String::as_str), 1)).await[..] {
        let is_unreadable = matches!(one.life, Life::Unreadable { .. });
        assert_eq!(is_unreadable, one.key == "sends", "{one:?}");
        all.push(one.key.clone());
    }
    all.sort_unstable();
    assert_eq!(all, ["input", "sends"]);
    world.overwrite("sends", &json!({})).await;
    let one = world.ask(|| instances.get("sends")).await.unwrap();
    assert_eq!(one.key, "sends");
    assert!(matches!(one.life, Life::Unreadable { .. }), "{one:?}");
    let page = world.ask(|| instances.page(None, 2)).await;
    assert_eq!(page.into_iter().filter(|listed| *listed == one).count(), 1, "its key is that of its row");
    let shown = world.ask(|| instances.show("sends")).await.unwrap();
    assert_eq!(shown.status, one);
    let [WaitsFor::Repair { error, .. }] = &shown.waits[..] else { panic!("{shown:?}") };
    assert!(error.contains("cannot be read"), "{shown:?}");
}

/// S15
pub(super) async fn an_answer_waits_for_its_instance_to_be_repaired<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let what = uuid::Uuid::new_v4().to_string();
    let broken = breaks(&what);
    let enters = [&*what, "next"].map(|what| Act::Enter("book".to_owned(), what.to_owned()));
    world.tell(vec![began("a", "begun", enters.into())]).await;
    world.until(|view| view.n("hot.process.sends") == 2 || view.parked("a").is_some()).await;
    world.stop().await;
    // Whether it was held by then or not.
    let first = |row: &Row<Value>| row.value["command"]["payload"]["what"] == *what;
    let mut send = world.overwrite_in("hot.process.sends", first, &json!({})).await;
    let mut instance = world.overwrite("a", &json!({ "not": "an instance" })).await;
    send.as_object_mut().unwrap().remove("trouble");
    instance.as_object_mut().unwrap().remove("parked");
    world.overwrite_in("hot.process.sends", |row| row.value == json!({}), &send).await;
    drop(broken);
    world.join().await;
    let view = world.until(|view| view.entered("book") == [&*what, "next"]).await;
    assert_eq!(view.n("hot.process.sends"), 2, "{view:?}");
    // In place, while its node works.
    world.overwrite(":a", &instance).await;
    let view = world.settled().await;
    assert_eq!(view.entered("book"), [&*what, "next"]);
    world.end().await;
}

/// S15
pub(super) async fn what_cannot_be_done_yet_is_left_and_holds_up_no_other<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    // More than are done at once, before the others of their slice.
    let keys = keys_of_one_slice(54, 20);
    let (good, bad) = keys.split_first().unwrap();
    world.tell(keys.iter().map(|key| began(key, "begun", vec![])).collect()).await;
    world.settled().await;
    world.stop().await;
    let (mut tickets, mut states) = (Vec::new(), Vec::new());
    for key in bad {
        tickets.push(world.wants(key, Verb::End).await);
    }
    let newer = world.all("hot.process.requests").await.swap_remove(0).0;
    let is_newer = |row: &Row<Value>| row.key == newer;
    let request = world.overwrite_in("hot.process.requests", is_newer, &json!({})).await;
    for key in bad {
        states.push(world.overwrite(key, &json!({})).await);
    }
    let last = world.wants(good, Verb::End).await;
    world.join().await;
    world.answer(&last).await;
    world.until(|view| view.ended(good)).await;
    assert!(world.all("hot.process.requests").await.len() >= bad.len(), "none is answered falsely");
    // In place, while its node works.
    world.overwrite_in("hot.process.requests", is_newer, &request).await;
    for (key, state) in bad.iter().zip(&states) {
        world.overwrite(key, state).await;
    }
    for ticket in &tickets {
        world.answer(ticket).await;
    }
    world.until(|view| keys.iter().all(|key| view.ended(key))).await;
    world.end().await;
}

/// S15
pub(super) async fn an_end_takes_the_place_of_an_input_that_fails_meanwhile<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let fails = |key| went(key, "fails", vec![Act::Fail]);
    world.tell(["a", "b"].map(|key| began(key, "begun", vec![bell(1_000)])).into()).await;
    world.tell(vec![fails("a"), went("a", "waits", vec![])]).await;
    world.settled().await;
    world.stop().await;
    // One is retried in vain, and is to end with that; the other one fails as it is to end.
    drop(world.wants("a", Verb::Retry).await);
    drop(world.wants("a", Verb::End).await);
    drop(world.wants("b", Verb::End).await);
    world.tell(vec![fails("b"), went("b", "waits", vec![])]).await;
    world.join().await;
    let view = world.until(|view| view.ended("a") && view.ended("b")).await;
    assert_eq!([view.took("a"), view.took("b")], [["begun"], ["begun"]]);
    world.end().await;
}
