//! Subscription queries: an answer now, and another after each change.

use std::any::type_name;
use std::time::Duration;

use futures::future::{pending, select_all};
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;

use super::App;
use crate::processor::{Processor, ProcessorStatus, Slices};
use crate::projection::Views;
use crate::query::{Answer, Query, QueryError};
use crate::services::{FromServices, Services};
use crate::store::{Generation, Position, wait};

/// How long it sleeps when nothing wakes it.
const POLL: Duration = Duration::from_secs(1);
/// After an error, the first wait until it is asked again; doubled up to [`POLL`].
const RETRY: Duration = Duration::from_millis(50);

impl App {
    /// Asks, and goes on asking: the stream gives the answer now, and then again whenever a change of the read side gave
    /// it another one. Nothing is lost between the first answer and the next; the last item is what is true now.
    ///
    /// - If the query's handler is a projection that this app runs, it is asked again when that one has moved on; if it
    ///   asks for [`Views`] or is none, when any of the app's processors has. An app that runs none asks again once a
    ///   second and after each append that it hears of; one with inline or live views, also after each append. So an
    ///   answer that also comes from elsewhere than the handler's own tables may be older than these.
    /// - It asks when it is polled, and only then: whoever is slow gets the newest answer, never a backlog.
    /// - An item that says the same as the one before it is left out: an equal answer, an error with the same text.
    /// - A query that fails is an item, and is asked again, also if nothing changes. Only without a handler
    ///   ([`QueryError::Missing`]) there is nothing to come.
    /// - It ends when the app is shut down. Until then it keeps the app alive; drop it when you have seen enough.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use es_core::memory::MemoryBackend;
    /// use es_core::prelude::*;
    /// use futures::{StreamExt, TryStreamExt};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Opened {}
    /// # #[derive(Event, Clone)]
    /// # #[event(prefix = "account")]
    /// # enum AccountEvent { Opened(Opened) }
    /// # #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
    /// # #[error("no")]
    /// # struct No;
    /// # #[derive(Aggregate, Clone, Default)]
    /// # #[aggregate(id = String, event = AccountEvent, error = No)]
    /// # struct Account;
    /// # impl Apply for Account {
    /// #     fn apply(&mut self, _: &AccountEvent) {}
    /// # }
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Open {}
    /// # #[commands]
    /// # impl Account {
    /// #     fn open(_: Open) -> Result<Opened, No> { Ok(Opened {}) }
    /// # }
    /// # #[derive(Clone, Default, Serialize, Deserialize)]
    /// # struct Known {}
    /// # #[view(name = "known", key = String)]
    /// # impl Known {
    /// #     fn opened(&mut self, _: &Opened) {}
    /// # }
    /// #[derive(Clone)]
    /// struct IsOpen(String);
    /// struct Accounts;
    ///
    /// #[queries]
    /// impl Accounts {
    ///     async fn is_open(&self, q: IsOpen, views: &Views) -> Result<bool, BoxError> {
    ///         Ok(views.get::<Known>(&q.0).await?.is_some())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let app = App::on(MemoryBackend::new()).view::<Known>().queries(Accounts).start().await?;
    /// let mut answers = app.watch(IsOpen("ada".to_owned())).boxed();
    /// assert_eq!(answers.try_next().await?, Some(false));
    /// app.send(&"ada".to_owned(), Open {}).await?;
    /// assert_eq!(answers.try_next().await?, Some(true));
    /// app.shutdown(Duration::from_secs(10)).await;
    /// assert_eq!(answers.try_next().await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch<Q>(&self, query: Q) -> impl Stream<Item = Result<Q::Answer, QueryError>> + Send + use<Q>
    where
        Q: Query<Answer: Clone + PartialEq> + Clone,
    {
        let watching = Watching::new(self.clone(), query);
        let items = stream::unfold(watching, |mut watching| async move {
            let closing = watching.app.inner().bus.lifecycle.closing().clone();
            let item = tokio::select! {
                biased;
                () = closing.cancelled() => None,
                item = watching.next() => item,
            };
            item.map(|item| (item, watching))
        });
        items.fuse()
    }
}

struct Watching<Q: Query> {
    app: App,
    query: Q,
    /// The stored name of the only processor that matters.
    only: Option<String>,
    head: watch::Receiver<Position>,
    /// Whether an append may change the answer before any processor has seen it: by an inline view, or a live one.
    with_log: bool,
    /// Where the log and the processors were before the query was asked; `None` before the first time.
    seen: Option<(Position, Vec<Place>)>,
    /// The head that was looked for on other nodes, long enough.
    chased: Position,
    /// The last item: the answer, or the text of the error.
    last: Option<Result<Q::Answer, String>>,
    /// How long to wait until it is asked again after an error.
    retry: Duration,
    /// Whether it makes no sense to ask again.
    over: bool,
}

