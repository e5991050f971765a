//! The timeline of an order: its steps, its journal, and what it waits for.

use es_core::prelude::*;
use sagas::saga::{RunError, RunShown, Sagas as _, StepShown};

use crate::order::wanted::{self, PlaceOrder};
use crate::report::line;

/// Prints it.
pub(crate) async fn show(app: &App, number: u32) -> anyhow::Result<()> {
    let run = known(app.saga_runs::<PlaceOrder>()?.show(&number.to_string()).await, number)?;
    let PlaceOrder { customer, items, .. } = wanted::order(number);
    let items: Vec<String> = items.iter().map(|item| format!("{} of {}", item.copies, item.disc)).collect();
    line(&format!("order {number} of {customer}: {}", items.join(", ")));
    let RunShown { steps, journal, waits_for, .. } = run;
    line(&steps.iter().map(step).collect::<Vec<_>>().join(" → "));
    for (at, what) in journal {
        line(&format!("{}  {what}", at.strftime("%H:%M:%S%.6f")));
    }
    line(&format!("it waits for {waits_for}"));
    Ok(())
}

/// In words, if there is no such order.
pub(crate) fn known<T>(answer: Result<T, RunError>, number: u32) -> anyhow::Result<T> {
    answer.map_err(|error| match error {
        RunError::Unknown { .. } => {
            anyhow::anyhow!("there is no order {number} in this folder: orders count from 1")
        }
        error => error.into(),
    })
}

fn step(step: &StepShown) -> String {
    let failed = match step.failures {
        0 => String::new(),
        1 => ", failed once".to_owned(),
        n => format!(", failed {n} times"),
    };
    format!("{} ({}{failed})", step.name, step.state)
}
