//! Rebuilds that several nodes see and make at the same time: P11.

use futures::StreamExt as _;

use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{KINDS, Kind, Ledger, World, eventually, payment};
use super::{LIMIT, Subject, settle, start};
use crate::App;
use crate::processor::{ProcessorError, ProcessorState, Rebuild, RebuildOptions};

/// Until a look is held where it reads this table.
async fn holds<B>(line: &Double<B>, table: &'static str) {
    let held = line.held();
    line.set(Line::HoldsScans(table));
    eventually(async || if line.held() > held { Ok(()) } else { Err("no look".to_owned()) }).await;
}

/// P11
pub async fn a_node_that_looked_before_a_rebuild_began_shows_what_it_does<S: Subject>(subject: S) {
    let world = World::<S>::new(&subject).await;
    world.pay("a", 1..=3).await;
    let app = start(|| World::<S>::wiring(&world.store.0)).await;
    settle(&app).await;
    for looks_on in [true, false] {
        let line = Double::new(subject.again(&world.store.0).await);
        let wiring = || App::on(line.clone()).view::<Ledger>();
        let node = start(|| if looks_on { wiring().looks_on() } else { wiring() }).await;
        let ledger = Kind::View.of(&node);
        settle(&node).await;
        // In the middle of a look, which has read which builds there are.
        holds(&line, "es.codes").await;
        let rebuild = ask(|| ledger.rebuild_online(RebuildOptions::default())).await;
        // That look is done, and the next one is not.
        holds(&line, "generations").await;
        line.set(Line::Up);
        eventually(async || match Box::pin(rebuild.progress()).next().await {
            Some(Ok(progress)) if progress.state != ProcessorState::Starting => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        ask(|| rebuild.abort()).await;
        assert!(node.shutdown(LIMIT).await);
    }
}

/// Until a program has what it asks for; only a store that does not answer is asked again.
async fn done<T, F: Future<Output = Result<T, ProcessorError>>>(mut what: impl FnMut() -> F) -> T {
    loop {
        match what().await {
            Ok(done) => return done,
            Err(ProcessorError::Store(error)) if error.kind() == crate::ErrorKind::Transient => {}
            Err(error) => panic!("{}", crate::chain(&error)),
        }
    }
}

/// What one program does with a rebuild.
async fn completes(rebuild: &Rebuild) {
    done(|| rebuild.caught_up(LIMIT)).await;
    for _ in 0..3 {
        let report = done(|| rebuild.report(3)).await;
        assert!(report.old != report.new || report.is_empty(), "{report:?}");
    }
    done(|| rebuild.switch()).await;
}

/// P11, P29
pub async fn two_programs_rebuild_and_switch_at_the_same_time<S: Subject>(subject: S) {
    let world = World::<S>::new(&subject).await;
    world.pay("a", 1..=20).await;
    let other = subject.again(&world.store.0).await;
    let (one, two) =
        (start(|| World::<S>::wiring(&world.store.0)).await, start(|| World::<S>::wiring(&other)).await);
    settle(&one).await;
    for kind in KINDS {
        let begin = async |app: &App| done(|| kind.of(app).rebuild_online(RebuildOptions::default())).await;
        let (a, b) = futures::join!(begin(&one), begin(&two));
        assert_eq!((a.generation(), b.generation()), (2, 2), "{kind:?}: there is one rebuild");
        let writes = world.put("a", vec![payment(if kind == KINDS[0] { 21 } else { 22 })]);
        futures::join!(completes(&a), completes(&b), writes);
        for app in [&one, &two] {
            eventually(async || match kind.of(app).status().generation {
                2 => Ok(()),
                generation => Err(format!("{kind:?}: {generation}")),
            })
            .await;
        }
    }
    settle(&one).await;
    world.assert_complete("a", 22).await;
}
