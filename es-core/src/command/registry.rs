//! The commands that can be sent by their stored names.

use std::any::{TypeId, type_name};
use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;

use super::named::{NamedCommand, NamedDone, SendError, send};
use super::sending::Options;
use super::{Bus, Command};
use crate::{Aggregate, limits};

/// How many names an error lists.
const LISTED: usize = 50;

/// The commands of an app that can be sent by their stored names; filled by [`Commands`](super::Commands) of each
/// aggregate that is registered, and by [`AppBuilder::command`](crate::AppBuilder::command).
#[derive(Debug, Default)]
pub struct Registry {
    /// By the stored names of the aggregate and of the command.
    commands: BTreeMap<(&'static str, &'static str), Registered>,
    twice: Vec<String>,
}

/// Sends a command whose type only its registration knew.
pub(crate) type Erased = for<'a> fn(
    &'a Bus,
    &'a NamedCommand,
    Option<Box<Options>>,
) -> BoxFuture<'a, Result<NamedDone, SendError>>;

#[derive(Clone, Copy, Debug)]
struct Registered {
    command: TypeId,
    type_name: &'static str,
    send: Erased,
}

impl Registry {
    /// Adds a command. The same one again is harmless; another one of the same aggregate under the same stored name is
    /// reported when the app starts.
    pub fn add<C: Command>(&mut self) {
        let (aggregate, name) = (C::Aggregate::NAME, C::NAME);
        let new = Registered { command: TypeId::of::<C>(), type_name: type_name::<C>(), send: send::<C> };
        let known = *self.commands.entry((aggregate, name)).or_insert(new);
        if known.command != new.command {
            let (one, other) = (known.type_name, new.type_name);
            self.twice.push(format!(
                "two commands of {aggregate} are stored as {name:?}, `{one}` and `{other}`: each needs its own name"
            ));
        }
    }

    /// A line for each stored name that two commands of one aggregate have.
    pub(crate) fn twice(&self) -> &[String] {
        &self.twice
    }

    /// How a command is sent.
    pub(crate) fn find(&self, command: &NamedCommand) -> Result<Erased, SendError> {
        let found = self.commands.get(&(&*command.aggregate, &*command.name));
        found.map(|registered| registered.send).ok_or_else(|| self.unknown(command))
    }

    /// Says what is known: the commands of the aggregate, or the aggregates.
    fn unknown(&self, command: &NamedCommand) -> SendError {
        let of_aggregate: Vec<&str> =
            self.commands.keys().filter(|(of, _)| *of == command.aggregate).map(|(_, name)| *name).collect();
        let (what, mut known) = if of_aggregate.is_empty() {
            let aggregates: BTreeSet<&str> = self.commands.keys().map(|(of, _)| *of).collect();
            ("aggregates with commands are", aggregates.into_iter().collect())
        } else {
            ("its commands are", of_aggregate)
        };
        let more = known.len().saturating_sub(LISTED);
        known.truncate(LISTED);
        let known = match (known.is_empty(), more) {
            (true, _) => "no command is registered".to_owned(),
            (false, 0) => format!("{what} {}", known.join(", ")),
            (false, more) => format!("{what} {} and {more} more", known.join(", ")),
        };
        let (aggregate, name) = (limits::cut(&command.aggregate), limits::cut(&command.name));
        SendError::UnknownCommand { aggregate, name, known }
    }
}
