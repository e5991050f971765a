//! One try of a chain: does what [`Try`] says, and says what came of it in words.

use std::sync::Arc;

use es_core::{BoxError, chain};

use super::link::{DynLink, LinkCx, OpenLink, Opened, named};
use super::machine::{Act, End, Found, Heard, Next, Try};
use crate::saga::{ActedInPart, StepError};

pub(super) struct Attempt<'l, In> {
    pub(super) links: &'l [Arc<dyn DynLink<In>>],
    /// The name of the chain, and a fingerprint of its input.
    pub(super) of: (&'l str, u128),
    /// Whether what is left is done again where others have committed.
    pub(super) finishes: bool,
}

/// What is open, and what was said last.
struct Made<'l> {
    open: Vec<Option<Box<dyn OpenLink + 'l>>>,
    /// What is heard of a no that is one of every try.
    no: String,
    /// What is heard of anything else.
    error: String,
}

impl<'l, In: Sync> Attempt<'l, In> {
    /// `Ok`: all have committed. Refused: none has, nor ever will.
    pub(super) async fn make(&self, cx: LinkCx<'_, In>) -> Result<(), StepError<String>> {
        let mut tried = Try::new(self.links.len(), self.finishes);
        let open = self.links.iter().map(|_| None).collect();
        let mut made = Made { open, no: String::new(), error: String::new() };
        loop {
            match tried.next() {
                Next::Do(Act::Open(i)) => tried.heard(Heard::Opened(i, self.open(i, cx, &mut made).await)),
                Next::Do(act) => tried.heard(self.leave(act, &mut made).await),
                Next::End(end) => return self.answer(end, &tried, made),
            }
        }
    }

    async fn open(&self, i: usize, cx: LinkCx<'_, In>, made: &mut Made<'l>) -> Found {
        let (link, name) = (&self.links[i], self.links[i].name());
        let opened = link.open(cx, self.of).await;
        made.error = match &opened {
            Ok(Opened::Open(_)) => format!("{name}, which is left as it is"),
            Ok(Opened::Committed) => {
                format!("{name} has committed, and not what comes before it: a database has lost what it had")
            }
            Ok(Opened::Refuses(_, why)) => format!("{name}: {why}, which is a no"),
            Ok(Opened::HasRefused(why)) => format!("{name} says no: {why}"),
            Ok(Opened::Failed(error)) | Err(error) => named(name, error),
        };
        match opened {
            Ok(Opened::Open(open)) => {
                made.open[i] = Some(open);
                Found::Open
            }
            Ok(Opened::Committed) => Found::Committed,
            Ok(Opened::Refuses(open, why)) => {
                (made.open[i], made.no) = (Some(open), format!("{name}: {why}"));
                Found::Refuses
            }
            Ok(Opened::HasRefused(why)) => {
                made.no = why;
                Found::HasRefused
            }
            Ok(Opened::Failed(_)) => Found::Failed,
            Err(_) => Found::Unknown,
        }
    }

    /// Ends what is open.
    async fn leave(&self, act: Act, made: &mut Made<'l>) -> Heard {
        let (Act::Open(i) | Act::Commit(i) | Act::RollBack(i) | Act::Refuse(i)) = act;
        let Some(open) = made.open[i].take() else { return Heard::RolledBack(i) };
        match act {
            Act::Commit(_) => {
                let committed = open.commit().await;
                // It may have committed: the next try finds out.
                let failed = committed.as_ref().err().map(|error| named(self.links[i].name(), error));
                made.error = failed.unwrap_or_default();
                Heard::Committed(i, committed.is_ok())
            }
            Act::Refuse(_) => {
                let refused = open.refuse(&made.no).await;
                made.error = refused.as_ref().err().map(|error| chain(&**error)).unwrap_or_default();
                Heard::Refused(i, refused.is_ok())
            }
            Act::Open(_) | Act::RollBack(_) => {
                open.roll_back().await;
                Heard::RolledBack(i)
            }
        }
    }

    fn answer(&self, end: End, tried: &Try, made: Made<'l>) -> Result<(), StepError<String>> {
        let Made { no, error, .. } = made;
        let words = self.words(tried, &error);
        match end {
            End::Committed => Ok(()),
            End::Refused => Err(StepError::Refused(no)),
            End::Failed { nothing: true } => {
                Err(StepError::Retry(format!("{error}; nothing is committed").into()))
            }
            End::Failed { nothing: false } => Err(StepError::Retry(words.into())),
            End::Partial => Err(StepError::Retry(Box::new(ActedInPart(words)))),
            End::Lost => Err(StepError::Retry(error.into())),
        }
    }

    /// What has committed, and what has not, or may have.
    fn words(&self, tried: &Try, error: &str) -> String {
        let names =
            |links: Vec<usize>| links.iter().map(|i| self.links[*i].name()).collect::<Vec<_>>().join(", ");
        let (committed, perhaps) = (names(tried.committed().collect()), names(tried.perhaps().collect()));
        match (committed.is_empty(), perhaps.is_empty()) {
            (true, true) => error.to_owned(),
            (true, false) => format!("perhaps committed: {perhaps} ({error})"),
            (false, true) => format!("committed: {committed}; not committed: {error}"),
            (false, false) => format!("committed: {committed}; perhaps committed: {perhaps} ({error})"),
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
