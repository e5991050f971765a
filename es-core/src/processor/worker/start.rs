//! Starting the processors of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AnyBackend, Coordinator, NodeContext, Observer};
use crate::cluster::{Cluster, Runs, Shares};
use crate::engine::{Engine, Node};
use crate::processor::handle::{HandleState, Processor};
use crate::processor::kinds::runner::Runner;
use crate::processor::options::ProcessorOptions;
use crate::state::{Build, Checkpoint};
use crate::store::{EventFilter, Position, StoreError};

impl std::fmt::Debug for dyn Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// Starts the processors of a node, which it is given back with, if there is anything to run. They end with `stop`; `tasks` then has none left. Those whose rows could not be read are
/// prepared once they can be, and shown as unsettled until then. Other nodes see the codes of its inline projections as well.
pub(crate) fn start(
    node: &NodeContext,
    runners: Vec<(Arc<dyn Runner>, ProcessorOptions)>,
    engines: Vec<Arc<dyn Engine>>,
    inline_codes: BTreeMap<String, String>,
    unprepared: &BTreeSet<String>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> (Vec<Processor>, Option<Arc<Cluster>>) {
    if runners.is_empty() && inline_codes.is_empty() && engines.is_empty() {
        return (Vec::new(), None);
    }
    let cluster = Arc::new(cluster(node, &runners, &engines, inline_codes));
    let sights = watch::Sender::new(None);
    let working = TaskTracker::new();
    let begin = |(runner, options): (Arc<dyn Runner>, ProcessorOptions)| {
        let handle = Arc::new(HandleState::new(&runner.name(), node.ids.clock().clone()));
        let (resets, requests) = mpsc::channel(1);
        let coordinator = Coordinator::new(
            node.clone(),
            cluster.clone(),
            runner.clone(),
            options,
            handle.clone(),
            sights.subscribe(),
            requests,
        );
        let is_prepared = !unprepared.contains(&runner.name());
        let coordinator = if is_prepared { coordinator } else { coordinator.unprepared() };
        drop(working.spawn(coordinator.run(stop.clone())));
        let handler_limit = options.handler_limit;
        Processor { handle, resets, handler_limit, node: node.clone(), runner, cluster: cluster.clone() }
    };
    let processors: Vec<Processor> = runners.into_iter().map(begin).collect();
    for engine in engines {
        let (services, sender, ids) = (node.services.clone(), node.sender.clone(), node.ids.clone());
        engine.connect(Node { cluster: cluster.clone(), services, sender, ids });
        let stop = stop.clone();
        drop(working.spawn(async move { engine.run(stop).await }));
    }
    // One with inline projections only is seen until it ends.
    drop(working.spawn(stop.clone().cancelled_owned()));
    working.close();
    let gone = CancellationToken::new();
    let ended = gone.clone();
    // The node stays alive until the last of its processors has given back what it had.
    drop(tasks.spawn(async move {
        working.wait().await;
        gone.cancel();
    }));
    if !processors.is_empty() {
        let observer = Observer::new(node.clone(), cluster.clone(), sights.clone());
        drop(tasks.spawn(observer.run(ended.clone())));
    }
    let node = cluster.clone();
    drop(tasks.spawn(async move { node.run(ended).await }));
    (processors, Some(cluster))
}

/// Keeps a node that starts alive for others, with the codes that it will run: what it takes over is not taken back.
pub(crate) async fn alive_during<T>(
    node: &NodeContext,
    codes: BTreeMap<String, String>,
    work: impl Future<Output = T>,
) -> T {
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let cluster = Cluster::new(node.backend.clone(), node.node, node.settings.lease);
    let cluster = cluster.with_lease(node.lease.clone()).with_codes(codes);
    let running = tokio::spawn(async move { cluster.run(stop).await });
    let done = work.await;
    drop(guard);
    // A panic of the task is in the log; the lease runs out.
    drop(running.await);
    done
}

fn cluster(
    node: &NodeContext,
    runners: &[(Arc<dyn Runner>, ProcessorOptions)],
    engines: &[Arc<dyn Engine>],
    inline_codes: BTreeMap<String, String>,
) -> Cluster {
    let shares = Shares::<Checkpoint>::checkpoints();
    let begin = Cluster::new(node.backend.clone(), node.node, node.settings.lease);
    let codes = runners.iter().map(|(runner, _)| (runner.name(), runner.code().fingerprint()));
    let begin = begin.with_lease(node.lease.clone()).with_codes(codes.chain(inline_codes).collect());
    let cluster = runners.iter().fold(begin, |cluster, (runner, _)| {
        let (name, splits) = (runner.name(), runner.execution().splits);
        cluster.with(Runs { name, splits }, &shares)
    });
    let of_engines = engines.iter().flat_map(|engine| engine.runs());
    let cluster = of_engines.fold(cluster, |cluster, runs| cluster.with_group(runs));
    if node.settings.looks_on { cluster.looking_on() } else { cluster }
}

/// One reader for all: what any of them wants to see.
pub(crate) fn wanted_by_any(runners: &[Arc<dyn Runner>]) -> EventFilter {
    let mut filters: Vec<EventFilter> = Vec::new();
    for filter in runners.iter().map(|runner| runner.filter()) {
        if !filters.contains(&filter) {
            filters.push(filter);
        }
    }
    let any = filters.into_iter().reduce(EventFilter::or).unwrap_or_default();
    if crate::store::check::filter(&any).is_ok() { any } else { EventFilter::all() }
}

/// The stored names of processors that other apps ran on this store, and of those here that are new to it.
pub(crate) async fn others(
    backend: &dyn AnyBackend,
    runners: &[Arc<dyn Runner>],
) -> Result<(BTreeSet<String>, BTreeSet<String>), StoreError> {
    let shares = Shares::<Checkpoint>::checkpoints();
    let stored = shares.below(backend, "").await?.into_iter();
    let live = stored.filter_map(|row| shares.decode(row).ok().flatten());
    let known: BTreeSet<String> =
        live.filter_map(|share| Some(Build::parse(&share.group)?.processor.to_string())).collect();
    let own: BTreeSet<String> = runners.iter().map(|runner| runner.name()).collect();
    Ok((known.difference(&own).cloned().collect(), own.difference(&known).cloned().collect()))
}

/// Up to how many events that are left out are counted.
const COUNTS: usize = 1_000;

/// What a processor that begins at the head of the log leaves out, in words; `None` if that is nothing.
pub(crate) async fn left_out(backend: &dyn AnyBackend, runner: &dyn Runner) -> Option<String> {
    if runner.keeps().tables().is_some() {
        return None;
    }
    match backend.read(&runner.filter(), Position(0), COUNTS).await {
        Ok(page) if !page.events.is_empty() => {
            let (n, more) = (page.events.len(), if page.more { " or more" } else { "" });
            Some(format!(": {n}{more} events that it wants lie before its start, and are left out"))
        }
        Ok(page) if !page.more => None,
        _ => Some(": events that it wants may lie before its start, and are left out".to_owned()),
    }
}
