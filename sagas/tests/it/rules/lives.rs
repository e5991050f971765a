//! How instances begin and end, and what stops one of them: S1, S4, S5, S6, S10, S12.

use sagas::Verb;
use serde_json::{Value, json};

use super::Subject;
use super::by_hand::ByHand;
use super::play::{Act, Again, Alone, ByKey, Newer, began, replied, went, went_to};
use super::world::World;

fn enter(what: &str) -> Act {
    Act::Enter("book".to_owned(), what.to_owned())
}

/// S1
pub(super) async fn a_start_that_comes_twice_makes_one_instance<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.join().await;
    // In one page; by two streams at once.
    world.tell(vec![began("a", "one", vec![enter("a")]), began("a", "two", vec![enter("a")])]).await;
    let starts = |n: usize| {
        let all =
            (0..20).map(move |i| began(&format!("k{i}"), &format!("s{n}"), vec![enter(&format!("k{i}"))]));
        all.collect::<Vec<_>>()
    };
    tokio::join!(world.tell_to("stage-one", starts(1)), world.tell_to("stage-two", starts(2)));
    world.tell(vec![went("a", "more", vec![])]).await;
    let view = world.settled().await;
    assert_eq!(view.instances.len(), 21);
    assert_eq!(view.took("a"), ["one", "more"]);
    let mut entered = view.entered("book");
    entered.sort_unstable();
    let mut each: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
    each.push("a".to_owned());
    each.sort_unstable();
    assert_eq!(entered, each, "each once");
    world.end().await;
}

/// S4
pub(super) async fn a_reply_that_comes_first_is_not_lost<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let early =
        vec![replied("a", "r1", vec![enter("r1")]), went("a", "lost", vec![]), replied("b", "r", vec![])];
    world.tell(early).await;
    world.settled().await;
    world.stop().await;
    world.audit().await;
    world.join().await;
    world.tell(vec![replied("a", "r2", vec![enter("r2")]), began("a", "begun", vec![enter("begun")])]).await;
    // Both in one page, and an end that what has waited comes too late for.
    world.tell(vec![replied("c", "r", vec![]), began("c", "begun", vec![])]).await;
    world.tell(vec![replied("d", "r", vec![]), began("d", "begun", vec![Act::End])]).await;
    let view = world.settled().await;
    assert_eq!(view.took("a"), ["begun", "r1", "r2"]);
    assert_eq!(view.entered("book"), ["begun", "r1", "r2"]);
    assert_eq!([view.took("c"), view.took("d")], [vec!["begun", "r"], vec!["begun"]]);
    assert_eq!(view.n("process.early"), 1, "that of b");
    assert!(!view.instances.contains_key("b"));
    world.end().await;
}

/// S4
pub(super) async fn an_instance_does_not_begin_without_what_has_waited_and_is_gone<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.tell(vec![replied("a", "reply", vec![])]).await;
    assert_eq!(world.settled().await.n("process.early"), 1);
    world.stop().await;
    let gone = json!({ "key": "a", "position": 1_000_000_000, "step": 0 });
    let there = world.overwrite_in("process.early", |_| true, &gone).await;
    world.join().await;
    world.tell_to("stage-a", vec![began("a", "begun", vec![])]).await;
    assert!(world.until_parked(1).await[0].contains("attach what was archived"));
    world.stop().await;
    world.overwrite_in("process.early", |_| true, &there).await;
    world.join().await;
    world.retry_all().await;
    let view = world.until(|view| view.took("a") == ["begun", "reply"]).await;
    assert_eq!(view.n("process.early"), 0);
    world.end().await;
}

/// S5
pub(super) async fn an_ended_instance_is_not_revived<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world
        .tell(vec![began("a", "begun", vec![Act::Bell(5, vec![])]), went("a", "ends", vec![Act::End])])
        .await;
    world.tell(vec![began("b", "begun", vec![]), began("b", "late", vec![])]).await;
    world.settled().await;
    for again in [false, true] {
        if again {
            world.stop().await;
            world.join().await;
        }
        let late = vec![
            began("a", "late", vec![enter("late")]),
            replied("a", "late", vec![]),
            went("a", "late", vec![]),
        ];
        world.tell(late).await;
        world.seconds(10);
        world.tell(vec![went("b", "after", vec![])]).await;
    }
    let view = world.settled().await;
    assert_eq!(view.took("a"), ["begun", "ends"]);
    assert!(view.ended("a"));
    assert_eq!(view.took("b"), ["begun", "after", "after"]);
    assert_eq!([view.n("process.early"), view.n("hot.process.timers"), view.entries.len()], [0, 0, 0]);
    world.end().await;
}

