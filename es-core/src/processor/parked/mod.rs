//! What failed, and waits for an operator.

mod ask;
mod sequence;

pub use self::ask::ParkedFilter;
pub(super) use self::ask::ask;
pub use self::sequence::ParkedSequence;
pub(crate) use self::sequence::{
    Parked, begin, cut, first_up_to, list, of_range, one, positions, skip, skipped, write_left_out,
};
