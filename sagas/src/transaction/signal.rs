//! Something that is sent to a run from outside, taken once.

use std::time::Duration;

use es_core::Backend;
use es_core::store::write_rows;
use uuid::Uuid;

use super::clock::TRUSTS;
use super::kind::Kind;
use super::outcome::RunError;
use super::protocol::Acts;
use super::request::{Said, not_known};
use super::rows::{Asked, Record, Tables, Verb, Wake, head_key, slice};
use crate::data::Data;
use crate::verb::By;

/// For how long a sender waits until it is taken.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of the id that a sender gives.
const MAX_ID: usize = 255;
/// Bytes of all that is sent for a step, as JSON.
pub(crate) const MAX_SENT: usize = 256 << 10;
/// Why something is not taken for what was sent before.
pub(crate) const OTHER_SENT: &str = "something else was sent under this id: take another one";

/// Holds what is sent to its limits, whoever sends it.
pub(super) fn check(kind: &str, verb: &Verb) -> Result<(), RunError> {
    if let Verb::Parent { .. } = verb {
        return Err(RunError::By("how the parent of a run ends is said by that run only".to_owned()));
    }
    let Verb::Signal { name, id, value } = verb else { return Ok(()) };
    if id.trim().is_empty() || id.len() > MAX_ID {
        return Err(RunError::By(format!("a signal needs an id, of up to {MAX_ID} bytes")));
    }
    if value.text().len() > MAX_SENT {
        let why = format!("what is sent as {name} has more than {MAX_SENT} bytes");
        return Err(RunError::Input { kind: kind.to_owned(), why });
    }
    Ok(())
}

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// Sends it to the run of a key, and waits until that has taken it, or has said that it does not.
    pub(super) async fn send_signal(
        &self,
        key: &str,
        name: &str,
        id: &str,
        value: Data,
    ) -> Result<(), RunError> {
        let verb = Verb::Signal { name: name.to_owned(), id: id.to_owned(), value };
        check(&self.name, &verb)?;
        let run = self.run_of(key, None).await?;
        let declined =
            |why| Err(RunError::Declined { kind: self.name.to_string(), key: key.to_owned(), why });
        match self.request(key, Some(run), verb.clone(), (String::new(), String::new()), LIMIT).await {
            Ok(Said::Done) => Ok(()),
            Ok(Said::Declined { why, unread: false }) => declined(why),
            Ok(Said::Declined { why, unread: true }) => Err(not_known(format!(
                "the program that works on the run cannot read it, another one may: send it again under the \
                 same id ({why})"
            ))),
            // It has ended: perhaps with this, and the answer was lost.
            Err(ended @ RunError::Ended { .. }) => match self.has_taken(run, &verb).await? {
                Some(true) => Ok(()),
                Some(false) => declined(OTHER_SENT.to_owned()),
                None => Err(ended),
            },
            Err(error) => Err(error),
        }
    }

    /// Sends a run a signal without a value, and does not wait until that is taken: it only saves time. One that has ended does
    /// not need it.
    pub(super) async fn send_hint(&self, run: Uuid, name: &str) -> Result<(), RunError> {
        let node = self.node().ok_or(RunError::NotStarted)?;
        let head = self.tables.heads.get(&*self.backend, &head_key(run)?).await?;
        let Some(head) = head.filter(|head| head.value.outcome.is_none()) else { return Ok(()) };
        // Those who have its version read it.
        let tables = Tables::of(&self.name, head.value.version)?;
        let (id, name) = (node.ids.next(), name.to_owned());
        let verb = Verb::Signal { name, id: id.simple().to_string(), value: Data::null() };
        let asked = Some(Asked { verb, by: By::new(String::new(), String::new(), id) });
        // Due for everybody, also where the clock of the store is carried on a little less far.
        let due = self.clock.now(&*self.backend).await? - TRUSTS;
        let wake = tables.wakes.push(slice(run), due, due, id, Wake { asked, ..Wake::of(run) })?;
        let _won = write_rows(&*self.backend, vec![wake]).await?;
        Ok(())
    }

    /// Whether a run has taken a signal; `Some(false)`: it has taken another one under its id.
    async fn has_taken(&self, run: Uuid, sent: &Verb) -> Result<Option<bool>, RunError> {
        let Verb::Signal { name, id, value } = sent else { return Ok(None) };
        // The first one has the value.
        let is_it = |record: Record| match record {
            Record::Resolved { verb: Verb::Signal { name: of, id: as_id, value: before }, .. }
                if of == *name && as_id == *id =>
            {
                Some(before.says_the_same(value))
            }
            _ => None,
        };
        Ok(self.records(run).await?.into_iter().find_map(|written| is_it(written.record)))
    }
}