/// S5
pub(super) async fn one_that_may_begin_again_does_so_behind_its_end<S: Subject>(subject: &S) {
    let mut world = World::<S, Again>::start(subject).await;
    let life = |n: &str| began("a", n, vec![enter(n), Act::Bell(9, vec![enter("bell")]), Act::End]);
    // The second and the third come while the one before them waits for its answer.
    world.tell(vec![life("1"), life("2"), life("3"), went("a", "nobody", vec![])]).await;
    world.until(|view| view.entered("book").len() == 3 && view.ended("a")).await;
    world.tell(vec![life("4")]).await;
    world.stop().await;
    world.join().await;
    world.tell(vec![began("a", "5", vec![]), went("a", "more", vec![])]).await;
    let view = world.until(|view| view.took("a") == ["5", "more"]).await;
    assert_eq!(view.entered("book"), ["1", "2", "3", "4"]);
    world.seconds(20);
    world.tell(vec![went("a", "last", vec![])]).await;
    let view = world.settled().await;
    assert_eq!(view.took("a"), ["5", "more", "last"], "no timer of a life before");
    assert_eq!(view.n("process.early"), 0);
    world.end().await;
}

/// S4
pub(super) async fn more_than_one_read_of_events_may_wait_for_instances<S: Subject>(subject: &S) {
    let mut world = World::<S, Again>::start(subject).await;
    let keys: Vec<String> = (0..11).map(|n| format!("k{n}")).collect();
    for key in &keys {
        world.tell((0..1_000).map(|_| replied(key, "stashed", vec![])).collect()).await;
    }
    let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
    world.tell(vec![went_to(&keys, "for nobody", vec![]), began("k0", "begun", vec![])]).await;
    let view = world.settled().await;
    assert_eq!((view.took("k0").len(), view.n("process.early")), (1_001, 10_000));
    world.stop().await;
    world.end().await;
}

/// S5
pub(super) async fn one_that_is_parked_may_begin_again_behind_its_end<S: Subject>(subject: &S) {
    let mut world = World::<S, Again>::start(subject).await;
    let fails = |key: &str| [began(key, "1", vec![enter("1")]), went(key, "fails", vec![Act::Fail])];
    let ends = |key: &str| went(key, "ends", vec![Act::End]);
    let more = |key: &str| [began(key, "2", vec![enter("2")]), went(key, "more", vec![])];
    // One that ends in what waits; one that does not, and takes what comes behind the start all the same; one that begins
    // and ends twice; one in whose end an operator has the input skipped that comes last.
    world.tell([&fails("a")[..], &[ends("a")], &more("a")].concat()).await;
    world.tell([&fails("b")[..], &more("b")].concat()).await;
    let twice = [ends("c"), began("c", "2", vec![enter("2"), Act::End]), went("c", "nobody", vec![])];
    world
        .tell([&fails("c")[..], &twice, &[began("c", "3", vec![]), went("c", "more", vec![])]].concat())
        .await;
    world.settled().await;
    world.stop().await;
    world.join().await;
    world.have_done(&["a", "b", "c"], Verb::Skip { input: 2 }).await;
    let view = world.until(|view| view.took("c") == ["3", "more"] && view.is_quiet()).await;
    assert_eq!([view.took("a"), view.took("b")], [["2", "more"], ["1", "more"]]);
    assert_eq!(view.entered("book").len(), 5);
    assert_eq!(view.n("process.early"), 0);
    world.end().await;
}

/// S5
pub(super) async fn one_that_ends_by_a_skip_begins_again<S: Subject>(subject: &S) {
    let world = World::<S, Again>::start(subject).await;
    // The second comes while the first one waits for its answer, which its handler fails at.
    let first = began("a", "1", vec![Act::Refused("unbearable".to_owned()), Act::End]);
    world.tell(vec![first, began("a", "2", vec![enter("2")]), went("a", "more", vec![])]).await;
    let view = world.settled().await;
    assert_eq!((view.took("a"), view.n("process.early")), (vec!["1"], 2));
    world.have_done(&["a"], Verb::Skip { input: 2 }).await;
    let view = world.until(|view| view.took("a") == ["2", "more"] && view.is_quiet()).await;
    assert_eq!(view.entered("book"), ["2"]);
    assert_eq!(view.n("process.early"), 0);
    world.end().await;
}

/// S10
pub(super) async fn a_tombstone_is_rebuilt_from_what_it_took_in<S: Subject>(subject: &S) {
    let world = World::<S, ByHand<1, false>>::start(subject).await;
    let first = began("a", "begun", vec![Act::Associate("rival of b".to_owned())]);
    world.tell(vec![first, began("b", "begun", vec![Act::End])]).await;
    let view = world.settled().await;
    assert!(view.ended("b"));
    assert_eq!([view.took("a"), view.took("b")], [vec!["begun", "a rival"], vec!["begun"]]);
    // It is rebuilt there.
    world.end().await;
}

/// S10
pub(super) async fn an_instance_that_ends_as_it_starts_leaves_its_tombstone<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    let acts = vec![Act::Bell(1, vec![]), Act::End];
    world.tell(vec![began("a", "begun", acts), went_to(&["a"], "late", vec![])]).await;
    let view = world.settled().await;
    assert!(view.ended("a"));
    assert!(view.rows.values().all(Vec::is_empty), "{view:?}");
    let end = world.end().await;
    assert_eq!(end.took("a"), ["begun"]);
}

