//! What is stored together, and what is sent of it: S3, S7, S9.

use std::collections::BTreeSet;

use super::Subject;
use super::play::{Act, Again, ByKey, Found, began, called, replied, went};
use super::world::World;

fn enter(what: String) -> Act {
    Act::Enter("book".to_owned(), what)
}

/// S3
pub(super) async fn state_commands_timers_and_checkpoint_are_one_commit<S: Subject>(subject: &S) {
    let mut world = World::<S, Found>::start(subject).await;
    for round in 0..6 {
        let events = (0..20).flat_map(|n| {
            let (key, at) = (format!("k{round}.{n}"), format!("{round}.{n}"));
            let acts = vec![enter(at.clone()), Act::Bell(2, vec![]), Act::Associate(at.clone())];
            [began(&key, "begun", acts), called(&at, "called", vec![Act::Gong(60, vec![])])]
        });
        world.tell(events.collect()).await;
        // It stops wherever it is; what is stored fits together.
        tokio::time::sleep(std::time::Duration::from_millis(round * 7)).await;
        world.crash(0);
        world.audit().await;
        world.join().await;
    }
    let all = |view: &super::world::View| {
        view.instances.len() == 120 && view.instances.keys().all(|key| view.took(key).len() == 3)
    };
    let view = world.until(|view| all(view) && view.is_quiet()).await;
    assert_eq!(view.entered("book").len(), 120);
    assert_eq!(view.entered("book").into_iter().collect::<BTreeSet<_>>().len(), 120);
    assert_eq!([view.n("hot.process.timers"), view.n("process.associations")], [120, 120]);
    world.end().await;
}

/// S7
pub(super) async fn a_command_acts_once_whoever_sends_it<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::start(subject).await;
    let acts = |n: usize| (0..3).map(|i| enter(format!("{n}.{i}"))).collect::<Vec<_>>();
    for n in 0..30 {
        world
            .tell(vec![
                began(&format!("k{n}"), "begun", acts(n)),
                went(&format!("k{n}"), "ends", vec![Act::End]),
            ])
            .await;
        if n % 6 == 5 {
            world.crash(0);
            world.join().await;
        }
    }
    let view = world
        .until(|view| view.instances.len() == 30 && view.instances.keys().all(|key| view.ended(key)))
        .await;
    let entered = view.entered("book");
    for n in 0..30 {
        let of: Vec<_> = entered.iter().filter(|what| what.starts_with(&format!("{n}."))).collect();
        assert_eq!(of, [&format!("{n}.0"), &format!("{n}.1"), &format!("{n}.2")], "once, in order");
    }
    world.end().await;
}

/// S9
pub(super) async fn a_rebuild_of_its_inputs_is_byte_equal_and_sends_nothing<S: Subject>(subject: &S) {
    let world = World::<S, Again>::start(subject).await;
    let mut events = Vec::new();
    for n in 0..12 {
        let key = format!("k{n}");
        if n % 3 == 0 {
            events.push(replied(&key, "early", vec![Act::Gong(500, vec![])]));
        }
        events.push(began(
            &key,
            "begun",
            vec![Act::Bell(3, vec![enter("x".to_owned())]), Act::Associate("a".to_owned())],
        ));
        let act = match n % 4 {
            0 => Act::Refused("x".to_owned()),
            1 => Act::Fail,
            2 => Act::End,
            _ => Act::Dissociate("a".to_owned()),
        };
        events.push(went(&key, "went", vec![Act::Swell(10 * n), act]));
        events.push(went(&key, "more", vec![enter(key.clone())]));
        events.push(began(&key, "again", vec![Act::Ask("y".to_owned())]));
    }
    world.tell(events).await;
    world.settled().await;
    world.seconds(4);
    world.until(|view| view.n("hot.process.timers") == 3 && view.is_quiet()).await;
    let view = world.settled().await;
    // It looks at each of them, and at every entry, before and after.
    assert_eq!(world.end().await.entries, view.entries);
}
