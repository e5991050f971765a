//! A store, and apps with one process on it.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use es_core::processor::ParkedFilter;
use es_core::store::{Commit, EventFilter, Position, Row, RowWrite, Table};
use es_core::{App, BoxError, Event as _, EventStore as _, Payload as _};
use sagas::{Answer, AskError, Instances, Process, Processes as _, Ticket, Verb};
use serde_json::Value;
use tokio::time::Instant;

use super::Subject;
use super::ground::{Ground, PATIENCE};
use super::play::{Entered, Ledger, LedgerEvent, StageEvent};

pub(crate) struct World<'s, S: Subject, P> {
    ground: Ground<'s, S>,
    pub(crate) nodes: Vec<App>,
    process: PhantomData<fn() -> P>,
}

impl<'s, S: Subject, P> Deref for World<'s, S, P> {
    type Target = Ground<'s, S>;
    fn deref(&self) -> &Ground<'s, S> {
        &self.ground
    }
}

/// All rows of the process and all entries of the ledgers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    pub(crate) instances: BTreeMap<String, Value>,
    pub(crate) rows: BTreeMap<&'static str, Vec<(String, Value)>>,
    /// Each ledger's name, and what was entered, in the order of the log.
    pub(crate) entries: Vec<(String, String)>,
}

pub(crate) const BESIDE: [&str; 5] =
    ["process.inputs", "process.associations", "process.early", "hot.process.timers", "hot.process.sends"];

impl View {
    pub(crate) fn n(&self, table: &str) -> usize {
        self.rows[table].len()
    }

    /// What an instance took in.
    pub(crate) fn took(&self, key: &str) -> Vec<&str> {
        let took = self.instances.get(key).map(|instance| &instance["state"]["took"]);
        took.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    pub(crate) fn ended(&self, key: &str) -> bool {
        self.instances.get(key).is_some_and(|instance| instance["ended"] == true)
    }

    pub(crate) fn parked(&self, key: &str) -> Option<&str> {
        self.instances.get(key)?["parked"]["error"].as_str()
    }

    /// What was entered in a ledger.
    pub(crate) fn entered(&self, ledger: &str) -> Vec<&str> {
        self.entries.iter().filter(|(of, _)| of == ledger).map(|(_, what)| &**what).collect()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.n("hot.process.sends") == 0
    }
}

impl<'s, S: Subject, P: Process> World<'s, S, P> {
    /// One node.
    pub(crate) async fn start(subject: &'s S) -> Self {
        let mut world = Self::on(subject).await;
        world.join().await;
        world
    }

    /// None yet.
    pub(crate) async fn on(subject: &'s S) -> Self {
        Self { ground: Ground::open(subject).await, nodes: Vec::new(), process: PhantomData }
    }

    /// Another node.
    pub(crate) async fn join(&mut self) {
        self.join_as::<P>().await;
    }

    /// Another node, with another program.
    pub(crate) async fn join_as<Q: Process>(&mut self) {
        let app = self.ground.join(|app| app.aggregate::<Ledger>().process::<Q>()).await;
        self.nodes.push(app);
    }

    /// All nodes end.
    pub(crate) async fn stop(&mut self) {
        for app in self.nodes.drain(..) {
            app.shutdown(PATIENCE).await;
        }
    }

    /// A node is gone from one moment to the next.
    pub(crate) fn crash(&mut self, node: usize) {
        drop(self.nodes.swap_remove(node));
        self.flow();
    }

    /// These happen, in one commit.
    pub(crate) async fn tell(&self, events: Vec<StageEvent>) -> Position {
        self.tell_to("stage-main", events).await
    }

    pub(crate) fn instances(&self) -> Instances {
        Instances::of::<P>(self.backend.clone()).unwrap()
    }

