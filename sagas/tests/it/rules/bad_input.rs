//! What nobody should do, and somebody does.

use es_core::store::Row;
use sagas::{Verb, WaitsFor};
use serde_json::{Value, json};

use super::Subject;
use super::play::{Act, ByKey, Found, began, breaks, called, keys_of_one_slice, replied, went, went_to};
use super::world::{View, World};

/// S6
pub(super) async fn a_state_that_cannot_be_read_holds_up_no_other_instance<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let bell = || vec![Act::Bell(10, vec![])];
    world.tell(vec![began("bad", "begun", bell()), began("good", "begun", bell())]).await;
    world.settled().await;
    world.stop().await;
    let before = world.overwrite("bad", &json!({ "not": "an instance" })).await;
    world.join().await;
    // The bad one comes first, last, and beside the good one.
    world
        .tell(vec![
            went("bad", "1", vec![]),
            went("good", "1", vec![]),
            went_to(&["good", "bad"], "2", vec![]),
        ])
        .await;
    world.tell(vec![began("new", "begun", vec![])]).await;
    world.seconds(11);
    let view = world.until(|view| view.took("good").len() == 4 && view.took("new").len() == 1).await;
    assert_eq!(view.took("good"), ["begun", "1", "2", "bell"]);
    // Once it can be read, nothing is lost.
    world.stop().await;
    let broken = json!({ "not": "an instance" });
    assert_eq!(world.overwrite(":bad", &before).await, broken);
    world.join().await;
    world.retry_all().await;
    let view = world.until(|view| view.took("bad").len() == 4).await;
    let mut took = view.took("bad");
    took.sort_unstable();
    assert_eq!(took, ["1", "2", "begun", "bell"]);
    world.end().await;
}

/// S6
pub(super) async fn a_row_that_cannot_be_read_holds_up_no_other_instance<S: Subject>(subject: &S) {
    let mut world = World::<S, Found>::start(subject).await;
    let what = uuid::Uuid::new_v4().to_string();
    let broken = breaks(&what);
    let enters = [&*what, "next"].map(|what| Act::Enter("book".to_owned(), what.to_owned()));
    let named = |name: &str| Act::Associate(name.to_owned());
    world
        .tell(vec![
            began("sends", "begun", enters.into()),
            began("timer", "begun", vec![Act::Bell(10, vec![])]),
            began("input", "begun", vec![]),
            went("input", "fails", vec![Act::Fail]),
            went("input", "waits", vec![]),
            replied("early", "stashed", vec![]),
            began("association", "begun", vec![named("gone")]),
            began("good", "begun", vec![Act::Bell(11, vec![]), named("here")]),
        ])
        .await;
    world.until(|view| view.parked("sends").is_some() && view.parked("input").is_some()).await;
    world.stop().await;
    let of = |key: &'static str| move |row: &Row<Value>| row.value["key"] == key;
    let bad = json!({ "not": "a row" });
    let overwrite =
        async |world: &World<'_, S, Found>, table, key| world.overwrite_in(table, of(key), &bad).await;
    let (timers, early) = ("hot.process.timers", "process.early");
    let sends = |row: &Row<Value>| row.value["command"]["payload"]["what"] == *what;
    let third = |row: &Row<Value>| row.key.ends_with(":00000000000000000003");
    let mut before = vec![
        (timers, overwrite(&world, timers, "timer").await),
        (early, overwrite(&world, early, "early").await),
    ];
    overwrite(&world, "process.associations", "association").await;
    before.push((
        "hot.process.sends",
        world.overwrite_in("hot.process.sends", sends, &json!({ "key": "sends" })).await,
    ));
    before.push(("process.inputs", world.overwrite_in("process.inputs", third, &bad).await));
    world.join().await;
    world.seconds(12);
    world
        .tell(vec![
            called("gone", "finds nobody knows whom", vec![]),
            began("early", "begun", vec![]),
            called("here", "found", vec![]),
            began("new", "begun", vec![]),
        ])
        .await;
    world.answer(&world.wants("input", Verb::Skip { input: 2 }).await).await;
    let view = world.until(|view| view.took("good").len() == 3 && view.took("new").len() == 1).await;
    assert!(view.took("good").contains(&"bell") && view.took("good").contains(&"found"));
    let unread = |view: &View| view.parked("input").is_some_and(|why| why.contains("cannot be read"));
    world.until(unread).await;
    let parked = world.until_parked(2).await;
    assert!(parked.iter().all(|why| why.contains("cannot be read")), "{parked:?}");
    // Once they can be read, nothing is lost.
    world.stop().await;
    for (table, value) in &before {
        let is_bad = |row: &Row<Value>| row.value == bad || row.value == json!({ "key": "sends" });
        world.overwrite_in(table, is_bad, value).await;
    }
    drop(broken);
    world.join().await;
    world.retry_all().await;
    for key in ["sends", "input"] {
        world.answer(&world.wants(key, Verb::Retry).await).await;
    }
    let view = world
        .until(|view| {
            view.is_quiet()
                && [view.took("timer"), view.took("early"), view.took("input")]
                    .iter()
                    .all(|took| took.len() == 2)
        })
        .await;
    assert_eq!(
        [view.took("timer")[1], view.took("early")[1], view.took("input")[1]],
        ["bell", "stashed", "waits"]
    );
    assert_eq!(view.entered("book"), [&*what, "next"]);
    world.stop().await;
}

