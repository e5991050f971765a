//! Data kept in step: copies of aggregates in a search index, another database, a cache.
//!
//! Nothing is written in two places at once. The log is written; whoever has a copy follows it. A copy gets each aggregate
//! with the version that it has, and refuses what is older than what it holds, so a write that comes late, or twice, changes
//! nothing. This is what search engines call external versioning.
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::{Mutex, PoisonError};
//! use std::time::Duration;
//!
//! use sagas::es_core::memory::MemoryBackend;
//! use sagas::es_core::store::Version;
//! use sagas::es_core::{App, BoxError};
//! use sagas::mirror::{NearCache, Mirror, Mirrors as _};
//! # use sagas::es_core::testing::conformance::domain::{Account, Deposit, Open};
//! # use std::sync::Arc;
//!
//! /// A search index: the owner of each account.
//! #[derive(Clone, Default)]
//! struct Owners(Arc<Mutex<HashMap<String, (Version, String)>>>);
//!
//! impl Mirror for Owners {
//!     const NAME: &'static str = "owners";
//!     type Of = Account;
//!
//!     async fn write(&self, id: &String, version: Version, account: &Account) -> Result<(), BoxError> {
//!         let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!         // In SQL: `insert .. on conflict (id) do update set .. where owners.version < excluded.version`.
//!         if index.get(id).is_none_or(|(held, _)| *held < version) {
//!             index.insert(id.clone(), (version, account.owner.clone()));
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let (owners, accounts) = (Owners::default(), NearCache::<Account>::new(10_000));
//! let app = App::on(MemoryBackend::new()).mirror(owners.clone()).near_cache(&accounts).start().await?;
//! let ada = "ada".to_owned();
//! app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
//! app.settle(Duration::from_secs(5)).await?;
//! assert_eq!(owners.0.lock().unwrap()["ada"].1, "Ada");
//!
//! // From memory, once it was asked for; what happens to it, on any node, drops it.
//! assert_eq!(accounts.get(&ada).await?.map(|account| account.balance), Some(0));
//! # Ok(())
//! # }
//! ```
//!
//! A mirror is a [reactor](es_core::projection::Reactor): it is called at least once for what happens, by one node at a time
//! for each aggregate, it is parked and retried as a reactor is, and it starts with what happens from now on.
//! [`App::fill`](Mirroring::fill) writes what there was before.
//!
//! | | who has it | how it learns | when it is wrong |
//! | --- | --- | --- | --- |
//! | [`Mirror`] | another system, one for all nodes | a reactor writes it | later than the log, by as much as the reactor is behind; never backwards |
//! | [`NearCache`] | each process | it follows the log | for as long as the process has not heard of an event: milliseconds, or as long as the store is away |
//!
//! A copy refuses what it has at that version already. So a program that derives another form of an aggregate does not change what
//! older programs have written: give such a mirror another `NAME` and another place, fill it, and switch over; or empty the copy
//! once no older program is left, and fill it.
//!
//! A near cache that follows a store which has failed over to an older state forgets all within a second or two, also if no
//! read has failed meanwhile. Until then it may answer what is lost.
//!
//! A view is the better copy where the store itself is the place for it: it is rebuilt with its code, and
//! [`wait_for`](es_core::App::wait_for) waits for it.

mod engine;
mod follow;
mod near_cache;

use std::sync::Arc;

use es_core::store::{StoreError, Version};
use es_core::{Aggregate, App, AppBuilder, Apply, Backend, BoxError, ErrorKind, chain};

use self::engine::Drops;
use self::follow::{Follower, Following, kind_of};
pub use self::near_cache::NearCache;

