//! Who is called: whether a destination is called at all, as this node has found out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use es_core::Backend;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::drive::Desk;
use super::protocol::{Acts, Answer, Call, OwnFault};
use crate::breaker::{Breaker, Closed, LONGEST, Pass};

/// The shortest time after which a call that was held is tried again.
const SOONEST: Duration = Duration::from_millis(100);
/// The same while a call finds out: it may hang for as long as its step allows.
const BESIDE: Duration = Duration::from_secs(1);

/// The destinations of a node, by name. A service of the app: its sagas have them in common.
#[derive(Debug, Default)]
pub(crate) struct Destinations(Mutex<HashMap<String, Arc<Breaker>>>);

impl Destinations {
    fn of(&self, name: &str) -> Arc<Breaker> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(name) {
            Some(breaker) => breaker.clone(),
            None => all.entry(name.to_owned()).or_default().clone(),
        }
    }
}

/// A call that is made.
pub(super) struct Open {
    pub(super) call: Call,
    pub(super) pass: Option<Pass>,
}

/// Calls that are not.
pub(super) struct Held {
    /// Of which steps.
    pub(super) steps: Vec<String>,
    /// When the first of them is tried again.
    pub(super) waits: Duration,
}

/// Which calls of a run are made, and which wait for their destinations. `kept`: calls that may be made already.
pub(super) fn sort<B: Backend, P: Acts<B>>(
    desk: &Desk<B, P>,
    run: Uuid,
    calls: Vec<Call>,
    mut kept: Vec<Open>,
) -> (Vec<Open>, Option<Held>) {
    let all = desk.node.services.get::<Destinations>().ok();
    let (mut open, mut held) = (Vec::new(), None::<Held>);
    for call in calls {
        if let Some(n) = kept.iter().position(|kept| kept.call == call) {
            open.push(kept.swap_remove(n));
            continue;
        }
        let named = all.zip(desk.protocol.destination(call));
        let Some((all, (step, name))) = named else {
            open.push(Open { call, pass: None });
            continue;
        };
        let breaker = all.of(name);
        match breaker.pass() {
            Ok(pass) => open.push(Open { call, pass: Some(pass) }),
            Err(closed) => {
                let waits = waits(&breaker, closed, run);
                let held = held.get_or_insert(Held { steps: Vec::new(), waits });
                held.steps.push(step.to_owned());
                held.waits = held.waits.min(waits);
            }
        }
    }
    (open, held)
}

/// What an answer says of whoever was called. `rests`: for how long it is left alone that was tried so often.
pub(super) fn learn(pass: Pass, answer: &Answer, rests: impl FnOnce(u32) -> Duration) {
    match answer {
        Answer::Failed(error) if error.is::<OwnFault>() => drop(pass),
        Answer::Failed(_) => pass.failed_again(rests),
        _ => pass.answered(),
    }
}

/// How long one waits: a part of the last pause longer than it has to, another one for each run and each time. So they do not
/// all come at once, and it is not always the same one that finds out. While a call finds out that hangs, each looks ever less
/// often: a look costs a load and a commit.
fn waits(breaker: &Breaker, closed: Closed, run: Uuid) -> Duration {
    let left = match closed {
        Closed::Rests(left) => left,
        Closed::IsProbed(so_far) => so_far.clamp(BESIDE, LONGEST),
    };
    let (failures, rested) = breaker.failures();
    #[expect(clippy::cast_precision_loss, reason = "a part between 0 and 1")]
    let part = (xxh3_64(format!("{run}/{failures}").as_bytes()) >> 32) as f64 / f64::from(u32::MAX);
    (left + rested.mul_f64(part.min(1.0))).max(SOONEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn while_a_call_hangs_that_finds_out_the_others_look_ever_less_often() {
        let breaker = Arc::<Breaker>::default();
        for _ in 0..3 {
            breaker.pass().expect("it is called").failed(None);
        }
        let hangs = breaker.pass().expect("one finds out");
        let mut looks = Vec::new();
        while let Err(closed @ Closed::IsProbed(so_far)) = breaker.pass()
            && so_far < Duration::from_secs(30)
        {
            looks.push(so_far.as_secs());
            tokio::time::advance(waits(&breaker, closed, Uuid::nil())).await;
        }
        assert_eq!(looks, [0, 1, 2, 4, 8, 16]);
        drop(hangs);
    }
}
