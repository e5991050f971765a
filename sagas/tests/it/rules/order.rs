//! Commands and what comes back: S4, S7, Q3.

use super::Subject;
use super::play::{Act, ByKey, began, went};
use super::world::World;

/// S4
pub(super) async fn a_reply_never_overtakes_the_state_that_expects_it<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    let starts = (0..50).map(|n| began(&format!("k{n}"), "begun", vec![Act::Ask(format!("reply {n}"))]));
    world.tell(starts.collect()).await;
    let view = world.until(|view| (0..50).all(|n| view.took(&format!("k{n}")).len() == 2)).await;
    for n in 0..50 {
        assert_eq!(view.took(&format!("k{n}")), ["begun".to_owned(), format!("reply {n}")]);
    }
    world.end().await;
}

/// S7
pub(super) async fn refusals_come_back_in_order<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let no = |n: usize| Act::Refused(n.to_string());
    let yes = |n: usize| Act::Enter("book".to_owned(), n.to_string());
    world.tell(vec![began("a", "begun", vec![no(1), yes(2), no(3), yes(4), no(5)])]).await;
    world.stop().await;
    world.join().await;
    world.tell(vec![went("a", "went", vec![yes(6), no(7)])]).await;
    let view = world.until(|view| view.took("a").len() == 6 && view.is_quiet()).await;
    let refused: Vec<_> = view.took("a").into_iter().filter(|label| label.starts_with("refused")).collect();
    assert_eq!(refused, ["refused 1", "refused 3", "refused 5", "refused 7"]);
    assert_eq!(view.entered("book"), ["2", "4", "6"]);
    world.end().await;
}

/// S7
pub(super) async fn a_refusal_comes_back_with_its_type<S: Subject>(subject: &S) {
    let world = World::<S, ByKey>::start(subject).await;
    world
        .tell(vec![began("a", "begun", vec![Act::Refused("x".to_owned()), Act::Publish("y".to_owned())])])
        .await;
    let view = world.until(|view| view.took("a") == ["begun", "refused x"] && view.is_quiet()).await;
    let stored: Vec<_> =
        view.rows["process.inputs"].iter().map(|(_, input)| &input["input"]["refused"]).collect();
    let refused = stored.into_iter().find(|input| input.is_object()).unwrap();
    assert_eq!(refused["why"]["domain"], "x", "the domain's own refusal: {refused}");
    assert_eq!(refused["command"]["name"], "enter");
    world.end().await;
}
