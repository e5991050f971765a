//! Where a message stands among those of its lane. Pure.

use super::rows::Mark;
use crate::message::Sequence;

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is next.
    Next,
    /// It came before.
    Before,
    /// Another one came under its sequence.
    Other,
    /// What was sent before it has not come.
    Behind(Gap),
}

/// Messages of a lane that have not come: those behind one sequence, up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Of the last message that came; `None`: none did.
    pub after: Option<Sequence>,
    /// Of the last one that is missing.
    pub up_to: Sequence,
}

/// Where a message stands, by its sequence and the one that was sent before it. `starts_anywhere`: of a lane that is new, what
/// was sent before the first message that comes is not missed.
pub(super) fn place(
    mark: Option<&Mark>,
    id: &str,
    sequence: Sequence,
    previous: Option<Sequence>,
    starts_anywhere: bool,
) -> Place {
    match (mark, previous) {
        (Some(mark), _) if sequence == mark.sequence && id != mark.id => Place::Other,
        (Some(mark), _) if sequence <= mark.sequence => Place::Before,
        (Some(mark), Some(up_to)) if up_to > mark.sequence => {
            Place::Behind(Gap { after: Some(mark.sequence), up_to })
        }
        (None, Some(up_to)) if !starts_anywhere => Place::Behind(Gap { after: None, up_to }),
        // One that names a sequence before the mark, or none: its sender sent nothing in between.
        _ => Place::Next,
    }
}

#[cfg(test)]
mod tests {
    use es_core::Timestamp;

    use super::super::lane::Lane;
    use super::*;

    #[test]
    fn a_message_is_next_or_came_before_or_misses_some() {
        let at = |n: u64| n.to_string().parse::<Sequence>().unwrap();
        let mark = Mark {
            lane: Lane::of_key("s", "r", "k"),
            sequence: at(5),
            id: "five".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            kept: 0,
        };
        let place = |mark, id, sequence, previous: Option<u64>, anywhere| {
            place(mark, id, at(sequence), previous.map(at), anywhere)
        };
        let behind =
            |after: Option<u64>, up_to| Place::Behind(Gap { after: after.map(at), up_to: at(up_to) });
        let known = |id, sequence, previous| place(Some(&mark), id, sequence, previous, false);
        assert_eq!(known("six", 6, Some(5)), Place::Next);
        assert_eq!(known("six", 6, Some(3)), Place::Next, "what it names came, and more");
        assert_eq!(known("six", 6, None), Place::Next, "nothing was sent before it");
        assert_eq!(known("five", 5, Some(3)), Place::Before);
        assert_eq!(known("other", 5, Some(3)), Place::Other);
        assert_eq!(known("four", 4, None), Place::Before);
        assert_eq!(known("nine", 9, Some(7)), behind(Some(5), 7));
        assert_eq!(place(None, "a", 9, None, false), Place::Next);
        assert_eq!(place(None, "a", 9, Some(7), false), behind(None, 7));
        assert_eq!(place(None, "a", 9, Some(7), true), Place::Next);
        assert_eq!(place(Some(&mark), "a", 9, Some(7), true), behind(Some(5), 7), "a hole is a hole");
    }
}
