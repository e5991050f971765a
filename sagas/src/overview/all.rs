//! The one entry to all transactions: in pages, over all sources.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use es_core::guarded::{Panic, caught};
use es_core::limits::MAX_PAGE;
use es_core::store::StoreError;
use es_core::{App, ErrorKind, chain};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::act::{Act, ActError, Acted};
use super::filter::Filter;
use super::listed::{Listed, Pattern, Which};
use super::source::{Part, Source, Sources, sources_of};
use crate::transaction::Runs;
use crate::verb::By;

/// For how long a source is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// How many transactions are asked at once.
const AT_ONCE: usize = 16;

/// On a running app.
pub trait Transactions {
    /// All transactions of the kinds that this app has, on whichever node they are.
    fn transactions(&self) -> Overview;
}

impl Transactions for App {
    fn transactions(&self) -> Overview {
        Overview { sources: sources_of(self) }
    }
}

/// All transactions of an app. See the [module](super).
#[derive(Clone, Debug)]
pub struct Overview {
    sources: Sources,
}

/// Some of the transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Page {
    /// The transactions, in the order of their patterns and kinds. There may be fewer than asked for, or none, and more
    /// behind them.
    pub transactions: Vec<Listed>,
    /// What could not be asked: whether there are transactions there is not known. The next page does not ask it again.
    pub unasked: Vec<Unasked>,
    /// Where the next ones begin; `None`: there are no more.
    pub next: Option<Cursor>,
}

/// A source that could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unasked {
    /// The pattern that it is of.
    pub pattern: Pattern,
    /// Which saga, TCC or process.
    pub kind: String,
    /// Which part of it, a participant, say; `None`: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Why.
    pub why: String,
}

impl Unasked {
    pub(crate) fn new(source: &dyn Source, part: Option<String>, error: &StoreError) -> Self {
        Self::of(source, part, chain(error))
    }

    pub(crate) fn of(source: &dyn Source, part: Option<String>, why: String) -> Self {
        let (pattern, kind) = (source.pattern(), source.kind().to_owned());
        Self { pattern, kind, part, why }
    }
}

impl fmt::Display for Unasked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, kind, part, why } = self;
        write!(f, "{pattern} {kind}")?;
        part.as_ref().map_or(Ok(()), |part| write!(f, ", {part:?}"))?;
        write!(f, ": {why}")
    }
}

/// Where a page ends. Its text can be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Cursor {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// A place in the order of all: which source, and where in it; empty: at its beginning.
struct Place<'c> {
    pattern: &'c str,
    kind: &'c str,
    within: &'c str,
}

impl Cursor {
    fn at(source: &dyn Source, within: &str) -> Self {
        Self(format!("{}/{}/{within}", source.pattern(), source.kind()))
    }

    fn read(&self) -> Result<Place<'_>, StoreError> {
        let mut parts = self.0.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(pattern), Some(kind), Some(within)) => Ok(Place { pattern, kind, within }),
            _ => Err(StoreError::misuse(format!("{:?} is no cursor of a page of transactions", self.0))),
        }
    }
}

impl Overview {
    pub(crate) const fn of(sources: Sources) -> Self {
        Self { sources }
    }

    /// The runs of each kind on the engine of transactions.
    pub(crate) fn runs(&self) -> Vec<Runs> {
        self.sources.kinds_of_runs()
    }

    /// The kinds of transactions that there are in this app.
    #[must_use]
    pub fn kinds(&self) -> Vec<(Pattern, String)> {
        self.sources.all().iter().map(|source| (source.pattern(), source.kind().to_owned())).collect()
    }

    /// Those that a filter wants, behind a cursor, at most `limit` and 1,000. A page may end sooner, after some thousand rows
    /// of which few were wanted: go on at [`Page::next`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the cursor is none. What cannot be read is no error: it is named in the page.
    pub async fn page(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (limit, mut page) = (limit.clamp(1, MAX_PAGE), Page::default());
        let after = after.map(Cursor::read).transpose()?;
        let sources = self.sources.all();
        for source in sources.iter().filter(|source| filter.wants_of(source.pattern(), source.kind())) {
            let within = match &after {
                Some(place) => {
                    match (source.pattern().name(), source.kind()).cmp(&(place.pattern, place.kind)) {
                        std::cmp::Ordering::Less => continue,
                        std::cmp::Ordering::Equal => Some(place.within).filter(|within| !within.is_empty()),
                        std::cmp::Ordering::Greater => None,
                    }
                }
                None => None,
            };
            let left = limit - page.transactions.len();
            if left == 0 {
                page.next = Some(Cursor::at(&**source, ""));
                break;
            }
            match in_time(source.page(filter, within, left)).await {
                Ok(Part { listed, unasked, next }) => {
                    page.transactions.extend(listed);
                    page.unasked.extend(unasked);
                    if let Some(next) = next {
                        page.next = Some(Cursor::at(&**source, &next));
                        break;
                    }
                }
                Err(error) if within.is_some() && error.kind() == ErrorKind::Misuse => return Err(error),
                Err(error) => page.unasked.push(Unasked::new(&**source, None, &error)),
            }
        }
        Ok(page)
    }

