//! The start of an app: the wiring is checked, what it needs is made, and its processors begin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::builder::Settings;
use super::settle::Settling;
use super::{App, AppBuilder, Inner};
use crate::BoxError;
use crate::command::{Bus, Newness, Sender, WithinTx};
use crate::engine::Engine;
use crate::id::Ids;
use crate::inline::{self, Inline};
use crate::lifecycle::Lifecycle;
use crate::limits;
use crate::processor::{self, AnyBackend, NodeContext, Pages, ProcessorOptions, Runner, Wired};
use crate::projection::Views;
use crate::projection::live::Live;
use crate::repository::{Cache, Repository};
use crate::services::Services;
use crate::store::{Backend, EventStore};

impl<B: Backend> AppBuilder<B> {
    /// Checks the wiring, prepares the projections' tables, starts the processors.
    ///
    /// # Errors
    ///
    /// [`StartError`] with everything that is wrong, at once.
    pub async fn start(mut self) -> Result<App, StartError> {
        self.provide_own();
        let mut wrong = self.wrong();
        wrong.extend(in_the_way(&self.engines, &self.services).await);
        all_right(wrong)?;
        let node = self.node();
        let mut never_behind = self.live.clone().unwrap_or_default();
        never_behind.extend(self.inline.iter().map(|entry| entry.runner.name()));
        let entries = std::mem::take(&mut self.inline);
        let all = self.runners.clone();
        let processors = self.with_options();
        let codes_of = |runners: &[Arc<dyn Runner>]| inline::codes_of(runners.iter().cloned());
        let inline_runners: Vec<_> = entries.iter().map(|entry| entry.runner.clone()).collect();
        let inline_codes = codes_of(&inline_runners);
        let settling = Settling::new(&node, self.wired(&all), self.wired(&inline_runners), &self.retired);
        // Everything is judged before anything is changed: a start that is refused leaves the other programs alone.
        settling.judge().await.map_err(StartError)?;
        warn_of_orphans(&*self.backend, &all, &never_behind).await;
        let mut codes = codes_of(&all);
        codes.extend(inline_codes.clone());
        let taken = settling.take(self.backend.clone(), entries, codes).await;
        let (inline, unprepared) = taken.map_err(StartError)?;
        Ok(self.run(node, inline, never_behind, processors, inline_codes, &unprepared))
    }

    /// What handlers may ask for without that it was provided.
    fn provide_own(&mut self) {
        let runners = self.runners.iter().chain(self.inline.iter().map(|entry| &entry.runner));
        let own: Vec<_> = runners.filter_map(|runner| runner.keeps().tables()).collect();
        self.backend.provide(&mut self.services, &own);
        // Connected once there is something that sends.
        self.services.replace(Arc::new(Sender::default()));
        if let Some(names) = &self.live {
            let live = Live::new(self.backend.clone(), Arc::new(names.clone()));
            self.services.replace(Arc::new(Views::with_live(self.backend.clone(), live)));
        }
    }

    /// What is wrong with the wiring, a line each.
    fn wrong(&mut self) -> Vec<String> {
        let runners = self.runners.iter().chain(self.inline.iter().map(|entry| &entry.runner));
        let live = self.live.iter().flatten().cloned();
        let names: Vec<String> = runners.map(|runner| runner.name()).chain(live).collect();
        let checks = std::mem::take(&mut self.checks).into_iter();
        let mut wrong: Vec<String> = checks.flat_map(|check| check(&self.services)).collect();
        wrong.extend(self.services.twice().iter().map(|t| format!("`{t}` was provided twice")));
        wrong.extend(self.commands.twice().iter().cloned());
        let was = self.runners.iter().filter_map(|runner| Some((runner.name(), runner.was()?)));
        let both = was.filter(|(_, was)| names.iter().any(|name| name == was));
        wrong.extend(both.map(|(name, was)| format!("{name} was {was}, which this app runs as well")));
        wrong.extend(wrong_names(&names));
        wrong.extend(self.settings.wrong(&names));
        let (mut groups, engines) = (BTreeSet::new(), self.engines.iter().flat_map(|engine| engine.runs()));
        let twice = engines.map(|runs| runs.name).filter(|name| !groups.insert(name.clone()));
        wrong.extend(twice.map(|name| format!("{name} is run twice by this app: each needs its own name")));
        wrong
    }

    /// What the processors of this node share.
    fn node(&self) -> NodeContext {
        let Settings { clock, entropy, node: settings, .. } = &self.settings;
        let ids = Ids::new(clock.clone(), entropy.clone());
        NodeContext {
            backend: self.backend.clone(),
            services: Arc::new(self.services.clone()),
            sender: self.services.get::<Sender>().cloned().unwrap_or_default(),
            settings: *settings,
            pages: Pages::new(self.backend.clone(), processor::wanted_by_any(&self.runners)),
            lease: Arc::default(),
            node: ids.next(),
            ids,
        }
    }

    /// What is done for each of these if it has missed events.
    fn wired(&self, runners: &[Arc<dyn Runner>]) -> Vec<Wired> {
        let backfill = |runner: &Arc<dyn Runner>| self.settings.options(&runner.name()).backfill;
        runners.iter().map(|runner| (runner.clone(), backfill(runner))).collect()
    }

    /// The processors, each with its own options or those of all.
    fn with_options(&mut self) -> Vec<(Arc<dyn Runner>, ProcessorOptions)> {
        let settings = &self.settings;
        let options = |runner: Arc<dyn Runner>| {
            let options = settings.options(&runner.name());
            (runner, options)
        };
        std::mem::take(&mut self.runners).into_iter().map(options).collect()
    }