/// S6
pub(super) async fn timers_that_cannot_be_read_hold_up_none_behind_them<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let keys = keys_of_one_slice(40, 20);
    let (good, bad) = keys.split_first().unwrap();
    world.tell(bad.iter().map(|key| began(key, "begun", vec![Act::Bell(10, vec![])])).collect()).await;
    world.tell(vec![began(good, "begun", vec![Act::Bell(11, vec![])])]).await;
    world.settled().await;
    world.stop().await;
    for key in bad {
        world.overwrite_in("hot.process.timers", |row| row.value["key"] == **key, &json!({})).await;
    }
    world.join().await;
    world.seconds(12);
    world.until(|view| view.took(good) == ["begun", "bell"]).await;
    let instances = world.instances();
    let shown = world.ask(|| instances.show(&bad[0])).await.unwrap();
    let what = |waits: &WaitsFor| matches!(waits, WaitsFor::Repair { what, .. } if what.contains("bell"));
    assert!(shown.waits.iter().any(what), "{shown:?}");
    world.stop().await;
}

pub(super) async fn what_is_over_a_limit_parks_its_instance_and_no_other<S: Subject>(subject: &S) {
    let world = World::<S, Found>::start(subject).await;
    let long = "x".repeat(10_000);
    world.tell(["a", "b", "c", "d", "e", "f", "g"].map(|key| began(key, "begun", vec![])).into()).await;
    let page = vec![
        went("a", "associates", vec![Act::Associate(long.clone())]),
        called(&long, "finds nobody", vec![]),
        went("b", "swells", vec![Act::Swell(70_000)]),
        went("c", "sends", vec![Act::Many(1_001)]),
        went("e", "weighs", vec![Act::Weigh(300_000)]),
        went("f", "associates", (0..300).map(|n| Act::Associate(format!("{n:0999}"))).collect()),
        went("g", "sends", vec![Act::Post(3, 900_000)]),
        went("d", "well", vec![Act::Associate("x".repeat(1_000)), Act::Associate("\0".to_owned())]),
        called(&"x".repeat(1_000), "found", vec![]),
        called("\0", "found by NUL", vec![]),
    ];
    world.tell(page).await;
    let view = world.settled().await;
    let why = |key: &str| view.parked(key).unwrap().to_owned();
    assert!(
        why("a").contains("association") && why("a").contains("10000") && why("a").len() < 200,
        "{}",
        why("a")
    );
    assert!(why("b").contains("state") && why("b").contains("65536"), "{}", why("b"));
    assert!(why("c").contains("1001 effects, over the limit of 1000"), "{}", why("c"));
    assert!(why("e").contains("timers") && why("e").contains("262144"), "{}", why("e"));
    assert!(why("f").contains("associations") && why("f").contains("262144"), "{}", why("f"));
    assert!(why("g").contains("sends") && why("g").contains("2097152"), "{}", why("g"));
    assert_eq!(view.took("d"), ["begun", "well", "found", "found by NUL"]);
    assert!(view.entries.is_empty());
    world.end().await;
}

