//! That this program does not know an event is noted where it is decoded, next to the call of the handler: what its own
//! error says of that is its own business.
//!
//! What is noted is that it does not know the event that is handled, or one of what it loads. Of other events it
//! may have been content not to know them, unless its error names one.

use std::cell::Cell;
use std::pin::pin;

use super::{EventId, is_of_a_newer_program};
use crate::blame::{Definite, NotTheEvent};
use crate::{BoxError, chain};

thread_local! {
    static MET: Cell<Met> = const { Cell::new(Met::with(None)) };
}

/// What was met since the call of a handler began.
#[derive(Clone, Copy)]
struct Met {
    /// The event that it handles, if it is one.
    handled: Option<EventId>,
    /// Whether that was decoded: who tries several enums knows it if one of them does.
    is_known: bool,
    /// Whether that was not known to one of them.
    is_unknown: bool,
    /// The last of the other events that were not known.
    other: Option<EventId>,
    /// One that was in the way of a load, or of a call within this one.
    in_the_way: Option<EventId>,
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
    if met.handled == Some(event) {
        MET.set(Met { is_known: true, ..met });
    }
}

/// Notes that this program does not know the type or the shape of an event.
pub(super) fn unknown(event: EventId) {
    let met = MET.get();
    MET.set(match met.handled == Some(event) {
        true => Met { is_unknown: true, ..met },
        false => Met { other: Some(event), ..met },
    });
}

/// Notes that something cannot be loaded, for this program does not know an event of it.
pub(super) fn in_the_way(event: EventId) {
    MET.set(Met { in_the_way: Some(event), ..MET.get() });
}

impl Met {
    const fn with(handled: Option<EventId>) -> Self {
        Self { handled, is_known: false, is_unknown: false, other: None, in_the_way: None }
    }

    /// Goes on with a call.
    fn within<T>(&mut self, code: impl FnOnce() -> T) -> T {
        let outer = MET.replace(*self);
        let outcome = code();
        *self = MET.replace(outer);
        outcome
    }

    /// What the call failed with. One around it is told what was in the way.
    fn explain(self, error: BoxError) -> BoxError {
        if error.is::<Definite>() || error.is::<NotTheEvent>() {
            return error;
        }
        let is_told = is_of_a_newer_program(&*error);
        let unknown = self.handled.filter(|_| self.is_unknown && !self.is_known).or(self.in_the_way);
        let Some(event) = unknown.or_else(|| self.other.filter(|other| is_told || names(&*error, *other)))
        else {
            return error;
        };
        in_the_way(event);
        if is_told { error } else { MetUnknown { event, source: error }.into() }
    }
}

/// Whether an error tells of an event, as one does that wraps a [`DecodeError`](super::DecodeError) and hides that it does.
fn names(error: &(dyn std::error::Error + 'static), event: EventId) -> bool {
    chain(error).contains(&event.to_string())
}

/// Runs code of a handler, of an event if it handles one. If it fails and only a newer program knows that event, or one that
/// was in the way of a load, its error [says so](is_of_a_newer_program), whatever the code made of it; unless that says for
/// itself whose fault it is. Code that panics must be caught within.
///
/// # Errors
///
/// Those of the code.
pub(crate) fn noting_unknown<T>(
    event: Option<EventId>,
    code: impl FnOnce() -> Result<T, BoxError>,
) -> Result<T, BoxError> {
    let mut met = Met::with(event);
    met.within(code).map_err(|error| met.explain(error))
}

/// The same of code with await points; of what it spawns, nothing is noted.
pub(crate) async fn noting_unknown_in<T>(
    event: Option<EventId>,
    code: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    let (mut met, mut code) = (Met::with(event), pin!(code));
    let outcome = std::future::poll_fn(|cx| met.within(|| code.as_mut().poll(cx))).await;
    outcome.map_err(|error| met.explain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u128) -> EventId {
        EventId::from_u128(n)
    }

    fn own() -> BoxError {
        "in words of its own".into()
    }

    /// Whether only a newer program knows why a handler of event 1 fails.
    fn fails_with(error: impl Into<BoxError>, code: impl FnOnce()) -> bool {
        let failed = noting_unknown(Some(event(1)), || {
            code();
            Err::<(), _>(error.into())
        });
        is_of_a_newer_program(&*failed.unwrap_err())
    }

    fn fails(code: impl FnOnce()) -> bool {
        fails_with(own(), code)
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
            decoded(event(2));
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
    fn of_other_events_those_count_that_are_in_the_way() {
        assert!(!fails(|| unknown(event(2))), "it goes on without that");
        assert!(fails(|| in_the_way(event(2))));
        let named = format!("cannot read event {}", event(2));
        assert!(fails_with(&*named, || unknown(event(2))));
        assert!(!fails_with(&*named, || {}), "it is known");
    }

    #[test]
    fn who_says_whose_fault_it_is_has_the_last_word() {
        assert!(!fails_with(Definite::new("refused"), || unknown(event(1))));
        assert!(!fails_with(NotTheEvent::new("a partner", own()), || unknown(event(1))));
    }

    #[test]
    fn a_call_within_another_tells_it_what_was_in_the_way() {
        let inner = |n| {
            noting_unknown(Some(event(2)), || {
                unknown(event(n));
                Err::<(), _>(own())
            })
        };
        assert!(fails(|| drop(inner(2))));
        assert!(!fails(|| drop(inner(3))));
    }

    #[tokio::test]
    async fn calls_of_one_task_that_wait_for_each_other_are_told_apart() {
        let call = async |n| {
            if n == 0 {
                unknown(event(1));
            }
            tokio::task::yield_now().await;
            Err::<(), _>(own())
        };
        let (a, b) = futures::join!(
            noting_unknown_in(Some(event(1)), call(0)),
            noting_unknown_in(Some(event(1)), call(1))
        );
        let is_newer = [a, b].map(|failed| is_of_a_newer_program(&*failed.unwrap_err()));
        assert_eq!(is_newer, [true, false]);
    }
}
