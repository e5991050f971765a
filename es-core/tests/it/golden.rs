//! What older versions stored is read: see `tests/golden/README.md`.

use es_core::processor::Skipped;
use es_core::store::NewEvent;
use es_core::store::envelope::{self, Envelope};
use serde::Deserialize;

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../golden/", $name))
    };
}

#[derive(Deserialize)]
struct Stored {
    position: u64,
    name: String,
    envelope: String,
    data: String,
}

impl Stored {
    fn bytes(&self) -> Vec<u8> {
        let pairs = self.envelope.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }
}

#[test]
fn an_envelope_is_read_and_written_as_it_was() {
    let stored: Vec<Stored> = serde_json::from_str(golden!("envelopes.json")).unwrap();
    let mut found = Vec::new();
    for event in &stored {
        let Envelope { id, metadata, tags } = envelope::unpack(&event.bytes()).unwrap();
        assert!(id.get_version_num() == 7 && metadata.correlation.is_some());
        let texts: Vec<String> = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
        found.push((event.position, metadata.actor.clone(), metadata.tenant.clone(), texts));
        let again = NewEvent {
            id,
            name: event.name.clone().into(),
            schema: 1,
            codec: "json".into(),
            data: event.data.clone().into(),
            tags,
            metadata: metadata.into(),
        };
        let mut bytes = Vec::new();
        envelope::pack(&again, &mut bytes);
        assert_eq!(bytes, event.bytes());
    }
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        (1, None, None, vec!["owner:ada".to_owned()]),
        (2, text("teller 7"), None, Vec::new()),
        (20, None, text("north"), Vec::new()),
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_was_left_out_for_good_is_read_and_written_as_it_was() {
    for (stored, position, key) in
        [(golden!("skipped.json"), 10, "carol"), (golden!("skipped-by-choice.json"), 7, "bob")]
    {
        let skipped: Skipped = serde_json::from_str(stored).unwrap();
        assert_eq!((skipped.position.0, &*skipped.key), (position, key));
        assert_eq!(serde_json::to_string(&skipped).unwrap(), stored);
    }
}
