//! The timeline of a flow: its events, and what its processes made of them.

use std::collections::BTreeMap;

use es_core::command::NamedCommand;
use es_core::prelude::*;
use es_core::store::is_full;
use sagas::{Came, InputStatus, Instances, Life, RefusedCommand, Rejected};

use crate::holder::CardHolder;
use crate::order::{OrderError, OrderId, Placed};
use crate::payment::{Payment, PaymentError};
use crate::report;
use crate::sale::Sale;
use crate::seat::{Seat, SeatError, SeatEvent, SeatId};

const PAGE: usize = 500;

/// One line, and where it belongs: behind what was in the log, in the order of what came.
struct Line {
    after: Position,
    at: Timestamp,
    text: String,
}

/// Prints it.
pub(crate) async fn show<B: Backend + Clone>(backend: B, order: OrderId) -> anyhow::Result<()> {
    let Some(placed) = placed(&backend, order).await? else {
        anyhow::bail!("there is no order {order}: orders count from 1");
    };
    let Placed { seat, price, hold, .. } = &placed;
    report::line(&format!("order {order}: seat {seat} for {price} dollars, held for {hold:#}"));
    let sales = Instances::of::<Sale>(backend.clone())?;
    let mut lines = events(&backend, order, seat).await?;
    lines.extend(inputs("sale", &sales.history(&order.to_string()).await.map_err(plain)?));
    let holders = Instances::of::<CardHolder>(backend)?;
    lines.extend(inputs("holder", &holders.history(&order.to_string()).await.map_err(plain)?));
    // What a handler does follows the event that it handles.
    lines.sort_by_key(|line| line.after);
    for Line { at, text, .. } in lines {
        report::line(&format!("{}  {text}", time(at)));
    }
    for line in state(&sales, order).await? {
        report::line(&line);
    }
    Ok(())
}

pub(crate) fn plain(error: BoxError) -> anyhow::Error {
    anyhow::anyhow!(error)
}

async fn stream(store: &dyn EventStore, id: &str) -> anyhow::Result<Vec<RecordedEvent>> {
    let (id, mut all) = (StreamId::new(id)?, Vec::<RecordedEvent>::new());
    loop {
        let after = all.last().map_or_else(Version::default, |event| event.version);
        let page = store.stream(&id, after, PAGE).await?;
        let more = is_full(&page, PAGE);
        all.extend(page);
        if !more {
            return Ok(all);
        }
    }
}

async fn placed(store: &dyn EventStore, order: OrderId) -> anyhow::Result<Option<Placed>> {
    let events = stream(store, &format!("order-{order}")).await?;
    Ok(events.first().map(RecordedEvent::payload::<Placed>).transpose()?.flatten())
}

/// The events of its order and its payment, and those of the seat that are for it.
async fn events(store: &dyn EventStore, order: OrderId, seat: &SeatId) -> anyhow::Result<Vec<Line>> {
    let mut events = stream(store, &format!("order-{order}")).await?;
    events.extend(stream(store, &format!("payment-{order}")).await?);
    for event in stream(store, &format!("seat-{seat}")).await? {
        if SeatEvent::decode(&event)?.into_iter().any(|seat| seat.order() == order) {
            events.push(event);
        }
    }
    let line = |event: RecordedEvent| {
        let text = format!("event    {} of {}", event.name, event.stream);
        Line { after: event.place(), at: event.recorded_at, text }
    };
    Ok(events.into_iter().map(line).collect())
}

/// What came to an instance beside events, the commands that it sent, and its timers.
fn inputs(process: &str, history: &[InputStatus]) -> Vec<Line> {
    let (mut lines, mut at) = (Vec::new(), Timestamp::default());
    let mut timers = BTreeMap::new();
    for input in history {
        at = input.input.at.unwrap_or(at);
        let mut say = |text| lines.push(Line { after: input.position, at, text });
        match &input.input.came {
            Came::Event(_) => {}
            Came::Refused(refused) => say(format!("refused  {}: {}", named(&refused.command), why(refused))),
            Came::Timer(timer) => {
                say(format!("timer    {timer} fired"));
                timers.remove(timer);
            }
            Came::Verb(verb) => say(format!("operator {verb}")),
            other => say(format!("{other:?}")),
        }
        for command in &input.sends {
            say(format!("command  {}, by the {process}", named(command)));
        }
        for (timer, due) in input.timers.iter().filter(|(timer, due)| timers.get(*timer) != Some(*due)) {
            say(format!("timer    {timer} set by the {process}, due at {}", time(*due)));
        }
        for timer in timers.keys().filter(|timer| !input.timers.contains_key(*timer)) {
            say(format!("timer    {timer} called off"));
        }
        timers.clone_from(&input.timers);
    }
    lines
}

fn named(command: &NamedCommand) -> String {
    format!("{} to {}-{}", command.name, command.aggregate, command.id)
}

/// In the words of the aggregate that refused.
fn why(refused: &RefusedCommand) -> String {
    let said = match &refused.why {
        Rejected::Otherwise(why) | Rejected::Intercepted(why) => return why.clone(),
        Rejected::Domain(said) => said,
    };
    let words = match &*refused.command.aggregate {
        Seat::NAME => said.read::<SeatError>().map(|e| e.to_string()),
        Payment::NAME => said.read::<PaymentError>().map(|e| e.to_string()),
        _ => said.read::<OrderError>().map(|e| e.to_string()),
    };
    words.unwrap_or_else(|_| said.text().to_owned())
}

fn time(at: Timestamp) -> String {
    at.strftime("%H:%M:%S%.6f").to_string()
}

/// What the sale does now, and what it waits for: a line each, with what helps.
async fn state(sales: &Instances, order: OrderId) -> anyhow::Result<Vec<String>> {
    let Some(now) = sales.show(&order.to_string()).await? else {
        return Ok(vec!["the sale has not begun: run `tickets` on this database".to_owned()]);
    };
    let is = match now.status.life {
        Life::Running => "is open",
        Life::Ending => "is about to end",
        Life::Ended => "has ended",
        Life::Parked { .. } => "is parked",
        _ => "cannot be read",
    };
    let waits = now.waits.iter().map(|waits| format!("it waits {waits}"));
    Ok(std::iter::once(format!("the sale {is}")).chain(waits).collect())
}
