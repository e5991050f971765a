//! A process without the macro: what only one written by hand can do.

use es_core::prelude::*;
use es_core::projection::nth;
use es_core::store::EventFilter;
use es_core::{AppBuilder, Backend, BoxError};
use sagas::{Association, Definition, Elapsed, Next, On, OnTimer, Process, Sends, Step, To};
use serde::{Deserialize, Serialize};

use super::play::{Began, Bell, Called, Enter, Gong, Memory, Went};

/// Of a version. If it `FAILS`, its first version cannot say for whom an event is that is called for a `hard` value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ByHand<const VERSION: u32, const FAILS: bool>(Memory);

fn found<K>(value: &str) -> To<K> {
    To::Found(Association::new("name", value))
}

impl<const VERSION: u32, const FAILS: bool> Process for ByHand<VERSION, FAILS> {
    const NAME: &'static str = "by_hand";
    const VERSION: u32 = VERSION;
    const BY_KEY: bool = false;
    type Key = String;

    fn filter() -> EventFilter {
        EventFilter::types([Began::SOURCES, Called::SOURCES, Went::SOURCES].concat())
    }

    fn earlier() -> Vec<Definition> {
        if VERSION == 2 { vec![Definition::of::<ByHand<1, FAILS>>()] } else { Vec::new() }
    }

    fn wire<B: Backend>(app: AppBuilder<B>) -> AppBuilder<B> {
        app.command::<Enter>()
    }

    fn steps(event: &RecordedEvent) -> Result<Vec<Step<'_, Self>>, BoxError> {
        let (mut steps, mut more) = (Vec::new(), false);
        if let Some(began) = nth::<Began>(event, 0, &mut more)? {
            // Its rivals hear of it first.
            let rival = |process: &mut Self| Ok(process.0.take("a rival", &[])?);
            steps.push(Step::new(found(&format!("rival of {}", began.key)), false, rival));
            Step::of(began, event, &mut steps)?;
        }
        if let Some(called) = nth::<Called>(event, 0, &mut more)? {
            Step::of(called, event, &mut steps)?;
        }
        if let Some(went) = nth::<Went>(event, 0, &mut more)? {
            Step::of(went, event, &mut steps)?;
        }
        Ok(steps)
    }

    fn elapsed(&mut self, timer: &Elapsed) -> Result<Option<Next<Self>>, BoxError> {
        let bell = timer.hand_to::<Self, Bell>(self)?;
        if bell.is_some() { Ok(bell) } else { timer.hand_to::<Self, Gong>(self) }
    }
}

impl<const VERSION: u32, const FAILS: bool> Sends<Enter> for ByHand<VERSION, FAILS> {}

impl<const VERSION: u32, const FAILS: bool> OnTimer<Bell> for ByHand<VERSION, FAILS> {
    fn on(&mut self, timer: Bell) -> Result<Next<Self>, BoxError> {
        Ok(self.0.take("bell", &timer.acts)?)
    }
}

impl<const VERSION: u32, const FAILS: bool> OnTimer<Gong> for ByHand<VERSION, FAILS> {
    fn on(&mut self, timer: Gong) -> Result<Next<Self>, BoxError> {
        Ok(self.0.take("gong", &timer.acts)?)
    }
}

impl<const VERSION: u32, const FAILS: bool> On<Began> for ByHand<VERSION, FAILS> {
    const STARTS: bool = true;

    fn to(event: Recorded<'_, Began>) -> Result<Vec<To<String>>, BoxError> {
        Ok(vec![To::Key(event.key.clone())])
    }

    fn on(&mut self, event: Recorded<'_, Began>) -> Result<Next<Self>, BoxError> {
        Ok(self.0.take(&event.label, &event.acts)?)
    }
}

/// For the instance whose key the value is, and for those that are associated with it.
impl<const VERSION: u32, const FAILS: bool> On<Called> for ByHand<VERSION, FAILS> {
    fn to(event: Recorded<'_, Called>) -> Result<Vec<To<String>>, BoxError> {
        if FAILS && VERSION == 1 && event.value.starts_with("hard") {
            return Err("it is too hard".into());
        }
        Ok(vec![To::Key(event.value.clone()), found(&event.value)])
    }

    fn on(&mut self, event: Recorded<'_, Called>) -> Result<Next<Self>, BoxError> {
        Ok(self.0.take(&event.label, &event.acts)?)
    }
}

/// For all that are associated with one of the keys.
impl<const VERSION: u32, const FAILS: bool> On<Went> for ByHand<VERSION, FAILS> {
    fn to(event: Recorded<'_, Went>) -> Result<Vec<To<String>>, BoxError> {
        Ok(event.keys.iter().map(|key| found(key)).collect())
    }

    fn on(&mut self, event: Recorded<'_, Went>) -> Result<Next<Self>, BoxError> {
        Ok(self.0.take(&event.label, &event.acts)?)
    }
}
