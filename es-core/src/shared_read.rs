//! One read for all who ask at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

/// How long a read of somebody else is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// What many ask for is read for one of them at a time; whoever asked before a read began takes its answer.
#[derive(Debug)]
pub(crate) struct SharedRead<T> {
    begun: AtomicU64,
    /// The last answer, and which read gave it.
    last: Mutex<Option<(u64, T)>>,
}

impl<T> Default for SharedRead<T> {
    fn default() -> Self {
        Self { begun: AtomicU64::new(0), last: Mutex::new(None) }
    }
}

impl<T: Copy> SharedRead<T> {
    /// An answer from after the call.
    pub(crate) async fn ask<E>(&self, read: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let before = self.begun.load(Ordering::SeqCst);
        // Whoever reads may not be polled for a while.
        let Ok(mut last) = tokio::time::timeout(PATIENCE, self.last.lock()).await else { return read.await };
        if let Some((number, answer)) = *last
            && number > before
        {
            return Ok(answer);
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = read.await?;
        *last = Some((number, answer));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_during_a_read_share_the_next_one() {
        let (shared, reads) = (SharedRead::default(), Cell::new(0));
        let read = async || {
            reads.set(reads.get() + 1);
            let number = reads.get();
            tokio::task::yield_now().await;
            Ok::<u32, ()>(number)
        };
        let answers = join_all((0..100).map(|_| shared.ask(read()))).await;
        assert_eq!(answers[0], Ok(1));
        assert!(answers[1..].iter().all(|answer| *answer == Ok(2)), "they asked before the second began");
        assert_eq!(shared.ask(read()).await, Ok(3), "never one of before");
        assert_eq!(shared.ask(async { Err::<u32, &str>("away") }).await, Err("away"));
        assert_eq!(reads.get(), 3);
        let mut begun = Box::pin(shared.ask(std::future::pending::<Result<u32, ()>>()));
        assert!(futures::poll!(&mut begun).is_pending());
        assert_eq!(shared.ask(read()).await, Ok(4), "one that is not polled holds up nobody");
    }
}
