//! Which code a processor is: so that two programs on one store tell each other apart.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::event::{Event, Payload};
use crate::store::EventFilter;

/// The code of a processor, as far as a program can tell: the types of events that it handles, each with the newest shape
/// that it reads, the rule by which it finds the keys of its rows, and the text of its handlers.
///
/// The macros write it; what a handler calls is not part of it. Another number in [`and`](Self::and) makes it another code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    text: u64,
    handles: BTreeMap<String, u32>,
    keys: BTreeMap<String, u64>,
}

/// Stands for all types of events.
pub(crate) const ALL: &str = "*";

impl Code {
    /// Of handlers with this text, as a number.
    #[must_use]
    pub const fn new(text: u64) -> Self {
        Self { text, handles: BTreeMap::new(), keys: BTreeMap::new() }
    }

    /// Of what is written by hand: all that is known of it is what it wants to see.
    #[must_use]
    pub fn of(filter: &EventFilter) -> Self {
        let mut code = Self::default();
        for item in filter.items() {
            code.handles.extend(item.types().iter().map(|name| (name.to_string(), 0)));
            if item.types().is_empty() {
                code.handles.insert(ALL.to_owned(), 0);
            }
        }
        if filter.items().is_empty() {
            code.handles.insert(ALL.to_owned(), 0);
        }
        code
    }

    /// And it handles this payload.
    #[must_use]
    pub fn handling<P: Payload>(mut self) -> Self {
        for source in P::SOURCES {
            let known = P::Event::TYPES.iter().find(|known| known.name == *source);
            self.handles.insert((*source).to_owned(), known.map_or(0, |known| known.schema));
        }
        self
    }

    /// And it handles a type of event, up to this schema.
    #[must_use]
    pub fn with(mut self, name: &str, schema: u32) -> Self {
        self.handles.insert(name.to_owned(), schema);
        self
    }

    /// And this number stands for the rule by which it finds the keys of its rows. With another number, the rows that are there
    /// are under other keys than it looks for. Until it is said, the number is 0.
    #[must_use]
    pub fn keyed_by(mut self, rule: u64) -> Self {
        self.keys.insert(ALL.to_owned(), rule);
        self
    }

    /// The same for the keys of this payload alone.
    #[must_use]
    pub fn keyed<P: Payload>(mut self, rule: u64) -> Self {
        for source in P::SOURCES {
            // An event that was split has the keys of all its payloads.
            let known = self.keys.entry((*source).to_owned()).or_default();
            *known = known.wrapping_add(rule);
        }
        self
    }

    /// And a number that stands for code which its handlers call.
    #[must_use]
    pub fn and(self, number: u64) -> Self {
        Self { text: self.text.rotate_left(1) ^ number, ..self }
    }

    /// The types that it handles, each with the newest schema that it reads; 0 if that is not known.
    #[must_use]
    pub const fn handles(&self) -> &BTreeMap<String, u32> {
        &self.handles
    }

    /// The numbers of the rules by which it finds keys, by type of event, or of all types.
    pub(crate) const fn keys(&self) -> &BTreeMap<String, u64> {
        &self.keys
    }

    /// As it is stored.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut bytes = self.text.to_be_bytes().to_vec();
        for (name, schema) in &self.handles {
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(schema.to_be_bytes());
        }
        for (name, rule) in &self.keys {
            bytes.push(0);
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(rule.to_be_bytes());
        }
        format!("{:016x}", xxh3_64(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_shape_or_text_is_another_code() {
        let code = |text, schema| Code::new(text).with("a.b", schema);
        assert_eq!(code(1, 1).fingerprint(), code(1, 1).fingerprint());
        assert_ne!(code(1, 1).fingerprint(), code(1, 2).fingerprint());
        assert_ne!(code(1, 1).fingerprint(), code(2, 1).fingerprint());
        assert_ne!(code(1, 1).fingerprint(), code(1, 1).and(1).fingerprint());
        assert_ne!(code(1, 1).fingerprint(), code(1, 1).keyed_by(1).fingerprint());
        assert_eq!(Code::of(&EventFilter::all()).handles().keys().collect::<Vec<_>>(), [ALL]);
    }
}
