//! Orders, what others are told of them, and a receiver that may be away, refuse, or lose its answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use es_core::App;
use es_core::prelude::*;
use es_core::processor::{Processor, RangeStatus};
use es_core::store::{EventFilter, StreamId};
use es_core::{BoxError, RecordedEvent};
use sagas::message::Envelope;
use sagas::publishes;
use sagas::relay::{Message, PublishError, Publisher, Publishes, Relay, Relays as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Subject;
use super::ground::{Ground, PATIENCE};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) customer: String,
    pub(crate) n: u32,
    /// How many messages it becomes.
    pub(crate) copies: u32,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "shop")]
pub(crate) enum ShopEvent {
    Placed(Placed),
}

fn copies(placed: &Placed) -> Vec<Message> {
    let body = |copy| match &*placed.customer {
        "greedy" => json!("x".repeat(sagas::relay::MAX_MESSAGE)),
        _ => json!({"n": placed.n, "copy": copy}),
    };
    (0..placed.copies).map(|copy| Message::of(&body(copy))).collect()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cancelled {
    pub(crate) n: u32,
}

/// What shops of a newer program record, too.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "shop")]
pub(crate) enum NewerEvent {
    Cancelled(Cancelled),
}

/// [`Orders`] of a newer program.
#[derive(Clone, Copy)]
pub(crate) struct NewerOrders;

#[publishes(name = "orders")]
impl NewerOrders {
    fn placed(&self, placed: &Placed) -> Vec<Message> {
        copies(placed)
    }
    fn cancelled(&self, cancelled: &Cancelled) -> Message {
        Message::of(&cancelled.n)
    }
}

/// In the order of each stream.
#[derive(Clone, Copy)]
pub(crate) struct Orders;

#[publishes(name = "orders")]
impl Orders {
    fn placed(&self, placed: &Placed) -> Vec<Message> {
        copies(placed)
    }
}

/// In the order of each customer.
#[derive(Clone, Copy)]
pub(crate) struct Customers;

#[publishes(name = "customers")]
impl Customers {
    #[on(by = customer)]
    fn placed(&self, placed: Recorded<'_, Placed>) -> Vec<Message> {
        copies(&placed)
    }
}

/// [`Orders`] of a program that sends them in the order of each customer.
#[derive(Clone, Copy)]
pub(crate) struct OrdersByCustomer;

#[publishes(name = "orders")]
impl OrdersByCustomer {
    #[on(by = customer)]
    fn placed(&self, placed: &Placed) -> Vec<Message> {
        copies(placed)
    }
}

/// In the order of each customer, which cannot be told until that is mended.
#[derive(Clone, Default)]
pub(crate) struct Unknown(pub(crate) Arc<AtomicBool>);

impl Publishes for Unknown {
    fn name(&self) -> String {
        "unknown".to_owned()
    }
    fn filter() -> EventFilter {
        EventFilter::of::<Placed>()
    }
    fn key(&self, event: &RecordedEvent) -> Result<String, BoxError> {
        match self.0.load(Ordering::Relaxed) {
            true => Customers.key(event),
            false => Err("who is it?".into()),
        }
    }
    fn stream(&self, _: &str) -> Option<StreamId> {
        None
    }
    fn messages(&self, event: &RecordedEvent) -> Result<Vec<Message>, BoxError> {
        Customers.messages(event)
    }
}

/// The receiver.
#[derive(Clone, Default)]
pub(crate) struct Post(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Whether messages are let through.
    closed: watch::Sender<bool>,
}

#[derive(Default)]
pub(crate) struct State {
    /// All that arrived, in order.
    pub(crate) arrived: Vec<Envelope>,
    pub(crate) tries: usize,
    pub(crate) is_away: bool,
    /// Takes messages, and never answers.
    pub(crate) is_mute: bool,
    /// Takes a message and says that it did not, each time that this many came.
    pub(crate) mumbles: Option<usize>,
    /// Keys whose messages nobody takes now.
    pub(crate) away_for: BTreeSet<String>,
    /// Keys whose messages are refused.
    pub(crate) refuses: BTreeSet<String>,
    /// Keys whose messages are taken, and then refused.
    pub(crate) denies: BTreeSet<String>,
    /// Keys with a message on its way, how many at most were, and those that had two.
    pub(crate) on_way: BTreeSet<String>,
    pub(crate) most: usize,
    twice: BTreeSet<String>,
}

/// A message on its way, until it is dropped.
struct OnWay<'p>(&'p Post, String);

impl Drop for OnWay<'_> {
    fn drop(&mut self) {
        self.0.state().on_way.remove(&self.1);
    }
}

impl Post {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Messages wait before it, or are let through.
    pub(crate) fn close(&self, closed: bool) {
        self.0.closed.send_replace(closed);
    }

    /// What arrived, each message once. It is in the order of its key, names the one before it, and came again as it was.
    pub(crate) fn checked(&self) -> BTreeMap<String, Vec<Envelope>> {
        let state = self.state();
        assert_eq!(state.twice, BTreeSet::new(), "two messages of a key were on their way at the same time");
        let (mut first, mut by_key) = (BTreeMap::new(), BTreeMap::<String, Vec<Envelope>>::new());
        for message in &state.arrived {
            if let Some(before) = first.insert(message.id.clone(), message.clone()) {
                assert_eq!(before, *message, "it comes again as it was");
                continue;
            }
            let of_key = by_key.entry(message.partitionkey.clone().unwrap()).or_default();
            let last = of_key.last().and_then(|last| last.sequence.clone());
            assert!(last < message.sequence, "{last:?} then {message:?}");
            assert_eq!(message.previous, last, "no gap: {message:?}");
            of_key.push(message.clone());
        }
        by_key
    }

