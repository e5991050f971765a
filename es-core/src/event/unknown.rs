//! Events that this program does not know are noted where they are decoded, next to the call of the handler: what its own
//! error says of that is its own business.

use std::cell::Cell;
use std::pin::pin;

use super::{EventId, is_of_a_newer_program};
use crate::BoxError;

thread_local! {
    static MET: Cell<Met> = const { Cell::new(Met { decoded: None, unknown: None }) };
}

/// What was met since the call of a handler began.
#[derive(Clone, Copy, Default)]
struct Met {
    /// The event that was decoded last: who tries several enums knows it if one of them does.
    decoded: Option<EventId>,
    unknown: Option<EventId>,
}

/// A handler failed after it had met an event that only a newer program knows.
#[derive(Debug, thiserror::Error)]
#[error("its handler met event {event}, which only a newer program knows")]
pub(super) struct MetUnknown {
    event: EventId,
    source: BoxError,
}

/// Notes that an event was decoded.
pub(crate) fn decoded(event: EventId) {
    let met = MET.get();
    MET.set(Met { decoded: Some(event), unknown: met.unknown.filter(|unknown| *unknown != event) });
}

/// Notes that this program does not know the type or the shape of an event.
pub(super) fn unknown(event: EventId) {
    let met = MET.get();
    if met.decoded != Some(event) {
        MET.set(Met { unknown: Some(event), ..met });
    }
}

impl Met {
    /// Goes on with a call. One within another tells that one what it has met.
    fn within<T>(&mut self, code: impl FnOnce() -> T) -> T {
        let outer = MET.replace(*self);
        let outcome = code();
        *self = MET.get();
        MET.set(Self { unknown: self.unknown.or(outer.unknown), ..outer });
        outcome
    }

    fn explain(self, error: BoxError) -> BoxError {
        match self.unknown {
            Some(event) if !is_of_a_newer_program(&*error) => MetUnknown { event, source: error }.into(),
            _ => error,
        }
    }
}

/// Runs code of a handler. If it fails and has tried to decode an event that only a newer program knows, its error
/// [says so](is_of_a_newer_program), whatever the code made of it. Code that panics must be caught within.
///
/// # Errors
///
/// Those of the code.
pub(crate) fn noting_unknown<T>(code: impl FnOnce() -> Result<T, BoxError>) -> Result<T, BoxError> {
    let mut met = Met::default();
    met.within(code).map_err(|error| met.explain(error))
}

/// The same of code with await points; of what it spawns, nothing is noted.
pub(crate) async fn noting_unknown_in<T>(
    code: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    let (mut met, mut code) = (Met::default(), pin!(code));
    let outcome = std::future::poll_fn(|cx| met.within(|| code.as_mut().poll(cx))).await;
    outcome.map_err(|error| met.explain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u128) -> EventId {
        EventId::from_u128(n)
    }

    fn fails(code: impl FnOnce()) -> bool {
        let failed = noting_unknown(|| {
            code();
            Err::<(), BoxError>("in words of its own".into())
        });
        is_of_a_newer_program(&*failed.unwrap_err())
    }

    #[test]
    fn an_error_that_hides_an_unknown_event_is_known_all_the_same() {
        assert!(fails(|| unknown(event(1))));
        assert!(!fails(|| {}), "nothing of the call before");
    }

    #[test]
    fn an_event_that_one_of_several_enums_knows_is_known() {
        let before = || {
            decoded(event(1));
            unknown(event(1));
        };
        let after = || {
            unknown(event(1));
            decoded(event(1));
        };
        let other = || {
            unknown(event(1));
            decoded(event(2));
        };
        assert_eq!([fails(before), fails(after), fails(other)], [false, false, true]);
    }

    #[test]
    fn a_call_within_another_tells_it_what_it_has_met() {
        assert!(fails(|| {
            assert!(fails(|| unknown(event(1))));
        }));
    }

    #[tokio::test]
    async fn calls_of_one_task_that_wait_for_each_other_are_told_apart() {
        let call = async |n| {
            if n == 0 {
                unknown(event(1));
            }
            tokio::task::yield_now().await;
            Err::<(), BoxError>("in words of its own".into())
        };
        let (a, b) = futures::join!(noting_unknown_in(call(0)), noting_unknown_in(call(1)));
        let is_newer = [a, b].map(|failed| is_of_a_newer_program(&*failed.unwrap_err()));
        assert_eq!(is_newer, [true, false]);
    }
}
