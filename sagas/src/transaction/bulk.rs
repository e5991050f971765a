//! Many runs at once: a list of them is frozen, looked at, and then something is asked of each.

use std::collections::HashSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::foresee::DryRun;
use super::list::RunFilter;
use super::operate::Runs;
use super::outcome::RunError;
use super::request::Who;
use super::rows::Verb;
use crate::verb::By;

/// How many runs are asked at once.
const AT_ONCE: usize = 16;
/// Runs of one page.
const PAGE: usize = 500;

/// Runs that were wanted at one time. Whatever becomes of them, and whichever come later: these are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Frozen {
    /// Their ids and keys.
    pub runs: Vec<(Uuid, String)>,
    /// Whether there were more.
    pub more: bool,
}

/// What came of one of many requests.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answered<T> {
    /// The run.
    pub run: Uuid,
    /// Its key.
    pub key: String,
    /// As of a request for this run alone.
    pub answer: Result<Result<T, String>, RunError>,
}

impl Runs {
    /// The runs that a filter wants now, at most so many: those to ask something of. So it has none that has ended, unless
    /// the filter asks for those; and none whose key cannot be read.
    ///
    /// # Errors
    ///
    /// [`RunError::Store`].
    pub async fn freeze(&self, filter: &RunFilter, most: usize) -> Result<Frozen, RunError> {
        let filter = filter.clone().or_those_that_go_on();
        let (mut frozen, mut seen, mut after) = (Frozen::default(), HashSet::new(), None);
        loop {
            let page = self.list(&filter, after.as_ref(), PAGE).await?;
            for run in page.runs.into_iter().filter(|run| !run.key.is_empty()) {
                if frozen.runs.len() == most {
                    return Ok(Frozen { more: true, ..frozen });
                }
                if seen.insert(run.run) {
                    frozen.runs.push((run.run, run.key));
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(frozen),
            }
        }
    }

    /// [Asks](Self::ask) the same of each of these runs, some at the same time. A key that stands for another run by now is
    /// [`RunError::Unknown`]. `limit` is that of each.
    ///
    /// # Errors
    ///
    /// [`RunError::By`]: then nothing is asked of any.
    pub async fn ask_each(
        &self,
        frozen: &Frozen,
        verb: Verb,
        actor: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<Vec<Answered<()>>, RunError> {
        self.each(frozen, actor, reason, |key, run, by| self.0.ask(key, Some(run), verb.clone(), by, limit))
            .await
    }

    /// What would come of it, for each: see [`dry_run`](Self::dry_run).
    ///
    /// # Errors
    ///
    /// [`RunError::By`].
    pub async fn dry_run_each(
        &self,
        frozen: &Frozen,
        verb: Verb,
        actor: &str,
        reason: &str,
    ) -> Result<Vec<Answered<DryRun>>, RunError> {
        let verb = &verb;
        self.each(frozen, actor, reason, |key, run, by| async move {
            self.kind_of(key).await?.dry_run(key, Some(run), verb.clone(), by).await
        })
        .await
    }

    async fn each<'f, T, F: Future<Output = Result<Result<T, String>, RunError>>>(
        &self,
        frozen: &'f Frozen,
        actor: &str,
        reason: &str,
        ask: impl Fn(&'f str, Uuid, Who) -> F,
    ) -> Result<Vec<Answered<T>>, RunError> {
        By::check(actor, reason).map_err(RunError::By)?;
        let one = |(run, key): &'f (Uuid, String)| {
            let answer = ask(key, *run, (actor.to_owned(), reason.to_owned()));
            async move { Answered { run: *run, key: key.clone(), answer: answer.await } }
        };
        Ok(stream::iter(frozen.runs.iter().map(one)).buffered(AT_ONCE).collect().await)
    }
}