    /// How many messages arrived, each counted once.
    pub(crate) fn n(&self) -> usize {
        self.checked().values().map(Vec::len).sum()
    }
}

impl Publisher for Post {
    async fn publish(&self, message: &Envelope) -> Result<(), PublishError> {
        let key = message.partitionkey.clone().unwrap();
        {
            let mut state = self.state();
            state.tries += 1;
            if !state.on_way.insert(key.clone()) {
                state.twice.insert(key.clone());
            }
            state.most = state.most.max(state.on_way.len());
        }
        let on_way = OnWay(self, key);
        let mut closed = self.0.closed.subscribe();
        closed.wait_for(|closed| !closed).await.unwrap();
        let is_mute = {
            let mut state = self.state();
            if state.is_away || state.away_for.contains(&on_way.1) {
                return Err(PublishError::unavailable("nobody is at the counter"));
            }
            if state.refuses.contains(&on_way.1) {
                return Err(PublishError::refused("no such address"));
            }
            state.arrived.push(message.clone());
            if state.denies.contains(&on_way.1) {
                return Err(PublishError::refused("what was it again?"));
            }
            if state.mumbles.is_some_and(|every| state.tries.is_multiple_of(every)) {
                return Err(PublishError::unavailable("the answer was lost"));
            }
            state.is_mute
        };
        if is_mute { std::future::pending().await } else { Ok(()) }
    }
}

/// Nodes with one relay.
pub(crate) struct Office<'s, S: Subject, M> {
    pub(crate) ground: Ground<'s, S>,
    pub(crate) nodes: Vec<App>,
    pub(crate) post: Post,
    pub(crate) relay: Relay<M>,
    placed: u32,
}

impl<'s, S: Subject, M: Publishes + Clone> Office<'s, S, M> {
    pub(crate) async fn start(subject: &'s S, mapping: M) -> Self {
        let (ground, relay) = (Ground::open(subject).await, Relay::of(mapping).in_flight(16));
        let mut office = Self { ground, nodes: Vec::new(), post: Post::default(), relay, placed: 0 };
        office.join().await;
        office
    }

    pub(crate) async fn join(&mut self) {
        let wire = |app: es_core::AppBuilder<S::Backend>| app.relay(self.relay.clone(), self.post.clone());
        let node = self.ground.join(wire).await;
        self.nodes.push(node);
    }

    /// A node is gone from one moment to the next.
    pub(crate) fn crash(&mut self, node: usize) {
        drop(self.nodes.swap_remove(node));
        self.ground.flow();
    }

    pub(crate) async fn stop(&mut self) {
        for app in self.nodes.drain(..) {
            app.shutdown(PATIENCE).await;
        }
    }

    pub(crate) fn processor(&self) -> &Processor {
        &self.nodes[0].processors()[0]
    }

    /// An order of a customer, recorded in a stream, that becomes so many messages.
    pub(crate) async fn place(&mut self, stream: &str, customer: &str, copies: u32) {
        self.placed += 1;
        let placed = Placed { customer: customer.to_owned(), n: self.placed, copies };
        self.ground.tell_to(stream, vec![ShopEvent::Placed(placed)]).await;
    }

    /// The same in streams that are named by numbers, each by its own customer.
    pub(crate) async fn place_in(&mut self, streams: std::ops::Range<usize>, copies: u32) {
        for n in streams {
            self.place(&format!("shop-{n}"), &format!("c{n}"), copies).await;
        }
    }

    /// Until the receiver has seen that.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&State) -> bool) {
        let begun = Instant::now();
        while !is(&self.post.state()) {
            assert!(
                begun.elapsed() < PATIENCE,
                "{what}: {:?}",
                self.nodes.first().map(|_| self.processor().status())
            );
            self.ground.pause().await;
        }
    }

    /// Until so many different messages have arrived.
    pub(crate) async fn until_arrived(&self, n: usize) {
        let ids = |state: &State| state.arrived.iter().map(|m| &m.id).collect::<BTreeSet<_>>().len();
        self.until("they do not arrive", |state| ids(state) >= n).await;
        assert_eq!(self.post.n(), n);
    }

    /// Until it shows that.
    pub(crate) async fn until_shown(&self, is: impl Fn(&[RangeStatus]) -> bool) {
        let begun = Instant::now();
        while !is(&self.processor().status().ranges) {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.processor().status());
            self.ground.pause().await;
        }
    }

    /// Until this many keys are parked; why, by key.
    pub(crate) async fn until_parked(&self, n: usize) -> BTreeMap<String, String> {
        let begun = Instant::now();
        loop {
            let parked = self.ground.ask(|| self.processor().parked(None, 100)).await;
            if parked.len() == n {
                return parked.into_iter().map(|parked| (parked.key, parked.error)).collect();
            }
            assert!(begun.elapsed() < PATIENCE, "{parked:?}");
            self.ground.pause().await;
        }
    }

    /// Until everything that is in the log was sent and noted.
    pub(crate) async fn settled(&self) {
        let head = self.ground.ask(|| self.ground.backend.head()).await;
        while self.processor().reach(head, Duration::from_millis(50)).await.is_err() {
            self.ground.pause().await;
        }
    }
}
