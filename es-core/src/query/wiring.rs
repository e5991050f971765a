//! What an app knows of its handlers of queries.

use std::any::TypeId;
use std::collections::HashMap;
use std::marker::PhantomData;

use super::{Gathering, Queries};
use crate::projection::{Projection, tables_of};
use crate::services::Services;

/// Whether a projection answers queries as well: [`Project::ANSWERS`](crate::Project::ANSWERS).
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    pub(crate) missing: fn(&Services) -> Vec<String>,
    pub(crate) gather: fn(&mut Gathering),
}

impl Answers {
    /// It answers nothing.
    pub const NONE: Self = Self { missing: |_| Vec::new(), gather: |_| {} };

    /// It answers what `H` answers.
    #[must_use]
    pub const fn of<H: Queries>() -> Self {
        Self { missing: H::missing, gather: H::gather }
    }
}

/// `Answering::<P>::ANSWERS`, where `P` is named and [`AnswersNothing`] is in scope, is what `P` answers, if it does: its
/// own constant comes before that of a trait. So `#[projection]` need not see the `#[queries]` block.
#[doc(hidden)]
#[derive(Debug)]
pub struct Answering<P>(PhantomData<P>);

impl<P: Queries> Answering<P> {
    #[doc(hidden)]
    pub const ANSWERS: Answers = Answers::of::<P>();
}

#[doc(hidden)]
pub trait AnswersNothing {
    #[doc(hidden)]
    const ANSWERS: Answers = Answers::NONE;
}

impl<P> AnswersNothing for Answering<P> {}

/// What an app knows of its handlers of queries, beside the handlers themselves.
#[derive(Debug, Default)]
pub(crate) struct Wiring {
    pub(crate) gathering: Gathering,
    /// The stored names of projections, by the type that may answer queries about them.
    projections: HashMap<TypeId, String>,
}

impl Wiring {
    pub(crate) fn projection<P: Projection>(&mut self, answers: Answers) {
        self.projections.insert(TypeId::of::<P>(), tables_of::<P>().stored_name());
        (answers.gather)(&mut self.gathering);
    }

    /// The stored name of the projection that a handler is, if it is one.
    pub(crate) fn projection_of<H: 'static>(&self) -> Option<&str> {
        self.projections.get(&TypeId::of::<H>()).map(String::as_str)
    }
}