    /// Begins to work.
    fn run(
        self,
        mut node: NodeContext,
        inline: Option<Inline<B>>,
        never_behind: BTreeSet<String>,
        runners: Vec<(Arc<dyn Runner>, ProcessorOptions)>,
        inline_codes: BTreeMap<String, String>,
        unprepared: &BTreeSet<String>,
    ) -> App {
        let mut services = self.services;
        let store: Arc<dyn EventStore> = match inline {
            Some(inline) => {
                services.replace(Arc::new(WithinTx::<B::Tx>(Arc::new(inline.clone()))));
                Arc::new(inline)
            }
            None => self.backend.clone(),
        };
        node.services = Arc::new(services.clone());
        let Settings { retry, timeout, max_events, cache, verify, before_ready, .. } = self.settings;
        let closing = CancellationToken::new();
        let lifecycle = Lifecycle::new(closing.clone());
        let tasks = lifecycle.tasks().clone();
        let bus = Arc::new(Bus {
            repository: Repository { store, snapshots: self.backend },
            cache: Cache::new(cache),
            newness: Newness::default(),
            services,
            ids: node.ids.clone(),
            lifecycle,
            commands: self.commands,
            interceptors: self.interceptors,
            retry,
            timeout,
            max_events,
            verify,
        });
        node.sender.connect(&bus);
        let engines = self.engines;
        let (processors, cluster) =
            processor::start(&node, runners, engines.clone(), inline_codes, unprepared, &tasks, &closing);
        let (backend, queries) = (node.backend, self.queries);
        let wired = Inner { bus, processors, backend, cluster, engines, queries, never_behind, before_ready };
        App(Arc::new(wired))
    }
}

/// What engines find in the way of a start, a line each.
async fn in_the_way(engines: &[Arc<dyn Engine>], services: &Services) -> Vec<String> {
    let unread = |error: BoxError| vec![format!("the store cannot be read: {}", crate::chain(&*error))];
    // At the same time: each may have to wait for somebody who is away.
    let checked = join_all(engines.iter().map(|engine| engine.check(services))).await;
    checked.into_iter().flat_map(|checked| checked.unwrap_or_else(unread)).collect()
}

fn all_right(wrong: Vec<String>) -> Result<(), StartError> {
    if wrong.is_empty() { Ok(()) } else { Err(StartError(wrong)) }
}

fn wrong_names(names: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for name in names {
        let base = base_name(name);
        wrong.extend(limits::stored_name("processor name", base).err().map(|e| e.to_string()));
        if !seen.insert(base) {
            wrong.push(two_named(base));
        }
    }
    wrong
}

/// A name without its version.
fn base_name(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(base, _version)| base)
}

impl Settings {
    /// The options of a processor: its own, or those of all.
    fn options(&self, name: &str) -> ProcessorOptions {
        self.of_processor.get(base_name(name)).copied().unwrap_or(self.processors)
    }

    /// What is out of range, a line each.
    fn wrong(&self, names: &[String]) -> Vec<String> {
        let mut wrong = self.processors.problems("all processors");
        if self.node.lease < Duration::from_millis(100) {
            wrong.push(format!("a lease of {:?} is too short: at least 100 ms", self.node.lease));
        }
        for (name, options) in &self.of_processor {
            wrong.extend(options.problems(name));
            if !names.iter().any(|known| base_name(known) == name) {
                wrong.push(format!("there are options for {name:?}, and no processor has this name"));
            }
        }
        wrong
    }
}

pub(super) fn two_named(base: &str) -> String {
    format!("two processors are named {base:?}: each needs its own name")
}

/// A renamed processor starts from nothing; that should not go unseen.
async fn warn_of_orphans(backend: &dyn AnyBackend, runners: &[Arc<dyn Runner>], here: &BTreeSet<String>) {
    let Ok((mut orphans, new)) = processor::others(backend, runners).await else { return };
    orphans.retain(|name| !here.contains(name) && !runners.iter().any(|runner| runner.was() == Some(name)));
    // Another version of one that runs here is none.
    orphans.retain(|name| !runners.iter().any(|runner| base_name(&runner.name()) == base_name(name)));
    for runner in runners.iter().filter(|runner| !orphans.is_empty() && new.contains(&runner.name())) {
        if let Ok(Some(_)) = processor::other_name(backend, &**runner).await {
            continue;
        }
        let left_out = processor::left_out(backend, &**runner).await.unwrap_or_default();
        tracing::warn!(
            processor = runner.name(),
            not_run_here = ?orphans,
            "starts from nothing{left_out}; and the store knows processors that this app does not run: was it renamed?"
        );
    }
}

/// Everything that is wrong with the wiring, at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the app cannot start:\n  {}", .0.join("\n  "))]
pub struct StartError(
    /// One line for each mistake.
    pub Vec<String>,
);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Barrier;

    use super::*;
    use crate::cluster::Runs;
    use crate::engine::Node;

    /// One that finds something in the way once the other one looks as well.
    struct Waits(&'static str, Arc<Barrier>);

    #[async_trait::async_trait]
    impl Engine for Waits {
        fn runs(&self) -> Vec<Runs> {
            Vec::new()
        }

        async fn check(&self, _: &Services) -> Result<Vec<String>, BoxError> {
            self.1.wait().await;
            Ok(vec![self.0.to_owned()])
        }

        fn connect(&self, _: Node) {}

        async fn run(&self, _: CancellationToken) {}
    }

    #[tokio::test]
    async fn engines_are_checked_at_the_same_time() {
        let both = Arc::new(Barrier::new(2));
        let engines: [Arc<dyn Engine>; 2] =
            [Arc::new(Waits("one", both.clone())), Arc::new(Waits("two", both))];
        let services = Services::default();
        let found = tokio::time::timeout(Duration::from_secs(5), in_the_way(&engines, &services)).await;
        assert_eq!(found.unwrap(), ["one", "two"]);
    }
}
