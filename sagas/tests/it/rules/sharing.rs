//! Nodes that share a process.

use std::time::Duration;

use super::Subject;
use super::ground::PATIENCE;
use super::play::{Act, ByKey, began, went};
use super::world::World;

/// S1, S7, S8
pub(super) async fn nodes_that_come_and_go_lose_no_instance_and_act_once<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    world.join().await;
    world.join().await;
    world.flow();
    for n in 0..60_usize {
        let key = format!("k{n}");
        let bell = Act::Bell(1, vec![Act::Enter("bells".to_owned(), key.clone())]);
        world.tell(vec![began(&key, "begun", vec![Act::Enter("book".to_owned(), key.clone()), bell])]).await;
        world
            .tell_to("stage-more", vec![went(&key, "went", vec![Act::Enter("more".to_owned(), key.clone())])])
            .await;
        match n % 12 {
            3 => world.crash(n % 3),
            5 | 11 => world.join().await,
            9 => drop(world.nodes.remove(0).shutdown(PATIENCE).await),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    let all = |view: &super::world::View| (0..60).all(|n| view.took(&format!("k{n}")).len() == 3);
    let view = world.until(|view| all(view) && view.is_quiet()).await;
    assert_eq!(view.instances.len(), 60);
    for ledger in ["book", "more", "bells"] {
        let mut entered = view.entered(ledger);
        entered.sort_by_key(|key| key[1..].parse::<u32>().unwrap());
        assert_eq!(entered, (0..60).map(|n| format!("k{n}")).collect::<Vec<_>>(), "{ledger}: each once");
    }
    world.end().await;
}