/// Where a processor is: what it keeps is the same as long as this is. A retry or a rebuild of keys changes rows as well,
/// while the ranges stay where they are: then their shares are written, and have another revision.
type Place = (Generation, Vec<(Slices, Position, u64)>);

fn place(status: &ProcessorStatus) -> Place {
    let ranges = status.ranges.iter().map(|range| (range.slices, range.position, range.rev));
    (status.generation, ranges.collect())
}

impl<Q: Query<Answer: Clone + PartialEq> + Clone> Watching<Q> {
    fn new(app: App, query: Q) -> Self {
        let only = app.inner().queries.projection_of::<Q::Handler>();
        let only = only.filter(|_| !asks_for_views::<Q>()).map(str::to_owned);
        let (head, chased) = (app.store().watch(), Position(0));
        let with_log = only.is_none() && !app.inner().never_behind.is_empty();
        Self { app, query, only, head, with_log, seen: None, chased, last: None, retry: RETRY, over: false }
    }

    /// The next item that says something new; `None` after the last.
    async fn next(&mut self) -> Option<Result<Q::Answer, QueryError>> {
        while !self.over {
            match &self.last {
                None => {}
                Some(Ok(_)) => self.changed().await,
                Some(Err(_)) => {
                    let retry = self.retry;
                    self.retry = (retry * 2).min(POLL);
                    // Also if nothing changes: what failed may be outside of the log.
                    drop(tokio::time::timeout(retry, self.changed()).await);
                }
            }
            // Seen before it is asked: what changes meanwhile is asked for again.
            let head = *self.head.borrow_and_update();
            self.seen = Some((head, self.places()));
            match self.app.query(self.query.clone()).await {
                Ok(answer) => {
                    self.retry = RETRY;
                    if !matches!(&self.last, Some(Ok(last)) if *last == answer) {
                        self.last = Some(Ok(answer.clone()));
                        return Some(Ok(answer));
                    }
                }
                Err(error) => {
                    let text = crate::chain(&error);
                    self.over = matches!(error, QueryError::Missing { .. });
                    if !matches!(&self.last, Some(Err(last)) if *last == text) {
                        self.last = Some(Err(text));
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }

    /// Where the processors are that the answer may come from.
    fn places(&self) -> Vec<Place> {
        processors(&self.app, self.only.as_deref()).map(|processor| place(&processor.status())).collect()
    }

    /// Until something that the answer may come from is not where it was before the query was asked.
    async fn changed(&mut self) {
        loop {
            let running: Vec<&Processor> = processors(&self.app, self.only.as_deref()).collect();
            if running.is_empty() {
                return wait(&mut self.head, POLL).await;
            }
            // Taken again each time: another build may have become the one that is read.
            let mut progress: Vec<_> = running.iter().map(|processor| processor.watch()).collect();
            progress.iter_mut().for_each(watch::Receiver::mark_unchanged);
            let now = self.places();
            let head = *self.head.borrow_and_update();
            let same = |(before, places): &(Position, Vec<Place>)| {
                *places == now && !(self.with_log && head > *before)
            };
            if !self.seen.as_ref().is_some_and(same) {
                return;
            }
            let chased = self.chased;
            tokio::select! {
                () = any(&mut progress) => {}
                () = arrival(&running, head), if head > chased => {}
                () = wait(&mut self.head, POLL) => self.chased = head,
            }
        }
    }
}

/// The processors that the answer may come from.
fn processors<'a>(app: &'a App, only: Option<&'a str>) -> impl Iterator<Item = &'a Processor> {
    app.processors().iter().filter(move |processor| only.is_none_or(|name| processor.name() == name))
}

/// Whether the handler reads views: then its own projection is not all that matters.
fn asks_for_views<Q: Query>() -> bool {
    let mut asked = Vec::new();
    <<Q::Handler as Answer<Q>>::Env<'_>>::missing(&Services::default(), &mut asked);
    asked.iter().any(|service| service.0 == type_name::<Views>())
}

/// Until one of them has moved on, as far as this node knows.
async fn any(progress: &mut [watch::Receiver<ProcessorStatus>]) {
    let each = progress.iter_mut().map(|progress| {
        Box::pin(async {
            // A build that is gone does not move on; whoever waits looks for the one in its place after a while.
            if progress.changed().await.is_err() {
                pending::<()>().await;
            }
        })
    });
    select_all(each).await;
}

/// Until one that has not come as far as the head has, on whichever node it runs: what other nodes do is looked up.
async fn arrival(running: &[&Processor], head: Position) {
    let behind = running.iter().filter(|processor| processor.status().position < head);
    let each: Vec<_> = behind
        .map(|processor| {
            Box::pin(async move {
                if processor.reach(head, POLL).await.is_err() {
                    pending::<()>().await;
                }
            })
        })
        .collect();
    if each.is_empty() {
        pending::<()>().await;
    }
    select_all(each).await;
}