    /// An operator asks for something, until that is stored; of an outcome that is unknown, twice.
    pub(crate) async fn wants(&self, key: &str, verb: Verb) -> Ticket {
        let instances = self.instances();
        loop {
            match instances.ask(key, verb.clone(), "eve", "it is on fire").await {
                Ok(ticket) => return ticket,
                Err(AskError::Store(_)) => self.pause().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What became of it.
    pub(crate) async fn answer(&self, ticket: &Ticket) -> Answer {
        let instances = self.instances();
        self.ask(|| instances.answer(ticket, PATIENCE)).await.expect("it is not answered")
    }

    /// Replaces the value of an instance's row; gives the one of before.
    pub(crate) async fn overwrite(&self, key: &str, value: &Value) -> Value {
        self.overwrite_in("process.instances", |row| row.key.contains(key), value).await
    }

    /// Replaces the value of the one row of a table that is meant; gives the one of before.
    pub(crate) async fn overwrite_in(
        &self,
        of: &str,
        which: impl Fn(&Row<Value>) -> bool,
        value: &Value,
    ) -> Value {
        let table = self.table(of);
        let all = self.ask(|| table.all(&self.backend)).await;
        let mut meant = all.into_iter().filter(|row| which(row));
        let (mut row, None) = (meant.next().expect(of), meant.next()) else { panic!("{of}: which one?") };
        let before = std::mem::replace(&mut row.value, value.clone());
        if !self.nodes.is_empty() {
            // While a node looks, it is never gone.
            self.write(table.put(&row).unwrap()).await;
        } else {
            // Others are deleted as they were first written.
            self.write(table.delete(&row)).await;
            self.write(table.insert(row.key, row.value).unwrap()).await;
        }
        before
    }

    async fn write(&self, row: RowWrite) {
        self.commit(Commit { rows: vec![row], ..Commit::default() }).await;
    }

    fn table(&self, of: &str) -> Table<Value> {
        Table::new(format!("{of}.{}", P::NAME)).unwrap()
    }

    pub(crate) async fn all(&self, of: &str) -> Vec<(String, Value)> {
        let table = self.table(of);
        let rows = self.ask(|| table.all(&self.backend)).await;
        rows.into_iter().map(|row| (row.key, row.value)).collect()
    }

    async fn entries(&self) -> Vec<(String, String)> {
        let (filter, mut after, mut entries) =
            (EventFilter::types(Entered::SOURCES.to_vec()), Position(0), vec![]);
        loop {
            let page = self.ask(|| self.backend.read(&filter, after, 1_000)).await;
            for event in &page.events {
                for LedgerEvent::Entered(entered) in LedgerEvent::decode(event).unwrap() {
                    let stream = event.stream.as_str().strip_prefix("ledger-").unwrap();
                    entries.push((stream.to_owned(), entered.what));
                }
            }
            if !page.more {
                return entries;
            }
            after = page.through;
        }
    }

    pub(crate) async fn view(&self) -> View {
        let mut view = View::default();
        for (_, value) in self.all("process.instances").await {
            let key = value["key"].as_str().map_or_else(|| value.to_string(), str::to_owned);
            view.instances.insert(key, value);
        }
        for table in BESIDE {
            view.rows.insert(table, self.all(table).await);
        }
        // Last: whatever the rows say was sent is in there.
        view.entries = self.entries().await;
        view
    }

    /// Until it has come to that.
    pub(crate) async fn until(&self, what: impl Fn(&View) -> bool) -> View {
        let begun = Instant::now();
        loop {
            let view = self.view().await;
            if what(&view) {
                return view;
            }
            if begun.elapsed() > PATIENCE {
                let nodes: Vec<_> = self.nodes.iter().map(|app| app.processors()[0].status()).collect();
                panic!("it never came to that: {view:#?}\n{nodes:?}");
            }
            self.pause().await;
        }
    }

    /// Until everything that is in the log was taken in, and no command waits.
    pub(crate) async fn settled(&self) -> View {
        loop {
            let head = self.ask(|| self.backend.head()).await;
            self.reach(head).await;
            self.until_quiet().await;
            let view = self.view().await;
            if view.is_quiet() && self.ask(|| self.backend.head()).await == head {
                return view;
            }
        }
    }

    /// Until everything that is in the log was taken in.
    pub(crate) async fn settled_but_for_commands(&self) {
        let head = self.ask(|| self.backend.head()).await;
        self.reach(head).await;
    }

    /// Until no command waits: found out by one row, since thousands may wait for long.
    async fn until_quiet(&self) {
        let (begun, sends) = (Instant::now(), self.table("hot.process.sends"));
        while !self.ask(|| sends.page(&self.backend, None, 1)).await.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "commands wait: {:#?}", self.view().await);
            self.pause().await;
        }
    }

    pub(crate) async fn reach(&self, position: Position) {
        let begun = Instant::now();
        while self.nodes[0].processors()[0].reach(position, Duration::from_millis(50)).await.is_err() {
            self.tick();
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.nodes[0].processors()[0].status());
        }
    }

