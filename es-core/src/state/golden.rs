//! Stored formats: what earlier versions wrote is read, and what is written now is what is pinned.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Afresh, Asked, Checkpoint, CodeRecord, Control, Generations, NodeRecord, ParkedEvent, Request, Sequence,
    ShareRecord, Skipped, Undecoded, Versions,
};

/// Reads a row and writes it again: the same fields with the same values.
fn pinned<T: Serialize + DeserializeOwned>(file: &str, golden: &str) -> T {
    let read: T = serde_json::from_str(golden).unwrap_or_else(|e| panic!("{file}: {e}"));
    let stored: Value = serde_json::from_str(golden).expect("a golden file is JSON");
    assert_eq!(serde_json::to_value(&read).expect("it serializes"), stored, "{file}");
    read
}

macro_rules! golden {
    ($($test:ident: $of:ty = [$($file:literal),+ $(,)?];)+) => { $(
        #[test]
        fn $test() {
            $(pinned::<$of>($file, include_str!(concat!("../../tests/golden/", $file, ".json")));)+
        }
    )+ };
}

golden! {
    shares: ShareRecord<Checkpoint> = [
        "checkpoint", "checkpoint-owned", "checkpoint-split", "checkpoint-merged", "checkpoint-rebuilding",
        "checkpoint-halted", "checkpoint-ahead",
    ];
    nodes: NodeRecord = ["node", "node-whole", "node-codes"];
    codes: CodeRecord = ["code", "code-incomplete", "code-whole", "code-renamed", "code-keyed"];
    versions: Versions = ["versions"];
    builds: Generations = [
        "generations", "generations-building", "generations-previous", "generations-frozen",
        "generations-frozen-by", "generations-held", "generations-retired", "generations-by-itself",
        "generations-previous-goes", "generations-set-back", "generations-retiring",
    ];
    sequences: Sequence = ["parked"];
    events_of_sequences: ParkedEvent = ["parked-event", "parked-event-undecoded"];
    requests: Request = ["request-retry", "request-discard"];
    what_was_left_out: Skipped = ["skipped", "skipped-by-choice", "skipped-undecoded"];
    what_was_not_decoded: Undecoded = ["undecoded", "undecoded-untold"];
    rows_to_rebuild: Afresh = ["afresh", "afresh-failed", "afresh-without"];
    counts_of_requests: Asked = ["asked"];
    controls: Control = ["control"];
    inline_sets: std::collections::BTreeSet<String> = ["inline-set"];
    inline_turns: bool = ["inline-turn"];
}

/// What a field that an earlier version did not have stands for.
#[test]
fn what_is_missing_has_its_meaning_of_before() {
    let share: ShareRecord<Checkpoint> =
        pinned("checkpoint", include_str!("../../tests/golden/checkpoint.json"));
    assert_eq!((share.progress.halt, share.owner, share.last), (None, None, Some(1_023)));
    let frozen: Generations =
        pinned("generations-frozen", include_str!("../../tests/golden/generations-frozen.json"));
    assert_eq!(
        (frozen.freeze.until, frozen.freeze.by, frozen.retired),
        (Some(1_767_225_616_000_000), None, false)
    );
    let code: CodeRecord = pinned("code", include_str!("../../tests/golden/code.json"));
    assert_eq!(code.keys, None, "its key rule is not known, which is no change");
    let node: NodeRecord = pinned("node", include_str!("../../tests/golden/node.json"));
    assert!(node.whole.is_empty() && node.codes.is_empty() && node.stands_by.is_empty());
}
