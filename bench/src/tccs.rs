//! TCCs of two branches, which write a row each when they reserve and another when they confirm or cancel.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use anyhow::ensure;
use es_core::store::Transaction;
use es_core::{App, Backend, BoxError};
use sagas::saga::{Cx, OrRetry as _, Outcome, Ran, StepError};
use sagas::tcc::{Tcc, TccApp as _, TccTransaction, Tccs as _};

use crate::runs::{Effect, Handed, Work, at_once_each};

macro_rules! branches { ($($branch:ident $name:literal)+) => { $(
    struct $branch<T, E>(PhantomData<fn() -> (T, E)>);
    impl<T: Transaction, E: Effect<T>> Tcc<Work> for $branch<T, E> {
        const NAME: &'static str = $name;
        type Held = u64;
        type Refusal = &'static str;
        type Place = E::Place;
        async fn reserve(&self, cx: Cx<'_, Work>, tx: &mut Handed<E, T>) -> Result<u64, StepError<&'static str>> {
            if cx.input.refuses && $name == "pay" {
                return Err(StepError::Refused("declined"));
            }
            E::act(tx, cx.key, concat!("reserve ", $name)).await.or_retry()?;
            Ok(7)
        }
        async fn confirm(&self, cx: Cx<'_, Work>, _: u64, tx: &mut Handed<E, T>) -> Result<(), BoxError> {
            E::act(tx, cx.key, concat!("confirm ", $name)).await
        }
        async fn cancel(&self, cx: Cx<'_, Work>, _: Ran<u64>, tx: &mut Handed<E, T>) -> Result<(), BoxError> {
            E::act(tx, cx.key, concat!("cancel ", $name)).await
        }
    }
)+ } }
branches! { Stock "stock" Pay "pay" }

fn tcc<T: Transaction, E: Effect<T>>() -> TccTransaction<Work, T> {
    TccTransaction::new("work", 1).branch(Stock::<T, E>(PhantomData)).branch(Pay::<T, E>(PhantomData)).build()
}

/// TCCs to their ends, so many at once: how many a second.
pub(crate) async fn tccs<B: Backend, E: Effect<B::Tx>>(
    backend: B,
    n: u64,
    at_once: u64,
    refuses: bool,
) -> anyhow::Result<f64> {
    let app = App::on(backend).tcc(tcc::<B::Tx, E>()).start().await?;
    // What is looked up at first is known then.
    app.run_tcc("first", Work { refuses }).await?;
    let begun = Instant::now();
    let each = |n: u64| {
        let app = app.clone();
        async move {
            let outcome = app.run_tcc(&format!("run-{n}"), Work { refuses }).await?;
            ensure!((outcome == Outcome::Completed) != refuses, "{outcome}");
            Ok(())
        }
    };
    at_once_each(n, at_once, each).await?;
    let rate = n as f64 / begun.elapsed().as_secs_f64();
    app.shutdown(Duration::from_secs(10)).await;
    Ok(rate)
}
