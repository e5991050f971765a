//! What an instance becomes by its next input.

use es_core::BoxError;

use crate::definition::{Definition, RawStep};
use crate::instance::{Instance, Moment, ToSend};
use crate::process::{Elapsed, RefusedCommand, Rejected};
use crate::rows::{Input, Instead, Noted};
use crate::verb::Verb;

/// The definition that an instance began with.
pub(crate) fn definition_of<'d>(definitions: &'d [Definition], of: &Instance) -> Option<&'d Definition> {
    definitions.iter().find(|definition| definition.version() == of.version)
}

/// Takes the next input of an instance in.
///
/// # Errors
///
/// Its handler failed, or what it wants is over a limit: the instance is of no use then.
pub(crate) fn apply(
    definitions: &[Definition],
    instance: &mut Instance,
    noted: &Noted,
    step: Option<&RawStep<'_>>,
) -> Result<Vec<ToSend>, BoxError> {
    let version = instance.version;
    let definition = definition_of(definitions, instance)
        .ok_or_else(|| format!("this program has no version {version} of the process"))?;
    let moment = Moment { at: noted.at, head: noted.head };
    if let Some(instead) = &noted.instead {
        if let Instead::End(position) = instead {
            instance.ends = instance.ends.or(Some(*position));
        }
        instance.pass();
        return Ok(Vec::new());
    }
    let reply = match &noted.input {
        Input::Event { .. } if instance.is_running() => match step {
            // A start of one that is there already: it might have ended before that.
            Some(step) if step.starts && instance.taken > 0 => {
                instance.pass();
                return Ok(Vec::new());
            }
            Some(step) => step.call(instance.state.as_ref())?,
            None if matches!(noted.input, Input::Event { step: None, .. }) => {
                instance.pass();
                return Ok(Vec::new());
            }
            None => return Err("its event means nothing to this program any more".into()),
        },
        Input::Timer { name, input, ordinal } => {
            let Some(timer) = instance.timer(name, *input, *ordinal) else {
                instance.pass();
                return Ok(Vec::new());
            };
            let elapsed = Elapsed { name: name.clone(), data: timer.data.clone() };
            instance.timers.remove(name);
            let state = instance.state.as_ref().ok_or("it has no state yet")?;
            definition.elapsed(state, &elapsed)?
        }
        Input::Refused { command, why, .. } => {
            let refused = RefusedCommand { command: command.clone(), why: why.clone() };
            let state = instance.state.as_ref().ok_or("it has no state yet")?;
            definition.refused(state, &refused)?.ok_or_else(|| no_handler_takes(&refused))?
        }
        Input::Verb(verb) => {
            done(verb, instance, moment)?;
            instance.pass();
            return Ok(Vec::new());
        }
        Input::Event { .. } => {
            instance.pass();
            return Ok(Vec::new());
        }
    };
    instance.take(reply, moment)
}

fn no_handler_takes(refused: &RefusedCommand) -> String {
    let why = match &refused.why {
        Rejected::Domain(error) => error.text(),
        Rejected::Otherwise(why) | Rejected::Intercepted(why) => why,
    };
    let command = &refused.command.name;
    format!(
        "{command} was refused, and no `#[refused]` handler takes it: {why}; add one to the definition that the instance \
         has and retry, or skip the input"
    )
}

/// Does what an operator wants, where that is no call of a handler.
fn done(verb: &Verb, instance: &mut Instance, moment: Moment) -> Result<(), BoxError> {
    match verb {
        // An instance that has been ended meanwhile has no associations.
        Verb::Associate(association) if instance.is_running() => instance.associate(association.clone())?,
        Verb::Dissociate(association) => drop(instance.associations.remove(association)),
        // Where it ended in the place of an input, that has come before.
        Verb::End => instance.ends = instance.ends.or(Some(moment.head)),
        // What they do is done to the inputs before.
        Verb::Associate(_) | Verb::Retry | Verb::Skip { .. } | Verb::Fire { .. } => {}
    }
    Ok(())
}