pub(super) async fn timers_go_to_the_end_of_time<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    let now = es_core::clock::Clock::now(&world.clock);
    let left = u64::try_from(es_core::Timestamp::MAX.as_second() - now.as_second()).unwrap();
    let starts = vec![
        began("now", "begun", vec![Act::Bell(0, vec![])]),
        began("last", "begun", vec![Act::Bell(left - 1, vec![])]),
        began("beyond", "begun", vec![Act::Bell(left + 5, vec![])]),
        began("overflow", "begun", vec![Act::Bell(u64::MAX, vec![])]),
        began("soon", "begun", vec![Act::Bell(5, vec![])]),
    ];
    world.tell(starts).await;
    world.until(|view| view.took("now").len() == 2).await;
    world.seconds(6);
    let view = world.until(|view| view.took("soon").len() == 2).await;
    for key in ["beyond", "overflow"] {
        assert!(view.parked(key).unwrap().contains("no time that there is"), "{view:?}");
    }
    assert_eq!(view.took("last"), ["begun"]);
    assert_eq!(view.n("hot.process.timers"), 1);
    world.end().await;
}

pub(super) async fn a_thousand_commands_of_many_instances_are_sent<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    let starts =
        (0..3).map(|n| began(&format!("k{n}"), "begun", vec![Act::Many(if n == 0 { 1_000 } else { 20 })]));
    world.tell(starts.collect()).await;
    let view = world.settled().await;
    assert_eq!(view.entered("many").len(), 1_040);
    world.end().await;
}

pub(super) async fn odd_keys_name_instances_of_their_own<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let mut keys: Vec<String> =
        ["a", "A", " a", "a ", "a:b", "a%3Ab", "a%b", "_", "*", ">", ".", "..", "a/b", "\u{1}"]
            .into_iter()
            .chain([
                "x'; DROP TABLE events;--",
                "$1",
                "\\",
                "\"",
                "\u{e4}",
                "a\u{308}",
                "\u{430}",
                "\u{1f980}",
                "\n",
                "null",
            ])
            .map(str::to_owned)
            .collect();
    keys.extend(["a", "b"].map(|end| format!("{}{end}", "\u{e4}".repeat(127))));
    world
        .tell(keys.iter().map(|key| began(key, key, vec![Act::Ask(format!("reply to {key}"))])).collect())
        .await;
    world.settled().await;
    world.stop().await;
    world.join().await;
    world.tell(keys.iter().map(|key| went(key, "went", vec![])).collect()).await;
    let view = world.settled().await;
    assert_eq!(view.instances.len(), keys.len());
    for key in &keys {
        let mut took = view.took(key);
        took.sort_unstable();
        let mut all = vec![key.clone(), format!("reply to {key}"), "went".to_owned()];
        all.sort_unstable();
        assert_eq!(took, all, "{key:?}");
    }
    world.end().await;
}

pub(super) async fn a_key_that_cannot_be_stored_holds_up_no_other<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    for (n, key) in ["", "a\0b", &"k".repeat(256), &"k".repeat(100_000)].into_iter().enumerate() {
        world.tell_to(&format!("stage-bad{n}"), vec![began(key, "begun", vec![])]).await;
    }
    world.tell(vec![began("good", "begun", vec![])]).await;
    let view = world.until(|view| view.took("good") == ["begun"]).await;
    assert_eq!(view.instances.len(), 1);
    let parked = world.until_parked(4).await;
    assert!(parked.iter().all(|error| error.contains("cannot be a key") && error.len() < 600), "{parked:?}");
    world.end().await;
}

/// S4, S6
pub(super) async fn what_comes_too_early_in_masses_keeps_no_instance_from_its_start<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    let labels: Vec<String> = (0..1_003).map(|n| n.to_string()).collect();
    for labels in labels.chunks(400) {
        world.tell(labels.iter().map(|label| replied("a", label, vec![])).collect()).await;
    }
    assert!(world.until_parked(1).await[0].contains("no more fit"));
    world
        .tell(vec![began("a", "begun", vec![]), began("b", "begun", vec![]), went("a", "last", vec![])])
        .await;
    let view = world.until(|view| view.took("a").len() > 1_000 && view.took("b").len() == 1).await;
    assert_eq!(view.took("a").len(), 1_001, "what fits has waited for it");
    // What did not is set aside, with what comes behind it, until an operator has it handled.
    world.retry_all().await;
    let all: Vec<&str> =
        ["begun"].into_iter().chain(labels.iter().map(String::as_str)).chain(["last"]).collect();
    let view = world.until(|view| view.took("a").len() == all.len()).await;
    assert_eq!(view.took("a"), all);
    world.until_parked(0).await;
    assert_eq!(view.n("process.early"), 0);
    world.end().await;
}
