//! One try of a chain: opens all transactions, and commits them one after the other.

use std::sync::Arc;

use es_core::BoxError;

use super::link::{DynLink, LinkCx, OpenLink, Opened, named};
use crate::saga::{ActedInPart, StepError};

/// The first database decides who goes on: its row is held from the first statement of a try to its commit, so two tries of
/// one run follow each other, and one that finds nothing there knows that nothing is committed anywhere.
pub(super) struct Attempt<'l, In> {
    pub(super) links: &'l [Arc<dyn DynLink<In>>],
    /// The name of the chain, and a fingerprint of its input.
    pub(super) of: (&'l str, u128),
    /// Whether what is left is done again where others have committed.
    pub(super) finishes: bool,
}

/// What is open so far, and what has committed before.
#[derive(Default)]
struct Found<'l> {
    committed: Vec<&'static str>,
    open: Vec<(&'static str, Box<dyn OpenLink + 'l>)>,
}

impl Found<'_> {
    async fn roll_back(&mut self) {
        for (_, open) in self.open.drain(..) {
            open.roll_back().await;
        }
    }

    /// It has failed, and this is known of what has committed.
    fn failed<R>(&self, error: &str) -> StepError<R> {
        StepError::Retry(self.words(error).into())
    }

    /// The same, before a commit was tried: the row of the first database, if it is open, says that nothing is committed.
    fn not_opened<R>(&self, error: &str) -> StepError<R> {
        match self.committed.is_empty() && !self.open.is_empty() {
            true => StepError::Retry(format!("{error}; nothing is committed").into()),
            false => self.failed(error),
        }
    }

    /// It is partial for certain. Where that is left as it is, another try would find the same.
    fn partial<R>(&self, error: &str, finishes: bool) -> StepError<R> {
        match finishes {
            true => self.failed(error),
            false => StepError::Retry(Box::new(ActedInPart(self.words(error)))),
        }
    }

    fn words(&self, error: &str) -> String {
        match self.committed.as_slice() {
            [] => error.to_owned(),
            committed => format!("committed: {}; not committed: {error}", committed.join(", ")),
        }
    }
}

impl<'l, In: Sync> Attempt<'l, In> {
    /// `Ok`: all have committed. Refused: none has, nor ever will.
    pub(super) async fn make(&self, cx: LinkCx<'_, In>) -> Result<(), StepError<String>> {
        let mut found = Found::default();
        if let Err(error) = self.open(cx, &mut found).await {
            found.roll_back().await;
            return Err(error);
        }
        let mut left = std::mem::take(&mut found.open).into_iter();
        while let Some((name, open)) = left.next() {
            if let Err(error) = open.commit().await {
                // It may have committed: the next try finds out.
                found.open.extend(left);
                found.roll_back().await;
                return Err(found.failed(&named(name, &error)));
            }
            found.committed.push(name);
        }
        Ok(())
    }

    /// Opens a transaction in each database that has not committed.
    async fn open(&self, cx: LinkCx<'_, In>, found: &mut Found<'l>) -> Result<(), StepError<String>> {
        for link in self.links {
            let name = link.name();
            match link.open(cx, self.of).await {
                Ok(Opened::Committed) if found.open.is_empty() => found.committed.push(name),
                Ok(Opened::Committed) => {
                    let lost = "and not what comes before it: a database has lost what it had";
                    return Err(StepError::Retry(format!("{name} has committed, {lost}").into()));
                }
                Ok(Opened::Open(open)) => found.open.push((name, open)),
                Ok(Opened::Refuses(open, why)) => {
                    found.open.push((name, open));
                    return Err(self.refused(name, why, found).await);
                }
                Ok(Opened::HasRefused(why)) if found.committed.is_empty() && found.open.is_empty() => {
                    return Err(StepError::Refused(why));
                }
                Ok(Opened::HasRefused(why)) => {
                    return Err(found.partial(&format!("{name} says no: {why}"), self.finishes));
                }
                Err(error) => return Err(found.not_opened(&named(name, &error))),
            }
            if !self.finishes && !found.committed.is_empty() && !found.open.is_empty() {
                return Err(found.partial(&format!("{name}, which is left as it is"), false));
            }
        }
        Ok(())
    }

    /// A link says no. Where nothing is committed the first database keeps that, so it is a no of all tries.
    async fn refused(&self, name: &str, why: String, found: &mut Found<'l>) -> StepError<String> {
        let why = format!("{name}: {why}");
        if !found.committed.is_empty() {
            return found.partial(&format!("{why}, which is a no"), self.finishes);
        }
        let mut open = std::mem::take(&mut found.open).into_iter();
        let Some((_, first)) = open.next() else { return StepError::Refused(why) };
        for (_, open) in open {
            open.roll_back().await;
        }
        match first.refuse(&why).await {
            Ok(()) => StepError::Refused(why),
            Err(error) => StepError::Retry(error),
        }
    }

    /// Undoes what has committed, the last one first; what has not never does after that.
    pub(super) async fn undo(&self, cx: LinkCx<'_, In>, known: bool) -> Result<(), BoxError> {
        for link in self.links.iter().rev() {
            let undone = link.undo(cx, self.of, known).await;
            undone.map_err(|error| format!("undoing {}", named(link.name(), &error)))?;
        }
        Ok(())
    }
}