/// A copy elsewhere of what aggregates are: see [`mirror`](self).
pub trait Mirror: Send + Sync + 'static {
    /// Stored: the name of its reactor. `[A-Za-z0-9_.:-]`.
    const NAME: &'static str;

    /// What it has a copy of.
    type Of: Apply;

    /// Writes what an aggregate is at a version, unless the copy has it at that version or a newer one.
    ///
    /// One that is gone for its business is still written: keep its version for as long as a late write may come, or that
    /// write brings it back.
    ///
    /// # Errors
    ///
    /// Anything: it is called again.
    ///
    /// # Cancellation
    ///
    /// It may be dropped at an `.await`, and is called again.
    fn write(
        &self,
        id: &<Self::Of as Aggregate>::Id,
        version: Version,
        state: &Self::Of,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// `.mirror(..)` and `.near_cache(..)` on the builder of an app.
pub trait Mirrors: Sized {
    /// Keeps a copy in step, from now on.
    #[must_use]
    fn mirror<M: Mirror>(self, mirror: M) -> Self;

    /// Lets a cache follow the log. Handlers ask for it as `&NearCache<Account>`.
    #[must_use]
    fn near_cache<A: Apply>(self, cache: &NearCache<A>) -> Self;
}

impl<B: Backend> Mirrors for AppBuilder<B> {
    fn mirror<M: Mirror>(self, mirror: M) -> Self {
        // One for both: what a fill writes anew is not taken for written before.
        let follower = Arc::new(Follower::of(Arc::new(mirror)));
        self.provide(follower.clone()).reactor(Following(follower))
    }

    fn near_cache<A: Apply>(self, cache: &NearCache<A>) -> Self {
        let store = self.backend().clone();
        self.provide(cache.clone()).engine(Arc::new(Drops { cache: cache.clone(), store }))
    }
}

/// On a running app.
pub trait Mirroring {
    /// Writes every aggregate that there is into a copy, as it is now: before its reactor first ran there were some, or the
    /// copy was lost. It reads all of their events. It may be repeated, and run while the copy is kept in step. How many it has
    /// written. One that cannot be written keeps no other: they are named in the end. Of a hundred it gives up.
    ///
    /// After the store was restored from a backup, empty the copy first: it refuses what is older than what it holds. Wait for
    /// some seconds before that: what another node has written just before, it takes for written for 5 seconds.
    ///
    /// # Errors
    ///
    /// [`MirrorError`]; what was written stays.
    ///
    /// # Cancellation
    ///
    /// What was written stays.
    fn fill<M: Mirror>(&self) -> impl Future<Output = Result<u64, MirrorError>> + Send;
}

impl Mirroring for App {
    async fn fill<M: Mirror>(&self) -> Result<u64, MirrorError> {
        let known: &Arc<Follower<M>> =
            self.services().get().map_err(|_| MirrorError::Unknown { name: M::NAME })?;
        known.fill(self.store(), &self.sender()).await
    }
}

/// Why a copy was not filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// The app has no such mirror.
    #[error("no mirror {name:?}: add `.mirror(..)` to the app")]
    Unknown {
        /// Its name.
        name: &'static str,
    },
    /// The store could not be read.
    #[error("the log could not be read: {0}")]
    Store(#[from] StoreError),
    /// Some aggregates could not be written, or not be loaded. All others were written, unless it is a hundred of them.
    #[error("{} of them not written to mirror {name:?}: {}", failed.len(), first(failed))]
    Write {
        /// The name of the mirror.
        name: &'static str,
        /// How many were written.
        written: u64,
        /// Those that were not.
        failed: Vec<NotWritten>,
    },
}

/// An aggregate that a fill could not write.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotWritten {
    /// Its stream.
    pub stream: String,
    /// Why.
    pub why: BoxError,
}

/// So many are named in a message.
const NAMED: usize = 3;

fn first(failed: &[NotWritten]) -> String {
    let named = failed.iter().take(NAMED);
    named.map(|of| format!("{}: {}", of.stream, chain(&*of.why))).collect::<Vec<_>>().join("; ")
}

impl MirrorError {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. } => ErrorKind::Misuse,
            Self::Store(error) => error.kind(),
            // What another try may help with is in the list as well, and helps nothing by itself.
            Self::Write { failed, .. } => {
                let mut kinds = failed.iter().map(|of| kind_of(&of.why));
                kinds.find(|kind| *kind != ErrorKind::Transient).unwrap_or(ErrorKind::Transient)
            }
        }
    }
}