    /// What one waits for, and who will wake it, in words.
    ///
    /// # Errors
    ///
    /// [`ActError::Missing`]; [`ActError::Store`].
    pub async fn waits_for(&self, which: &Which) -> Result<Vec<String>, ActError> {
        self.source(which)?.waits_for(which).await
    }

    /// Has something done to a transaction, and waits until that is done, for `limit` at most. Who and why is kept with it; of
    /// a transaction across databases that is only to be tried again, in the log of this program.
    ///
    /// # Errors
    ///
    /// [`ActError::NotKnown`]: its pattern knows no such act. [`ActError::Missing`]; [`ActError::Declined`]: it cannot be done
    /// to it as it is, or of one across databases something is left, which is said; [`ActError::By`]. [`ActError::Store`], also
    /// if it is not done within `limit`: the request stands.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it was asked for: look at the transaction.
    pub async fn ask(
        &self,
        which: &Which,
        act: Act,
        actor: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<(), ActError> {
        let source = self.checked(which, &act, actor, reason)?;
        source.ask(which, act, (actor.to_owned(), reason.to_owned()), limit).await
    }

    /// What would come of that, by what is stored now. Nothing is written, and nothing is asked.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn dry_run(
        &self,
        which: &Which,
        act: Act,
        actor: &str,
        reason: &str,
    ) -> Result<String, ActError> {
        let source = self.checked(which, &act, actor, reason)?;
        source.dry_run(which, act, (actor.to_owned(), reason.to_owned())).await
    }

    /// [Asks](Self::ask) the same of each of these, some at the same time. `limit` is that of each. To have it done to all
    /// that fail for one reason, list them ([`Filter::failing_with`]), and then ask those: later ones are not meant.
    pub async fn ask_each(
        &self,
        all: &[Which],
        act: &Act,
        actor: &str,
        reason: &str,
        limit: Duration,
    ) -> Vec<Acted> {
        let one = |which: Which| async move {
            let answer = self.ask(&which, act.clone(), actor, reason, limit).await;
            Acted { which, answer }
        };
        stream::iter(all.to_vec()).map(one).buffered(AT_ONCE).collect().await
    }

    fn checked(
        &self,
        which: &Which,
        act: &Act,
        actor: &str,
        reason: &str,
    ) -> Result<Arc<dyn Source>, ActError> {
        By::check(actor, reason).map_err(ActError::By)?;
        let source = self.source(which)?;
        let (pattern, act, knows) = (source.pattern(), act.name(), source.knows().to_vec());
        match knows.contains(&act) {
            true => Ok(source),
            false => Err(ActError::NotKnown { pattern, act, knows }),
        }
    }

    fn source(&self, which: &Which) -> Result<Arc<dyn Source>, ActError> {
        let is_it =
            |source: &Arc<dyn Source>| source.pattern() == which.pattern && source.kind() == which.kind;
        self.sources.all().into_iter().find(is_it).ok_or_else(|| ActError::Missing(which.clone()))
    }
}

/// Participants are user code: a panic of one keeps nobody from the others.
async fn in_time(asked: impl Future<Output = Result<Part, StoreError>>) -> Result<Part, StoreError> {
    let panicked = |panic: Panic| StoreError::transient("asking", std::io::Error::other(panic.boxed()));
    match tokio::time::timeout(LIMIT, caught(asked)).await {
        Ok(answer) => answer.map_err(panicked).flatten(),
        Err(late) => Err(StoreError::transient("waiting for an answer", late)),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::super::act::ActName;
    use super::*;

    /// A source whose participants panic, or are well.
    struct Asked(&'static str);

    #[async_trait]
    impl Source for Asked {
        fn pattern(&self) -> Pattern {
            Pattern::TWO_PHASE
        }
        fn kind(&self) -> &str {
            self.0
        }
        fn knows(&self) -> &'static [ActName] {
            &[]
        }
        async fn page(&self, _: &Filter, _: Option<&str>, _: usize) -> Result<Part, StoreError> {
            assert!(self.0 != "torn", "it is on fire");
            let which = Which::new(Pattern::TWO_PHASE, self.0, "k");
            Ok(Part { listed: vec![Listed::new(which, 1, super::super::Status::Parked)], ..Part::default() })
        }
        async fn waits_for(&self, which: &Which) -> Result<Vec<String>, ActError> {
            Err(ActError::Missing(which.clone()))
        }
        async fn ask(&self, which: &Which, _: Act, _: (String, String), _: Duration) -> Result<(), ActError> {
            Err(ActError::Missing(which.clone()))
        }
        async fn dry_run(&self, which: &Which, _: Act, _: (String, String)) -> Result<String, ActError> {
            Err(ActError::Missing(which.clone()))
        }
    }

    #[tokio::test]
    async fn a_source_that_panics_is_named_and_keeps_no_other_from_the_list() {
        let sources = Sources::default();
        ["torn", "well"].into_iter().for_each(|kind| sources.add(Arc::new(Asked(kind))));
        let page = Overview::of(sources).page(&Filter::default(), None, 10).await.unwrap();
        let listed: Vec<&str> = page.transactions.iter().map(|of| &*of.which.kind).collect();
        assert_eq!((listed, page.unasked.len(), page.next), (vec!["well"], 1, None));
        assert!(page.unasked[0].to_string().contains("it is on fire"), "{}", page.unasked[0]);
    }
}
