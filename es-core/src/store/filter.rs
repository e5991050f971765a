//! Which events a reader or a condition means.

use crate::event::{Event, Payload, Tag};
use crate::store::{Name, Position, RecordedEvent};

/// Events by type and tag. Items are alternatives; an empty filter matches everything.
///
/// The idea of querying by types and tags is that of the dynamic consistency boundary
/// (Sara Pellegrini, "Killing the aggregate"; <https://dcb.events>).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    items: Vec<FilterItem>,
}

/// One alternative: any of its types **and** all of its tags. Empty types mean any type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterItem {
    pub(crate) types: Vec<Name>,
    pub(crate) tags: Vec<Tag>,
}

impl EventFilter {
    /// Everything.
    #[must_use]
    pub const fn all() -> Self {
        Self { items: Vec::new() }
    }

    /// Events with one of these stored names.
    #[must_use]
    pub fn types(names: impl IntoIterator<Item = impl Into<Name>>) -> Self {
        FilterItem::new().with_types(names).into()
    }

    /// Events that can decode to the payload `P`, under any name it ever had. That includes the retired
    /// events of its enum, which may be split into it.
    #[must_use]
    pub fn of<P: Payload>() -> Self {
        Self::types(P::SOURCES.iter().copied())
    }

    /// Events of the enum `E`, under any name they ever had.
    #[must_use]
    pub fn of_enum<E: Event>() -> Self {
        Self::types(E::sources())
    }

    /// Or what the other matches.
    #[must_use]
    pub fn or(mut self, other: impl Into<Self>) -> Self {
        let other = other.into();
        // No alternatives means everything, and everything or something is everything.
        if self.items.is_empty() || other.items.is_empty() {
            return Self::all();
        }
        self.items.extend(other.items);
        self
    }

    /// And, for every alternative, this tag.
    #[must_use]
    pub fn tagged(mut self, tag: &Tag) -> Self {
        if self.items.is_empty() {
            self.items.push(FilterItem::new());
        }
        self.items.iter_mut().for_each(|item| item.tags.push(tag.clone()));
        self
    }

    /// The alternatives; none means everything.
    #[must_use]
    pub fn items(&self) -> &[FilterItem] {
        &self.items
    }

    /// Whether the filter means this event.
    #[must_use]
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        self.matches_parts(&event.name, &event.tags)
    }

    /// Whether the filter means an event with this name and these tags.
    #[must_use]
    pub fn matches_parts(&self, name: &str, tags: &[Tag]) -> bool {
        self.items.is_empty() || self.items.iter().any(|item| item.matches(name, tags))
    }
}

impl FilterItem {
    /// Matches everything until types and tags are added.
    #[must_use]
    pub const fn new() -> Self {
        Self { types: Vec::new(), tags: Vec::new() }
    }

    /// Adds types, any of which will do.
    #[must_use]
    pub fn with_types(mut self, names: impl IntoIterator<Item = impl Into<Name>>) -> Self {
        self.types.extend(names.into_iter().map(Into::into));
        self
    }

    /// Adds a tag, all of which must be there.
    #[must_use]
    pub fn with_tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }

    /// The types, any of which will do; none means any.
    #[must_use]
    pub fn types(&self) -> &[Name] {
        &self.types
    }

    /// The tags, all of which must be there.
    #[must_use]
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    fn matches(&self, name: &str, tags: &[Tag]) -> bool {
        (self.types.is_empty() || self.types.iter().any(|t| **t == *name))
            && self.tags.iter().all(|t| tags.contains(t))
    }
}

impl From<FilterItem> for EventFilter {
    fn from(item: FilterItem) -> Self {
        Self { items: vec![item] }
    }
}

/// A dynamic consistency boundary: nothing that matches may have been appended after `after`.
///
/// `after` is the [`Page::through`](crate::store::Page::through) of the read that the decision saw.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a condition is a filter and a position")]
pub struct AppendCondition {
    /// What the decision depends on.
    pub fail_if_events_match: EventFilter,
    /// The last position the decision has seen.
    pub after: Position,
}
