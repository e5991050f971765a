//! `mire-sagas`: a saga of three steps whose effects are done in the process that starts it, as its documentation begins.
//! Each effect is a command to an aggregate.

use bench_kit::Flows;
use mire::{Aggregate, Command, EventData, EventStore};
use mire_sagas::{Dep, Emit, PgSagaRunner, Req, Saga, SagaBuilder, Start, State, task};
use serde::{Deserialize, Serialize};

use crate::pool::pool;

macro_rules! kind {
    ($aggregate:ident, $event:ident, $does:ident, $done:ident, $name:literal, $type:literal) => {
        #[derive(Clone, Debug, Serialize, Deserialize, EventData)]
        #[serde(tag = "type")]
        #[mire(entity = $name)]
        enum $event {
            $done { flow: u64 },
        }

        #[derive(Debug, Default)]
        struct $aggregate;

        impl Aggregate for $aggregate {
            type Event = $event;

            fn stream_category() -> &'static str {
                $name
            }

            fn apply(&mut self, _: &$event) {}
        }

        #[derive(Clone, Debug, Serialize, Deserialize, EventData)]
        #[mire(event_type = $type)]
        struct $does {
            flow: u64,
        }

        impl Command for $does {
            type Aggregate = $aggregate;
            type Error = std::convert::Infallible;
            type Events = [$event; 1];

            fn handle(self, _: &$aggregate) -> Result<[$event; 1], Self::Error> {
                Ok([$event::$done { flow: self.flow }])
            }
        }
    };
}

kind!(Order, OrderEvent, Place, Placed, "order", "sale.place");
kind!(Stock, StockEvent, Reserve, Reserved, "stock", "sale.reserve");
kind!(Payment, PaymentEvent, Charge, Charged, "payment", "sale.charge");
kind!(Parcel, ParcelEvent, Ship, Shipped, "parcel", "sale.ship");

#[derive(Clone, Debug, Serialize, Deserialize, EventData)]
#[mire(event_type = "sale.done")]
struct Done {
    flow: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, EventData)]
#[mire(event_type = "sale.failed")]
struct Failed {
    why: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sale {
    flow: u64,
}

/// What a step has come to.
macro_rules! output {
    ($($output:ident),*) => {$(
        #[derive(Clone, Debug, Serialize, Deserialize)]
        struct $output(u64);
    )*};
}

output!(WasReserved, WasCharged, WasShipped);

async fn command<C>(store: &EventStore, flow: u64, command: C) -> anyhow::Result<()>
where
    C: Command<Error = std::convert::Infallible>,
    C::Aggregate: Default,
{
    let mut root = store.load_or_default::<C::Aggregate>(&flow.to_string()).await?;
    let Ok(()) = root.execute(command);
    Ok(store.save(&mut root).await?)
}

fn reserve(State(sale): State<Sale>) -> Emit {
    Emit::event(Reserve { flow: sale.flow })
}

fn charge(State(sale): State<Sale>) -> Emit {
    Emit::event(Charge { flow: sale.flow })
}

fn ship(State(sale): State<Sale>) -> Emit {
    Emit::event(Ship { flow: sale.flow })
}

macro_rules! effect {
    ($name:ident, $command:ident) => {
        async fn $name(Req(c): Req<$command>, Dep(store): Dep<EventStore>) -> Result<Done, Failed> {
            let flow = c.flow;
            command(&store, flow, c).await.map_err(|error| Failed { why: format!("{error:#}") })?;
            Ok(Done { flow })
        }
    };
}

effect!(reserved, Reserve);
effect!(charged, Charge);
effect!(shipped, Ship);

struct Sell;

impl Saga for Sell {
    type State = Sale;

    fn name() -> &'static str {
        "sale"
    }

    fn build(saga: SagaBuilder<Self>) -> SagaBuilder<Self> {
        saga.start_on::<Order, _>(|OrderEvent::Placed { flow }: &OrderEvent| {
            Some(Start { instance_id: flow.to_string(), state: Sale { flow: *flow } })
        })
        .step("reserve", task(reserve).effect(reserved).on_response(|d: Done| WasReserved(d.flow)))
        .step(
            "charge",
            task(charge).after("reserve").effect(charged).on_response(|d: Done| WasCharged(d.flow)),
        )
        .step(
            "ship",
            task(ship)
                .after("charge")
                .effect(shipped)
                .on_response(|d: Done| WasShipped(d.flow))
                .terminal_success(),
        )
    }
}

/// Places this many orders, and triggers the saga of each, which ends before that returns.
pub async fn flows(url: &str, flows: u64) -> anyhow::Result<Flows> {
    let store = EventStore::new(pool(url).await?);
    store.migrate().await?;
    mire_sagas::migrate(&store).await?;
    let runner = &PgSagaRunner::new(Sell::build(SagaBuilder::for_saga()).dep(store.clone()), store.clone());
    let store = &store;
    let flow = |flow: u64| async move {
        command(store, flow, Place { flow }).await?;
        runner.trigger::<Order>(&OrderEvent::Placed { flow }).await?;
        anyhow::ensure!(runner.is_succeeded(&flow.to_string()).await?, "a saga that did not end");
        Ok(())
    };
    bench_kit::flows(flows, flow).await
}
