//! What a side has to be able to do.

use std::future::Future;

use anyhow::bail;

use crate::Work;

/// The framework, a driver alone, or a peer.
///
/// What it lists in `CAN` it must do; the defaults are never called for anything else.
pub trait Side: Clone + Send + Sync + 'static {
    const CAN: &'static [Work];

    /// Connects to a database that [`create`](Self::create) has seen.
    fn open(url: &str) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Makes its tables.
    fn create(url: &str) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Self::open(url).await.map(drop) }
    }

    /// A command that appends `events` deposits to an aggregate.
    fn command(&self, aggregate: u64, events: usize) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// A command whose boundary is the tag of an aggregate.
    fn condition(&self, _aggregate: u64) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { bail!("no append conditions") }
    }

    /// Loads and folds an aggregate, and tells its balance: as many as it has events.
    fn load(&self, aggregate: u64) -> impl Future<Output = anyhow::Result<i64>> + Send;

    /// Fills a table of balances from all stored events, and tells how many it took in.
    ///
    /// What takes longer than `limit` is cut there.
    fn rebuild(&self, _limit: std::time::Duration) -> impl Future<Output = anyhow::Result<u64>> + Send {
        async { bail!("no projections") }
    }

    /// Stores events for other streams as fast as it can: `events` in each of `streams`.
    fn fill(
        &self,
        first: u64,
        streams: u64,
        events: usize,
    ) -> impl Future<Output = anyhow::Result<()>> + Send {
        async move {
            for stream in first..first + streams {
                self.command(stream, events).await?;
            }
            Ok(())
        }
    }
}
