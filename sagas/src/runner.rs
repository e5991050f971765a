//! A process among the processors of an app.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::processor::{Execution, Keeps, Opening, Runner, Session};
use es_core::projection::Code;
use es_core::store::EventFilter;
use es_core::{AppBuilder, Backend, BoxError, RecordedEvent};

use crate::definition::{self, Definition, RawStep};
use crate::message::Messages;
use crate::operate::Instances;
use crate::overview::{self, OfProcess};
use crate::process::Process;
use crate::rows::Tables;
use crate::session::ProcessSession;
use crate::versions;

/// Events of one commit.
const PAGE: usize = 500;

/// `.process::<P>()` on the builder of an app.
pub trait Processes: Sized {
    /// A process, for events from now on.
    ///
    /// ```
    /// use es_core::App;
    /// use es_core::memory::MemoryBackend;
    /// use sagas::{Next, Processes as _, Refused, process};
    /// use serde::{Deserialize, Serialize};
    /// # use es_core::testing::conformance::domain::{Close, Opened, Withdrawn};
    ///
    /// /// Closes an account once something was taken from it.
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Closing {
    ///     account: String,
    /// }
    ///
    /// #[process(name = "closing", key = String, sends(Close))]
    /// impl Closing {
    ///     #[starts(by = owner)]
    ///     fn opened(&mut self, e: &Opened) -> Next<Self> {
    ///         self.account = e.owner.clone();
    ///         Next::wait()
    ///     }
    ///
    ///     #[on]
    ///     fn withdrawn(&mut self, _: &Withdrawn) -> Next<Self> {
    ///         Next::send(&self.account, Close {}).and_end()
    ///     }
    ///
    ///     #[refused]
    ///     fn is_closed(&mut self, _: Refused<Close>) -> Next<Self> {
    ///         Next::wait()
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), es_core::StartError> {
    /// let app = App::on(MemoryBackend::new()).process::<Closing>().start().await?;
    /// # app.shutdown(std::time::Duration::ZERO).await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    fn process<P: Process>(self) -> Self;
}

impl<B: Backend> Processes for AppBuilder<B> {
    fn process<P: Process>(self) -> Self {
        let app = P::wire(self).aggregate::<Messages>();
        let app = app.check(|_| definition::wrong(&definitions::<P>()));
        let backend = app.backend().clone();
        match Tables::of(P::NAME) {
            Ok(tables) => {
                let definitions = definitions::<P>();
                let instances = Instances { store: backend.clone(), tables: tables.clone(), definitions };
                let source = OfProcess { name: P::NAME, instances };
                let app = overview::add(app, |sources| sources.add(Arc::new(source)));
                app.runner(ProcessRunner::<B, P> { backend, tables, process: PhantomData })
            }
            Err(error) => app.check(move |_| vec![format!("process {}: {error}", P::NAME)]),
        }
    }
}

struct ProcessRunner<B, P> {
    backend: Arc<B>,
    tables: Tables,
    process: PhantomData<fn() -> P>,
}

/// The definitions of a process, the newest first.
pub(crate) fn definitions<P: Process>() -> Vec<Definition> {
    std::iter::once(Definition::of::<P>()).chain(P::earlier()).collect()
}

#[async_trait]
impl<B: Backend, P: Process> Runner for ProcessRunner<B, P> {
    fn name(&self) -> String {
        P::NAME.to_owned()
    }

    fn filter(&self) -> EventFilter {
        definition::filter(&definitions::<P>())
    }

    fn code(&self) -> Code {
        definition::code(&definitions::<P>())
    }

    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn execution(&self) -> Execution {
        let mut execution = Execution::default();
        (execution.splits, execution.page) = (P::BY_KEY, PAGE);
        execution
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        let mut keys = BTreeSet::new();
        for definition in definitions::<P>() {
            keys.extend(definition.steps(event)?.iter().flat_map(RawStep::keys).map(str::to_owned));
        }
        Ok(keys.into_iter().collect())
    }

    async fn check(&self) -> Result<Vec<String>, BoxError> {
        versions::check(&*self.backend, &self.tables, &definitions::<P>()).await
    }

    fn open(&self, opening: Opening<'_>) -> Box<dyn Session> {
        let (backend, tables) = (self.backend.clone(), self.tables.clone());
        Box::new(ProcessSession::new(backend, tables, definitions::<P>(), opening))
    }
}
