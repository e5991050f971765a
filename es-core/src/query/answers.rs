//! Whether a projection answers queries.

use std::marker::PhantomData;

use super::{Gathering, Queries};
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
