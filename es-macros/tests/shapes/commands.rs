use crate::pet::{Feed, No, Pet, PetEvent, Rename, Renamed, Vet};
use es_core::prelude::*;
use es_core::{Handle, Target};
use serde::{Deserialize, Serialize};

macro_rules! commands { ($($name:ident)*) => { $(
    #[derive(Clone, Serialize, Deserialize)]
    struct $name {}
)* } }
commands! { Adopt Wash Walk Groom Sleep Gone }

mod other {
    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    pub struct Rename {}
}

type Outcome = Result<(), No>;

#[commands(crate = ::es_core)]
impl Pet {
    /// Creates.
    pub fn adopt(_: Adopt) -> Result<(Renamed, Renamed), No> {
        Ok((Renamed {}, Renamed {}))
    }

    #[create_if_missing]
    fn rename(&self, _: Rename) -> Result<Option<Renamed>, No> {
        Ok(None)
    }

    #[command(name = "rename_2")]
    fn rename_otherwise(&self, other::Rename {}: other::Rename, _vet: &Vet) -> Result<PetEvent, No> {
        Ok(Renamed {}.into())
    }

    async fn feed(&self, _: Feed, _: &Vet, ctx: &Context) -> Result<Vec<Renamed>, Failure<No>> {
        match ctx.version() {
            Version(0) => Err(Failure::service("no food")),
            _ => Err(No.into()),
        }
    }

    pub(crate) async fn wash(&self, _: Wash) -> Result<[PetEvent; 1], No> {
        std::future::ready(Ok([Renamed {}.into()])).await
    }

    fn walk(&self, _: Walk) -> Outcome {
        Ok(())
    }

    fn groom(&self, _: Groom, _: &Self) -> std::result::Result<<Pet as Aggregate>::Event, No> {
        Err(No)
    }

    #[rustfmt::skip]
    fn sleep(&self, _: Sleep) -> Result<(), Failure<No>> { Ok(()) }

    #[cfg(any())]
    fn gone(&self, _: Gone) -> Result<Never, No> {
        Ok(Never)
    }
}

fn target<C: Command>() -> (&'static str, Target) {
    (C::NAME, <C::Aggregate as Handle<C>>::TARGET)
}

#[test]
fn it_is_what_it_says() {
    assert_eq!(target::<Adopt>(), ("adopt", Target::New));
    assert_eq!(target::<Rename>(), ("rename", Target::Either));
    assert_eq!(target::<other::Rename>(), ("rename_2", Target::Existing));
    assert_eq!(target::<Feed>(), ("feed", Target::Existing));
    assert_eq!(target::<Groom>(), ("groom", Target::Existing));
}
