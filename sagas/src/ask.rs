//! Operators ask, from any node; the node that works on the instance does it.

use std::time::Duration;

use es_core::id::Ids;
use es_core::processor::{Slices, slice_of};
use es_core::store::keys::behind;
use es_core::store::{Row, Span, StoreError, write_rows};
use uuid::Uuid;

use crate::damaged::read;
use crate::instance::Instance;
use crate::operate::Instances;
use crate::rows::{Request, answered_key, of_instance, request_key};
use crate::verb::{Answer, By, Verb};

/// How often it is looked up what became of a request, without a sign that something did.
const POLL: Duration = Duration::from_millis(100);

/// Something that was asked for: it is stored, and is done when a node works on the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it is not done yet: see `Instances::answer`"]
pub struct Ticket(Request);

/// Why nothing was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It cannot be done.
    #[error("{verb} of {key:?} is refused: {why}")]
    Refused {
        /// The instance.
        key: String,
        /// What was asked for.
        verb: Verb,
        /// Why, and what to do.
        why: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Instances {
    /// Asks for something to be done to an instance, and says who asks and why. The request is stored, and survives
    /// restarts. What is refused by what is there now is refused at once; what has become of the instance by the time that
    /// it is done may refuse it, too: see [`answer`](Self::answer).
    ///
    /// # Errors
    ///
    /// [`AskError`]. If the store does not answer, or the future is dropped, it may have been stored: look at what was
    /// [asked](Self::show).
    pub async fn ask(&self, key: &str, verb: Verb, actor: &str, reason: &str) -> Result<Ticket, AskError> {
        self.ask_of(key, |_| true, verb, actor, reason).await
    }

    /// The same, of an instance by its id: another one may have its key by now.
    pub(crate) async fn ask_of(
        &self,
        key: &str,
        is_it: impl Fn(Uuid) -> bool + Send,
        verb: Verb,
        actor: &str,
        reason: &str,
    ) -> Result<Ticket, AskError> {
        By::check(actor, reason).map_err(|why| refused(key, &verb, why))?;
        let instance = self.check(key, &verb).await?;
        if !is_it(instance.id) {
            return Err(refused(
                key,
                &verb,
                "another instance has its key by now: look at the list".to_owned(),
            ));
        }
        let by = By::new(actor.to_owned(), reason.to_owned(), Ids::default().next());
        let request = Request { key: instance.key, id: instance.id, verb, by, at: self.store.now().await? };
        let row =
            self.tables.requests.insert(request_key(&request).map_err(StoreError::from)?, request.clone())?;
        drop(write_rows(&*self.store, vec![row]).await?);
        Ok(Ticket(request))
    }

    /// The instance that something is asked of, if that can be done to it as it is now.
    pub(crate) async fn check(&self, key: &str, verb: &Verb) -> Result<Instance, AskError> {
        let Some(instance) = self.stored(key).await? else {
            return Err(refused(key, verb, "there is no such instance: look at the list".to_owned()));
        };
        let (held, stuck) = self.trouble_of(&instance).await?;
        verb.fits(&instance, held, stuck).map_err(|why| refused(key, verb, why))?;
        Ok(instance)
    }

    /// Whether the first command of an instance that was not answered is held: those behind it wait; and, if it is held or
    /// stuck, the input that it came from.
    async fn trouble_of(&self, of: &Instance) -> Result<(bool, Option<u64>), StoreError> {
        if of.open == 0 {
            return Ok((false, None));
        }
        let after = of_instance(&of.key, of.id);
        let span = Span { before: Some(behind(&after)), after, limit: 1 };
        let rows = self.store.scan_many(self.tables.sends.name(), &[span]).await?;
        Ok(match rows.into_iter().flatten().next().map(|row| read(&self.tables.sends, row)) {
            None => (false, None),
            Some(Ok(Row { value, .. })) => {
                (value.is_held(), value.trouble.is_some().then_some(value.send.input))
            }
            // It is not sent either.
            Some(Err(_)) => (true, None),
        })
    }

    /// What became of a request, within a time; `None`: nothing yet. It is kept, and is done when a node runs the process.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn answer(&self, of: &Ticket, within: Duration) -> Result<Option<Answer>, StoreError> {
        let (slice, table) = (slice_of(&of.0.key), self.tables.requests.name());
        let mut touched = self.store.watch_rows(table, Slices { first: slice, last: slice });
        let (key, until) = (answered_key(&of.0)?, tokio::time::Instant::now() + within);
        loop {
            if let Some(row) = self.tables.answered.get(&*self.store, &key).await? {
                return Ok(Some(row.value.answer));
            }
            if tokio::time::Instant::now() >= until {
                return Ok(None);
            }
            tokio::select! {
                Ok(()) = touched.changed() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

fn refused(key: &str, verb: &Verb, why: String) -> AskError {
    AskError::Refused { key: key.to_owned(), verb: verb.clone(), why }
}
