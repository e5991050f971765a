//! Something that is sent to a run from outside, taken once.

use std::time::Duration;

use es_core::Backend;
use uuid::Uuid;

use super::kind::Kind;
use super::operate::AnyKind as _;
use super::outcome::RunError;
use super::protocol::Acts;
use super::rows::{Record, Verb};
use crate::data::Data;

/// For how long a sender waits until it is taken.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of the id that a sender gives.
const MAX_ID: usize = 255;

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// Sends it to the run of a key, and waits until that has taken it, or has said that it does not.
    pub(super) async fn send_signal(
        &self,
        key: &str,
        name: &str,
        id: &str,
        value: Data,
    ) -> Result<(), RunError> {
        if id.trim().is_empty() || id.len() > MAX_ID {
            return Err(RunError::By(format!("a signal needs an id, of up to {MAX_ID} bytes")));
        }
        let run = self.run_of(key, None).await?;
        let verb = Verb::Signal { name: name.to_owned(), id: id.to_owned(), value };
        match self.ask(key, Some(run), verb, (String::new(), String::new()), LIMIT).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(RunError::Declined { kind: self.name.to_string(), key: key.to_owned(), why }),
            // It has ended: perhaps with this, and the answer was lost.
            Err(RunError::Ended { .. }) if self.has_taken(run, name, id).await? => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn has_taken(&self, run: Uuid, name: &str, id: &str) -> Result<bool, RunError> {
        let is_it = |record: &Record| {
            matches!(record, Record::Resolved { verb: Verb::Signal { name: of, id: as_id, .. }, .. }
                if of == name && as_id == id)
        };
        Ok(self.records(run).await?.iter().any(|written| is_it(&written.record)))
    }
}
