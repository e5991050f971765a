//! What failed, and waits for an operator.

mod ask;
mod sequence;

pub use self::ask::ParkedFilter;
pub(super) use self::ask::ask;
pub use self::sequence::ParkedSequence;
pub(crate) use self::sequence::{
    ANY_KEY, Parked, Skips, begin, cut, first_up_to, is_skipped, list, of_range, one, positions, reason, skip,
    skipped, skips, write_left_out,
};
