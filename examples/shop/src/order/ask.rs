//! What an operator has done to an order: by the saga's own verbs, with who and why, which its journal keeps.

use std::time::Duration;

use es_core::prelude::*;
use sagas::saga::{DryRun, Sagas as _, Verb};

use crate::order::show;
use crate::order::wanted::PlaceOrder;
use crate::report::line;

/// How long a node may take that is at work on it.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Ask {
    /// What is done
    does: Does,

    /// From 1
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) order: u32,

    /// The step that it is done to: place, reserve, pay, book or confirm
    #[arg(long)]
    step: Option<String>,

    /// Who wants it
    #[arg(long)]
    who: String,

    /// The reason, for whoever reads the timeline later
    #[arg(long)]
    why: String,

    /// Only say what would come of it
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Does {
    /// Try a step again that has failed too often, or all of them
    Retry,
    /// Take a step for one that needs no undo; the payment, for not made
    Skip,
    /// Undo the order
    Cancel,
    /// Go forward, whatever the deadline says
    GoForward,
    /// End it where it is: nothing is done for it any more
    Abandon,
}

impl Ask {
    /// Whether somebody has to work on orders for that.
    pub(crate) const fn works(&self) -> bool {
        !self.dry_run
    }

    fn verb(&self) -> anyhow::Result<Verb> {
        Ok(match (self.does, self.step.clone()) {
            (Does::Retry, step) => Verb::Retry { step },
            (Does::Skip, Some(step)) => Verb::Skip { step },
            (Does::Skip, None) => anyhow::bail!("name the step that is skipped with --step"),
            (_, Some(_)) => anyhow::bail!("that is for the whole order: leave --step out"),
            (Does::Cancel, None) => Verb::Cancel,
            (Does::GoForward, None) => Verb::GoForward,
            (Does::Abandon, None) => Verb::Abandon,
        })
    }
}

/// Asks for it, and shows what has come of it, or would.
pub(crate) async fn ask(app: &App, ask: &Ask) -> anyhow::Result<()> {
    let (runs, key, verb) = (app.saga_runs::<PlaceOrder>()?, ask.order.to_string(), ask.verb()?);
    if ask.dry_run {
        let would = runs.dry_run(&key, verb, &ask.who, &ask.why).await;
        let DryRun { records, waits_for, .. } =
            show::known(would, ask.order)?.map_err(|why| anyhow::anyhow!("it would be declined: {why}"))?;
        records.iter().for_each(|record| line(&format!("it would be noted: {record}")));
        line(&format!("it would wait for {waits_for}"));
        return Ok(());
    }
    let asked = runs.ask(&key, verb, &ask.who, &ask.why, LIMIT).await;
    show::known(asked, ask.order)?.map_err(|why| anyhow::anyhow!("it is declined: {why}"))?;
    show::show(app, ask.order).await
}