/// S6
pub(super) async fn a_failing_handler_parks_its_instance_and_no_other<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    world.tell(["a", "b", "c"].map(|key| began(key, "begun", vec![Act::Bell(5, vec![])])).into()).await;
    let page = vec![
        went("a", "fails", vec![enter("never"), Act::Fail]),
        went("b", "panics", vec![Act::Panic]),
        went_to(&["a", "c"], "later", vec![enter("later")]),
        began("d", "fails at once", vec![Act::Fail]),
        went("d", "later", vec![]),
    ];
    world.tell(page).await;
    let view = world.settled().await;
    assert_eq!([view.took("a"), view.took("c")], [vec!["begun"], vec!["begun", "later"]]);
    assert!(view.parked("a").unwrap().contains("told to fail"), "{view:?}");
    assert!(view.parked("b").unwrap().contains("told to panic"));
    assert_eq!(view.entered("book"), ["later"]);
    world.seconds(6);
    let view = world.until(|view| view.took("c").len() == 3 && view.n("hot.process.timers") == 0).await;
    let noted = |key: &str| {
        [&view.instances[key]["noted"], &view.instances[key]["taken"]].map(|n| n.as_u64().unwrap())
    };
    assert_eq!([noted("a"), noted("b"), noted("d")], [[4, 1], [3, 1], [2, 0]], "what comes later waits");
    world.end().await;
}

/// S6
pub(super) async fn what_has_waited_for_many_is_taken_in_by_turns<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    // More of them than take it in together, and more for each than it takes in together.
    let keys: Vec<String> = (0..23).map(|n| format!("k{n}")).collect();
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.tell(names.iter().map(|key| began(key, "begun", vec![])).collect()).await;
    world.tell(vec![went_to(&names, "fails", vec![Act::Fail])]).await;
    let waits = |n: usize| went_to(&names, &format!("went {n}"), vec![]);
    world.tell((0..120).map(waits).collect()).await;
    world.tell(vec![went_to(&names, "last", vec![enter("last")])]).await;
    world.settled().await;
    world.have_done(&names, Verb::Skip { input: 2 }).await;
    world.stop().await;
    world.join().await;
    world.until(|view| view.entered("book").len() == 23 && view.is_quiet()).await;
    // A view is read row by row: this one has nothing in it from before the last entry.
    let view = world.settled().await;
    for key in names {
        let took = view.took(key);
        assert_eq!((took.len(), took[1], took[121]), (122, "went 0", "last"));
    }
    world.end().await;
}

/// S12
pub(super) async fn a_version_is_forgotten_with_its_last_instance<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.tell(vec![began("old", "begun", vec![Act::End]), began("bad", "begun", vec![Act::End])]).await;
    world.settled().await;
    world.stop().await;
    let versions = async |world: &World<'_, S, ByKey>| -> Vec<Value> {
        let rows = world.all("process.versions").await.into_iter();
        rows.map(|(_, begun)| begun["version"].clone()).collect()
    };
    // A program with the old one may begin an instance while the first without it starts.
    world.join_as::<Alone>().await;
    assert_eq!(versions(&world).await, [1, 2]);
    world.stop().await;
    world.seconds(3_601);
    // Whose it is that cannot be read is not known. The program starts all the same.
    let before = world.overwrite("bad", &json!({ "not": "an instance" })).await;
    world.join_as::<Alone>().await;
    assert_eq!(versions(&world).await, [1, 2]);
    world.stop().await;
    world.overwrite(":bad", &before).await;
    world.join_as::<Alone>().await;
    assert_eq!(versions(&world).await, [2], "no instance is read at the next start");
    world.end().await;
}

/// S12
pub(super) async fn instances_keep_their_version<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.tell(vec![began("old", "begun", vec![Act::Bell(5, vec![])])]).await;
    world.settled().await;
    world.stop().await;
    world.join_as::<Newer>().await;
    world.tell(vec![began("new", "begun", vec![]), began("old", "again", vec![])]).await;
    world.tell(vec![went_to(&["old", "new"], "went", vec![Act::Refused("x".to_owned())])]).await;
    world.seconds(6);
    let view = world.until(|view| view.took("old").len() == 4 && view.took("new").len() == 3).await;
    assert_eq!([&view.instances["old"]["version"], &view.instances["new"]["version"]], [1, 2]);
    world.stop().await;
    // Each is rebuilt by its own definition.
    let instances = sagas::Instances::of::<Newer>(world.backend.clone()).unwrap();
    for key in ["old", "new"] {
        let rebuilt = loop {
            if let Ok(rebuilt) = instances.rebuild(key).await {
                break rebuilt.unwrap();
            }
        };
        assert_eq!(rebuilt.stored, rebuilt.folded);
    }
}
