//! A stored checkpoint, for those who look at a store and do not know its processors.

use super::Position;

/// What a row of the table `checkpoints` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a range has an end, or is no more")]
pub enum CheckpointOf {
    /// A range of a processor is here.
    Range(Position),
    /// The range was merged into its neighbour. It keeps its row, for its revision, and is nowhere.
    Nobody,
}

/// Where the range of a processor is, by its row; `None` if that cannot be read.
#[must_use]
pub fn checkpoint_of(row: &[u8]) -> Option<CheckpointOf> {
    let row: serde_json::Value = serde_json::from_slice(row).ok()?;
    let fields = row.as_object()?;
    let position = match fields.get("position") {
        Some(position) => position.as_u64()?,
        None => 0,
    };
    let has_end = fields.contains_key("last");
    Some(if has_end { CheckpointOf::Range(Position(position)) } else { CheckpointOf::Nobody })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_where_its_range_is_or_that_it_is_nowhere() {
        let of = |row: &str| checkpoint_of(row.as_bytes());
        assert_eq!(of(r#"{"position":7,"last":1023}"#), Some(CheckpointOf::Range(Position(7))));
        assert_eq!(of(r#"{"last":1023}"#), Some(CheckpointOf::Range(Position(0))));
        assert_eq!(of(r#"{"position":7}"#), Some(CheckpointOf::Nobody));
        for row in ["", "7", r#"{"position":"7","last":1}"#] {
            assert_eq!(of(row), None, "{row}");
        }
    }
}
