//! Whether something failed only because this program is older than another one: that is nobody's fault, and the newer one
//! does it.

use std::error::Error;

use es_core::command::SendError;
use es_core::event::is_of_a_newer_program;
use es_core::store::CommitError;

/// It met an event that this program does not know, or inline projections that are newer: each of its commits would fail.
pub(crate) fn is_for_a_newer_program(error: &(dyn Error + 'static)) -> bool {
    is_of_a_newer_program(error)
        || std::iter::successors(Some(error), |error| (**error).source())
            .any(|error| matches!(error.downcast_ref::<CommitError>(), Some(CommitError::Inline { .. })))
}

/// The same of a command that is stored: it may also be in words that only a newer program reads.
pub(crate) fn needs_a_newer_program(error: &SendError) -> bool {
    let is_unread =
        matches!(error, SendError::UnknownCommand { .. } | SendError::Id { .. } | SendError::Payload { .. });
    is_unread || is_for_a_newer_program(error)
}
