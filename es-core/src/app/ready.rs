//! Whether an app's queries may rely on its projections, and what they do before.

use std::time::Duration;

use super::App;
use crate::processor::{Processor, ProcessorError, Readiness};
use crate::query::QueryError;

/// What queries about a projection do before the app is [ready](App::ready) for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BeforeReady {
    /// They answer what is there.
    #[default]
    AsIs,
    /// They wait, at most so long; then they fail with [`QueryError::NotReady`].
    Wait(Duration),
    /// They fail with [`QueryError::NotReady`].
    Refuse,
}

impl App {
    /// Whether each projection that this app runs has caught up with the log since the app began. `false` while a new
    /// version is built for the first time, and while one is rebuilt because the program handles more events than before.
    ///
    /// For a readiness probe, beside [`health`](Self::health): a rolling deploy that waits for it stops no node with the old
    /// version before the new one can answer. Once it is `true` it stays so, unless a projection has to be rebuilt.
    ///
    /// ```
    /// # use es_core::{App, memory::MemoryBackend};
    /// # use es_core::testing::conformance::readside::Balance;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = App::on(MemoryBackend::new()).view::<Balance>().start().await?;
    /// app.until_ready(std::time::Duration::from_secs(60)).await?;
    /// assert!(app.ready());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ready(&self) -> bool {
        self.0.processors.iter().all(Processor::is_ready)
    }

    /// Waits until the app is [ready](Self::ready).
    ///
    /// # Errors
    ///
    /// [`ProcessorError::NotReady`] of the first projection that was not ready within `limit`.
    pub async fn until_ready(&self, limit: Duration) -> Result<(), ProcessorError> {
        let all = async {
            // While one is waited for, another one may begin to be rebuilt.
            while !self.ready() {
                for processor in &self.0.processors {
                    processor.until_ready().await;
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_ok() {
            return Ok(());
        }
        let late = self.0.processors.iter().find(|processor| !processor.is_ready());
        late.map_or(Ok(()), |late| Err(late.not_ready()))
    }

    /// Lets a query about a projection begin, by its stored name.
    pub(super) async fn admit(&self, query: &'static str, name: Option<&str>) -> Result<(), QueryError> {
        let processor = name.and_then(|name| self.0.processors.iter().find(|p| p.name() == name));
        let Some(processor) = processor.filter(|processor| !processor.is_ready()) else { return Ok(()) };
        let waited = match self.0.before_ready {
            BeforeReady::AsIs => true,
            BeforeReady::Wait(limit) => tokio::time::timeout(limit, processor.until_ready()).await.is_ok(),
            BeforeReady::Refuse => false,
        };
        let what = || processor.not_ready().to_string();
        if waited { Ok(()) } else { Err(QueryError::NotReady { query, what: what() }) }
    }
}

impl Processor {
    /// Whether what queries read here has caught up with the log since the app began, see [`App::ready`]. A reactor always
    /// is.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.handle().readiness.borrow() == Readiness::Ready
    }

    async fn until_ready(&self) {
        let mut readiness = self.handle().readiness.subscribe();
        // It ends with the processor, which is there.
        let _ready = readiness.wait_for(|readiness| *readiness == Readiness::Ready).await;
    }

    pub(crate) fn not_ready(&self) -> ProcessorError {
        let why = match *self.handle().readiness.borrow() {
            Readiness::Incomplete => {
                "it handles more events than what is there, or finds its rows by other keys, and has not been rebuilt yet"
            }
            _ => "it has not caught up with the log yet",
        };
        ProcessorError::NotReady { processor: self.name().to_owned(), why }
    }
}
