//! What an inbox has not got of what a log has.

use es_core::store::Row;
use es_core::{Backend, BoxError, Timestamp};
use tokio::time::{Instant, timeout};

use super::rows::Mark;
use super::{Inbox, Log, Searching};
use crate::message::Envelope;
use crate::reconcile::{Entry, Pair};

/// Lanes that are looked at together.
const AT_ONCE: usize = 50;

impl<B: Backend, C> Inbox<B, C> {
    /// Lanes behind a place, and what the log has behind their marks; and where the next ones begin.
    pub(crate) async fn audited(
        &self,
        after: Option<&str>,
    ) -> Result<(Vec<Pair<String, String>>, Option<String>), BoxError> {
        let log = self
            .log
            .as_deref()
            .ok_or("the inbox has no log to compare it with: give it one, `Inbox::log`")?;
        let page = self.tables.marks.page(&self.backend, after, AT_ONCE).await?;
        let next = page.last().filter(|_| page.len() == AT_ONCE).map(|row| row.key.clone());
        let mut pairs = Vec::new();
        for Row { value: mark, .. } in page {
            let missing = self.behind(log, &mark).await?;
            if missing.is_empty() {
                let (name, upto) = (mark.lane.to_string(), format!("up to {}", mark.sequence));
                let entry = || Some(Entry::new(name.clone(), upto.clone()).changed_at(mark.at));
                pairs.push(Pair::new(name.clone(), entry(), entry()));
            }
            pairs.extend(missing.into_iter().map(|message| absent(&mark, &message)));
        }
        Ok((pairs, next))
    }

    /// Messages of a lane behind its mark, some of them.
    async fn behind(&self, log: &dyn Log, mark: &Mark) -> Result<Vec<Envelope>, BoxError> {
        let begun = Instant::now();
        loop {
            let left = self.options.limit.saturating_sub(begun.elapsed());
            match timeout(left, log.behind(&mark.lane, Some(mark.sequence))).await? {
                Err(error) if error.is::<Searching>() => {}
                found => return found,
            }
        }
    }
}

/// A message that the log has, and the inbox has not.
fn absent(mark: &Mark, message: &Envelope) -> Pair<String, String> {
    let name = format!("message {:?} of {}", message.id, mark.lane);
    let sequence = message.sequence.clone().unwrap_or_default();
    let changed: Option<Timestamp> = message.time;
    let left = Entry { key: name.clone(), value: sequence, changed, live: false };
    Pair::new(name, Some(left), None)
}
