//! What an app knows of its handlers of queries.

use std::any::TypeId;
use std::collections::HashMap;

use crate::projection::{Projection, tables_of};
use crate::query::{Answers, Gathering};

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
