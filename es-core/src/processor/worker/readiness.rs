//! Whether what a program's queries read has caught up with the log.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Position;

/// Within this time a build comes as far as the log was, if it has caught up.
const SOON: Duration = Duration::from_secs(5);

/// Whether a program's queries may rely on a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It was not looked at yet.
    Unseen,
    /// It has not been as far as the log since the program began.
    Behind,
    /// What queries read has passed events that this program handles; it is being rebuilt for their sake.
    Incomplete,
    Ready,
}

/// Waits until a build has caught up: until it comes as far as the log is in no time. From then on it has, whatever it lags.
#[derive(Debug, Default)]
pub(crate) struct CatchingUp {
    /// How far the log was, and when that was seen.
    target: Option<(Position, Instant)>,
    done: bool,
}

impl CatchingUp {
    /// One look; `None` if it cannot be seen where the build is. Under load the head runs away: then the next target is the
    /// head as it is now.
    pub(crate) fn look(&mut self, position: Option<Position>, head: Position) -> bool {
        let (Some(position), false) = (position, self.done) else { return self.done };
        let now = Instant::now();
        let (target, since) = *self.target.get_or_insert((head, now));
        if position >= target {
            self.done = now.duration_since(since) <= SOON;
            self.target = Some((head, now));
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_has_caught_up_once_it_comes_as_far_as_the_log_was_in_no_time() {
        let mut catching_up = CatchingUp::default();
        let mut look = |position, head| catching_up.look(Some(Position(position)), Position(head));
        assert!(!look(0, 50));
        assert!(!look(49, 60), "what was there at the first look is not done");
        assert!(look(50, 90_000));
        assert!(look(50, 190_000), "that is not taken back");
        assert!(catching_up.look(None, Position(190_000)), "nor while it cannot be seen");
        let mut catching_up = CatchingUp::default();
        let mut look = |position, head| catching_up.look(Some(Position(position)), Position(head));
        assert!(!look(0, 5_000));
        tokio::time::advance(SOON * 2).await;
        assert!(!look(5_000, 9_000), "the log has run away meanwhile");
        tokio::time::advance(SOON * 2).await;
        assert!(!look(9_000, 9_500));
        tokio::time::advance(SOON / 2).await;
        assert!(look(9_500, 9_700));
        assert!(CatchingUp::default().look(Some(Position(7)), Position(7)), "a restart");
    }
}