    /// An operator has something done to instances, and it is done.
    pub(crate) async fn have_done(&self, keys: &[&str], verb: Verb) {
        let instances = Instances::of::<P>(self.backend.clone()).unwrap();
        let (mut tickets, begun) = (Vec::new(), Instant::now());
        for key in keys {
            let mut asked = false;
            loop {
                match instances.ask(key, verb.clone(), "an operator", "a rule").await {
                    Ok(ticket) => break tickets.push(ticket),
                    // It may have been stored, and done, though that was not answered.
                    Err(AskError::Refused { .. }) if asked => break,
                    Err(AskError::Store(_)) => asked = true,
                    Err(error) => panic!("{error}"),
                }
                self.pause().await;
            }
        }
        for ticket in tickets {
            while self.ask(|| instances.answer(&ticket, Duration::from_millis(50))).await.is_none() {
                assert!(begun.elapsed() < PATIENCE, "{ticket:?}");
                self.tick();
            }
        }
    }

    /// What the processor has set aside is handled again.
    pub(crate) async fn retry_all(&self) {
        let processor = &self.nodes[0].processors()[0];
        let all = ParkedFilter::all();
        self.ask(|| processor.retry_all(&all, PATIENCE)).await;
    }

    /// Until the processor has set so many keys aside; why.
    pub(crate) async fn until_parked(&self, n: usize) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let parked = self.ask(|| self.nodes[0].processors()[0].parked(None, 100)).await;
            if parked.len() == n {
                return parked.into_iter().map(|parked| parked.error).collect();
            }
            assert!(begun.elapsed() < PATIENCE, "{parked:?}");
            self.pause().await;
        }
    }

    /// What is stored fits together, whoever has stopped wherever: nobody writes it now. What was on its way may still land,
    /// and then it is looked at again.
    pub(crate) async fn audit(&self) -> View {
        let (begun, instances) = (Instant::now(), self.instances());
        loop {
            let (view, mut rebuilt) = (self.view().await, Vec::new());
            tokio::time::sleep(Duration::from_millis(20)).await;
            for key in view.instances.keys() {
                let rebuild = async || instances.rebuild(key).await.map_err(|e: BoxError| e);
                rebuilt.push(self.ask(rebuild).await.unwrap());
            }
            if self.view().await == view {
                fits_together(&view);
                rebuilt.iter().for_each(|rebuilt| assert_eq!(rebuilt.stored, rebuilt.folded));
                return view;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "who only looks changes nothing");
        }
    }

    /// The end of a rule.
    pub(crate) async fn end(mut self) -> View {
        self.stop().await;
        self.audit().await
    }
}

/// The rows of a view belong to its instances.
fn fits_together(view: &View) {
    for (key, instance) in &view.instances {
        let id = instance["id"].as_str().unwrap();
        let named = |table: &str| {
            let of = |value: &Value| value["id"] == id || value["key"] == **key;
            view.rows[table].iter().filter(|(_, value)| of(value)).count()
        };
        assert_eq!(named("hot.process.sends") as u64, instance["open"].as_u64().unwrap_or(0), "{instance}");
        let set = |timers: &serde_json::Map<_, Value>| {
            timers.values().filter(|timer| timer["fired"] != true).count()
        };
        assert_eq!(named("hot.process.timers"), instance["timers"].as_object().map_or(0, set), "{instance}");
        let associations = instance["associations"].as_array().map_or(0, Vec::len);
        assert_eq!(named("process.associations"), associations, "{instance}");
    }
    // A row of nobody would act for nobody.
    for table in ["hot.process.sends", "hot.process.timers", "process.associations"] {
        for (_, value) in &view.rows[table] {
            assert!(view.instances.contains_key(value["key"].as_str().unwrap()), "{table}: {value}");
        }
    }
}
