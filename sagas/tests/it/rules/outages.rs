//! A store that takes no writes: nobody is to blame for what fails then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use es_core::command::{Dispatch, Halted, Interceptor, Next};
use es_core::testing::conformance::double::{Double, Line};

use sagas::Processes as _;

use super::Subject;
use super::ground::Ground;
use super::play::{Act, ByKey, Ledger, began};
use super::world::{View, World};

/// How often a command is sent before it may be held.
const TRIES: u32 = 5;

/// The store becomes read-only as a command is sent for the first time, and takes writes again right after the last try.
#[derive(Clone)]
struct Outage<B> {
    line: Double<B>,
    tries: Arc<AtomicU32>,
}

impl<B> std::fmt::Debug for Outage<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outage").field("tries", &self.tries).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl<B: Send + Sync + 'static> Interceptor for Outage<B> {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        let tries = self.tries.fetch_add(1, Ordering::SeqCst) + 1;
        self.line.set(if tries <= TRIES { Line::ReadOnly } else { Line::Up });
        let sent = next.run(dispatch).await;
        if tries == TRIES {
            self.line.set(Line::Up);
        }
        sent
    }
}

/// P21, S7
pub(super) async fn a_command_is_blamed_only_while_the_store_takes_writes<S: Subject>(subject: &S) {
    let mut world = World::<S, ByKey>::on(subject).await;
    let line = Double::new(subject.again(&world.backend, &world.clock).await);
    let outage = Outage { line: line.clone(), tries: Arc::default() };
    let wire = |app: es_core::AppBuilder<Double<S::Backend>>| {
        app.aggregate::<Ledger>().process::<ByKey>().interceptor(outage.clone())
    };
    world.nodes.push(Ground::join_over(&world, &line, wire).await);
    world.tell(vec![began("a", "begun", vec![Act::Enter("book".to_owned(), "entered".to_owned())])]).await;
    let is_over = |view: &View| view.entered("book") == ["entered"] || view.parked("a").is_some();
    let view = world.until(is_over).await;
    assert_eq!(view.parked("a"), None);
    assert!(outage.tries.load(Ordering::SeqCst) > TRIES);
    world.settled().await;
    world.end().await;
}
