//! What failed, and waits for an operator.

mod ask;
mod left_out;
mod sequence;

pub(super) use self::ask::{Asker, Asking, ask, discarding, times_asked};
pub use self::ask::{ParkedFilter, RetriedAll};
pub use self::left_out::{LeftOutForGood, handles_all};
pub use self::sequence::ParkedSequence;
pub(crate) use self::sequence::{
    ANY_KEY, Parked, Skips, UNREAD, begin, count, cut, cut_before, event_key, first_up_to, is_for_any,
    is_unread, list, list_readable, of_range, one, one_or_rest, one_up_to, position_of_skip, positions,
    reason, show, skip, skip_key, skipped, skipped_undecoded, skipped_up_to, skips, skips_between,
    whole_sequences, write_left_out,
};
