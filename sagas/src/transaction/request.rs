//! Something is asked of a run: a wake-up that carries it, and the answer, once it was taken.

use std::time::Duration;

use es_core::store::{StoreError, write_rows};
use es_core::{Backend, BoxError, ErrorKind};
use tokio::time::Instant;
use uuid::Uuid;

use super::kind::Kind;
use super::outcome::RunError;
use super::protocol::Acts;
use super::rows::{Asked, Record, Tables, Verb, Wake, head_key, slice};
use super::signal;
use crate::verb::By;

/// Between two looks at whether what was asked is done, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// What an operator says of a request: who, and why.
pub(super) type Who = (String, String);

/// What a run has said to a request.
pub(super) enum Said {
    Done,
    Declined {
        why: String,
        /// The program that was asked cannot read it.
        unread: bool,
    },
}

/// A request on its way.
struct Request<'a> {
    id: Uuid,
    run: Uuid,
    key: &'a str,
    /// Its row, which goes when it is taken.
    row: String,
    /// How many records the run had before: the answer is behind them.
    records: u64,
}

/// What has become of a request.
enum Became {
    /// Its row stands.
    Waits,
    Answered(Said),
    /// Its row has gone, and no record that can be read says why.
    Lost,
}

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// Asks something of a run, and waits for what it says. `expected`: which run, whatever the key stands for by now.
    pub(super) async fn request(
        &self,
        key: &str,
        expected: Option<Uuid>,
        verb: Verb,
        by: Who,
        limit: Duration,
    ) -> Result<Said, RunError> {
        signal::check(&self.name, &verb)?;
        let node = self.node().ok_or(RunError::NotStarted)?;
        let (run, head) = self.find(key, expected).await?;
        if let Some(outcome) = head.value.outcome {
            return Err(RunError::Ended { kind: self.name.to_string(), key: key.to_owned(), outcome });
        }
        // Those who have its version read it.
        let tables = Tables::of(&self.name, head.value.version)?;
        let id = node.ids.next();
        let asked = Asked { verb, by: By::new(by.0, by.1, id) };
        // Asked of the store: what is due later than now by its clock waits.
        let now = self.backend.now().await?;
        let wake =
            tables.wakes.push(slice(run), now, now, id, Wake { asked: Some(asked), ..Wake::of(run) })?;
        let request = Request { id, run, key, row: wake.key.clone(), records: head.value.records };
        let _won = write_rows(&*self.backend, vec![wake]).await?;
        let (begun, mut pause) = (Instant::now(), LOOKS.0);
        loop {
            match self.became(&tables, &request).await {
                Ok(Became::Waits) => {}
                // A store that does not answer now may do so in time.
                Err(error) if error.kind() == ErrorKind::Transient => {}
                Ok(Became::Answered(said)) => return Ok(said),
                Ok(Became::Lost) => {
                    let why = "what came of it cannot be read: ask again, or send it again under the same id";
                    return Err(not_known(why));
                }
                Err(error) => return Err(error),
            }
            if begun.elapsed() >= limit {
                return Err(not_known(format!("it was not done within {limit:?}, and the request stands")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    async fn became(&self, tables: &Tables, request: &Request<'_>) -> Result<Became, RunError> {
        let Request { id, run, key, ref row, records } = *request;
        let left = self.backend.rows(tables.wakes.table().name(), std::slice::from_ref(row)).await?;
        if left.iter().any(Option::is_some) {
            return Ok(Became::Waits);
        }
        for written in self.records_after(run, records).await?.into_iter().rev() {
            match written.record {
                Record::Resolved { by, .. } if by.request == id => {
                    return Ok(Became::Answered(Said::Done));
                }
                Record::Declined { by, why, unread, .. } if by.request == id => {
                    return Ok(Became::Answered(Said::Declined { why, unread }));
                }
                _ => {}
            }
        }
        let head = self.tables.heads.get(&*self.backend, &head_key(run)?).await?;
        match head.ok_or_else(|| self.unknown(key))?.value.outcome {
            // It was never taken: the run had ended.
            Some(outcome) => {
                Err(RunError::Ended { kind: self.name.to_string(), key: key.to_owned(), outcome })
            }
            None => Ok(Became::Lost),
        }
    }
}

/// What came of a request may be known later.
pub(super) fn not_known(why: impl Into<BoxError>) -> RunError {
    StoreError::transient("a request", std::io::Error::other(why)).into()
}
