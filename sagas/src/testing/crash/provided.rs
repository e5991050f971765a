//! What the steps of a saga need of the app of each node.

use es_core::{AppBuilder, Backend};

/// Values that each node is given: none, or these and one more.
pub trait Provided {
    /// Provides them.
    #[doc(hidden)]
    fn provide<B: Backend>(&self, app: AppBuilder<B>) -> AppBuilder<B>;
}

impl Provided for () {
    fn provide<B: Backend>(&self, app: AppBuilder<B>) -> AppBuilder<B> {
        app
    }
}

impl<P: Provided, V: Clone + Send + Sync + 'static> Provided for (P, V) {
    fn provide<B: Backend>(&self, app: AppBuilder<B>) -> AppBuilder<B> {
        let (others, value) = self;
        others.provide(app).provide(value.clone())
    }
}
