//! The flow of one order across the three databases: a tree of events, each below the one that caused it.

use std::path::Path;

use es_core::prelude::*;

use crate::logs::Logs;
use crate::report;
use crate::service::Name;

pub(crate) async fn flow(folder: &Path, order: u32) -> anyhow::Result<()> {
    let mut events = Logs::open(folder).await?.events().await?;
    let stream = format!("order-{order}");
    let first = events.iter().find(|(_, event)| event.stream.as_str() == stream);
    let Some(flow) = first.map(|(_, event)| event.metadata.correlation) else {
        anyhow::bail!("there is no order {order}: orders count from 1");
    };
    events.retain(|(_, event)| event.metadata.correlation == flow);
    events.sort_by_key(|(_, event)| event.recorded_at);
    let caused = |(_, event): &&(Name, RecordedEvent)| {
        events.iter().any(|(_, cause)| event.metadata.causation == Some(cause.id))
    };
    for root in events.iter().filter(|event| !caused(event)) {
        draw(&events, root, 0);
    }
    Ok(())
}

fn draw(events: &[(Name, RecordedEvent)], (name, event): &(Name, RecordedEvent), depth: usize) {
    let (time, indent) = (event.recorded_at.strftime("%H:%M:%S%.6f"), "  ".repeat(depth));
    report::line(&format!("{time}  {name:<7}  {indent}{} of {}", event.name, event.stream));
    for effect in events.iter().filter(|(_, effect)| effect.metadata.causation == Some(event.id)) {
        draw(events, effect, depth + 1);
    }
}
