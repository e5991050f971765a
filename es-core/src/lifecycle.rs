//! What is running, and how it is told to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// What is running, and how it is told to end.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    commands: TaskTracker,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// The same as a flag: every command looks, and a token is looked at under a lock.
    closed: AtomicBool,
    kill: CancellationToken,
    /// Processors end with the app, also when nobody shuts it down.
    _stops: DropGuard,
}

impl Lifecycle {
    pub(crate) fn new(closing: CancellationToken) -> Self {
        let _stops = closing.clone().drop_guard();
        let kill = CancellationToken::new();
        Self {
            commands: TaskTracker::new(),
            tasks: TaskTracker::new(),
            closing,
            closed: AtomicBool::new(false),
            kill,
            _stops,
        }
    }

    /// Counts a command in, unless the app is closing.
    pub(crate) fn enter(&self) -> Option<TaskTrackerToken> {
        // Counted first: a shutdown that does not see the command is one that the command sees.
        let token = self.commands.token();
        (!self.closed.load(Ordering::SeqCst)).then_some(token)
    }

    /// Counts in a command that is a part of what a shutdown waits for.
    pub(crate) fn enter_late(&self) -> Option<TaskTrackerToken> {
        let token = self.commands.token();
        (!self.kill.is_cancelled()).then_some(token)
    }

    pub(crate) fn killed(&self) -> WaitForCancellationFuture<'_> {
        self.kill.cancelled()
    }

    /// Cancelled when a shutdown begins.
    pub(crate) const fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tasks.spawn(task));
    }

    /// What runs in the background: a shutdown waits for it.
    pub(crate) const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Refuses new commands; what runs may finish within `grace`, and commands are then cancelled. Says whether
    /// everything finished in time.
    pub(crate) async fn shutdown(&self, grace: Duration) -> bool {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.cancel();
        self.commands.close();
        self.tasks.close();
        let finished = async {
            self.commands.wait().await;
            self.tasks.wait().await;
        };
        let in_time = tokio::time::timeout(grace, finished).await.is_ok();
        self.kill.cancel();
        in_time
    }
}
