//! What an operator can have done to an instance.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::instance::Instance;
use crate::next::Association;

/// Bytes of who and why, each.
const MAX_TEXT: usize = 1_000;

/// What an operator can have done to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verb {
    /// It is parked: what waits for it is taken in, and its commands that failed are sent again, under the same keys.
    Retry,
    /// It is parked: the input that failed is left out, and what waits behind it is handled. Or the first of its commands that
    /// were not answered fails each time: it is given up, and that is a refusal
    /// ([`Rejected::Otherwise`](crate::Rejected::Otherwise)). It may have acted by then, if its answer was lost.
    Skip {
        /// The number of the input, or of the one that the command came from, so that nobody skips another one than was
        /// looked at.
        input: u64,
    },
    /// A timer fires now.
    Fire {
        /// Its name.
        timer: String,
    },
    /// It takes no more events and timers, and has ended when its commands are answered. If it is parked, this takes the
    /// place of the input that failed.
    End,
    /// Events with this find it, from now on.
    Associate(Association),
    /// Events with this do not find it any more.
    Dissociate(Association),
}

/// Who wanted it, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct By {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The request.
    pub request: Uuid,
}

impl By {
    pub(crate) const fn new(actor: String, reason: String, request: Uuid) -> Self {
        Self { actor, reason, request }
    }

    /// Why a command is not sent any more.
    pub(crate) fn given_up(&self) -> String {
        format!("given up by {}: {}", self.actor, self.reason)
    }

    /// Holds who and why to their limits.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub(crate) fn check(actor: &str, reason: &str) -> Result<(), String> {
        for (what, text) in [("actor", actor), ("reason", reason)] {
            if text.trim().is_empty() || text.len() > MAX_TEXT {
                return Err(format!(
                    "say the {what}: it must not be empty, and has at most {MAX_TEXT} bytes"
                ));
            }
        }
        Ok(())
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "done, or not")]
pub enum Answer {
    /// It is an input of the instance.
    Done {
        /// Its number.
        input: u64,
    },
    /// Nothing was changed.
    Refused {
        /// Why, and what to do.
        why: String,
    },
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry => f.write_str("retry"),
            Self::Skip { input } => write!(f, "skip input {input}"),
            Self::Fire { timer } => write!(f, "fire timer {timer:?}"),
            Self::End => f.write_str("end"),
            Self::Associate(Association { name, value }) => write!(f, "associate {name:?} with {value:?}"),
            Self::Dissociate(Association { name, value }) => write!(f, "dissociate {name:?} from {value:?}"),
        }
    }
}

impl Verb {
    /// Whether it can be done to an instance as it is. `held`: whether a command of it failed, and is not sent again by
    /// itself; `stuck`: which input a command came from that fails each time.
    ///
    /// # Errors
    ///
    /// Why it cannot, and what to do.
    pub(crate) fn fits(&self, of: &Instance, held: bool, stuck: Option<u64>) -> Result<(), String> {
        if of.ended {
            return Err("it has ended, and nothing can be done to it".to_owned());
        }
        let failed = of.parked.as_ref().filter(|parked| !parked.command).map(|_| of.taken + 1);
        match (self, failed) {
            (Self::Retry, _) if of.parked.is_none() && !held => {
                Err("it is not parked: there is nothing to retry; look at what it waits for".to_owned())
            }
            (Self::Skip { input }, Some(failed)) if *input == failed => Ok(()),
            (Self::Skip { input }, _) if stuck == Some(*input) => Ok(()),
            (Self::Skip { .. }, Some(failed)) => {
                Err(format!("the input that failed is {failed}: skip that one, if it is what you mean"))
            }
            (Self::Skip { .. }, None) if of.parked.is_some() => Err(
                "no input has failed, but a command: retry sends it again; to give it up, skip the input that it \
                 came from; one whose row cannot be read is to be repaired, and retried"
                    .to_owned(),
            ),
            (Self::Skip { .. }, None) => Err(match stuck {
                Some(input) => {
                    format!("a command from input {input} fails: skip that, if it is what you mean")
                }
                None => "it is not parked: there is nothing to skip".to_owned(),
            }),
            (Self::End, Some(failed)) if !of.is_running() => Err(format!(
                "it ends already, when input {failed} is taken in, which failed: retry or skip it"
            )),
            (Self::End, _) if !of.is_running() => {
                Err(format!("it ends already, when its {} open commands are answered", of.open))
            }
            (Self::Retry | Self::End, _) => Ok(()),
            (_, Some(failed)) => {
                Err(format!("it is parked: retry it, skip input {failed}, or end it, and then ask again"))
            }
            (_, None) if of.parked.is_some() && of.taken < of.noted => {
                Err("it is parked, for a command: retry it, or end it, and then ask again".to_owned())
            }
            (_, None) if !of.is_running() => {
                Err("it ends: it has no more timers and associations".to_owned())
            }
            (Self::Fire { timer }, None) => match of.timers.get(timer) {
                Some(set) if !set.fired => Ok(()),
                _ => {
                    let set: Vec<&str> =
                        of.timers.iter().filter(|(_, t)| !t.fired).map(|(n, _)| &**n).collect();
                    Err(format!("it has no timer {timer:?}; those that are set: {set:?}"))
                }
            },
            (Self::Associate(association), None) => {
                let mut with = of.clone();
                with.associate(association.clone())
                    .map_err(|e| format!("{e}: choose a shorter one, or dissociate another"))
            }
            (Self::Dissociate(association), None) if of.associations.contains(association) => Ok(()),
            (Self::Dissociate(_), None) => {
                let is: Vec<String> =
                    of.associations.iter().map(|a| format!("{}={}", a.name, a.value)).collect();
                Err(format!("it is not associated with that, but with {is:?}"))
            }
        }
    }
}
