//! What handlers receive by type.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::sync::Arc;

/// Values by type: one of each.
#[derive(Clone, Default)]
pub struct Services {
    values: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    twice: Vec<&'static str>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("n_values", &self.values.len()).finish_non_exhaustive()
    }
}

impl Services {
    /// Adds a value. A second one of the same type is a mistake that `start` reports.
    pub fn provide<T: Send + Sync + 'static>(&mut self, value: T) {
        if self.values.insert(TypeId::of::<T>(), Arc::new(value)).is_some() {
            self.twice.push(type_name::<T>());
        }
    }

    /// Adds a shared value, or puts it in the place of the one that is there.
    pub fn replace<T: Send + Sync + 'static>(&mut self, value: Arc<T>) {
        self.values.insert(TypeId::of::<T>(), value);
    }

    /// The value of this type.
    ///
    /// # Errors
    ///
    /// [`MissingService`] if nobody provided one.
    pub fn get<T: Send + Sync + 'static>(&self) -> Result<&T, MissingService> {
        let found = self.values.get(&TypeId::of::<T>()).and_then(|value| value.downcast_ref());
        found.ok_or_else(|| MissingService(type_name::<T>()))
    }

    /// The types that were provided more than once.
    pub(crate) fn twice(&self) -> &[&'static str] {
        &self.twice
    }
}

/// Nobody provided what a handler asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no `{0}` was provided: {advice}", advice = advice(.0))]
pub struct MissingService(
    /// The type that is missing.
    pub &'static str,
);

impl MissingService {
    /// Whether it is this type.
    pub(crate) fn is<T>(self) -> bool {
        self.0 == type_name::<T>()
    }
}

/// What to add for a type, by its path: some come with something else.
fn advice(type_name: &str) -> &'static str {
    match type_name.rsplit("::").next() {
        Some("Views") => "add `.view::<..>()` to the app",
        Some("Context") => "only a command has one",
        Some("Db") => "it comes with the backend that it belongs to: run the app on that one",
        _ => "add `.provide(..)` to the app",
    }
}

/// What one call can see: the services of the app, and a value of the call's own, such as the `Context` of a command.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'s> {
    services: &'s Services,
    own: Option<&'s (dyn Any + Send + Sync)>,
}

impl<'s> Scope<'s> {
    /// A call without a value of its own.
    #[must_use]
    pub const fn new(services: &'s Services) -> Self {
        Self { services, own: None }
    }

    /// A call with a value of its own, which goes before a service of the same type.
    #[must_use]
    pub const fn with(services: &'s Services, own: &'s (dyn Any + Send + Sync)) -> Self {
        Self { services, own: Some(own) }
    }

    fn get<T: Send + Sync + 'static>(&self) -> Result<&'s T, MissingService> {
        match self.own.and_then(|own| own.downcast_ref()) {
            Some(own) => Ok(own),
            None => self.services.get(),
        }
    }
}

/// What a handler may ask for beside its message: `()`, `&T`, and tuples of them.
///
/// A macro writes a tuple with one entry for each further parameter.
#[diagnostic::on_unimplemented(
    message = "a handler cannot ask for `{Self}`",
    label = "not a reference to a service",
    note = "further parameters are references to values given to `.provide(..)`, or `&Context` in a command"
)]
pub trait FromServices<'s>: Sized + Send {
    /// # Errors
    ///
    /// The first that is missing.
    fn from_services(scope: Scope<'s>) -> Result<Self, MissingService>;

    /// Every type that no service has, for the check at start.
    fn missing(services: &Services, missing: &mut Vec<MissingService>);
}

impl<'s> FromServices<'s> for () {
    fn from_services(_: Scope<'s>) -> Result<Self, MissingService> {
        Ok(())
    }

    fn missing(_: &Services, _: &mut Vec<MissingService>) {}
}

impl<'s, T: Send + Sync + 'static> FromServices<'s> for &'s T {
    fn from_services(scope: Scope<'s>) -> Result<Self, MissingService> {
        scope.get()
    }

    fn missing(services: &Services, missing: &mut Vec<MissingService>) {
        missing.extend(services.get::<T>().err());
    }
}

macro_rules! tuples { ($(($($t:ident)+))+) => { $(
    impl<'s, $($t: FromServices<'s>),+> FromServices<'s> for ($($t,)+) {
        fn from_services(scope: Scope<'s>) -> Result<Self, MissingService> {
            Ok(($($t::from_services(scope)?,)+))
        }

        fn missing(services: &Services, missing: &mut Vec<MissingService>) {
            $($t::missing(services, missing);)+
        }
    }
)+ } }
tuples! { (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H) }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_calls_own_goes_before_a_service_and_is_none() {
        let mut services = Services::default();
        services.provide(1_u8);
        assert_eq!(Scope::new(&services).get::<u8>(), Ok(&1));
        assert_eq!(Scope::with(&services, &2_u8).get::<u8>(), Ok(&2));
        assert_eq!(Scope::with(&services, &2_u16).get::<u8>(), Ok(&1));
        let mut missing = Vec::new();
        <(&u8, &u16)>::missing(&services, &mut missing);
        assert!(missing.len() == 1 && missing[0].is::<u16>(), "{missing:?}");
    }
}
