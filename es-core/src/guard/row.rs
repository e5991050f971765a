//! A guard row, and what it means for whoever finds it: pure, so that the table can be read in one sitting.

use uuid::Uuid;

use super::GuardError;
use crate::store::StoreError;

/// What a guard row stands for, and what came of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "five states, each of which every operation has an answer for")]
pub enum Standing {
    /// It was begun.
    Intent,
    /// It has run, and this is its output, as JSON.
    Done(String),
    /// The same, and it was confirmed.
    Confirmed(String),
    /// It has run, or may have, and was undone.
    Undone,
    /// It never runs: it has refused, with this reason, or whoever undoes it was faster.
    Tomb(Option<String>),
}

impl Standing {
    /// As a database keeps it: the name of the state, and what came of it as JSON, which is never null.
    #[must_use]
    pub fn stored(&self) -> (&'static str, String) {
        match self {
            Self::Intent => ("intent", NOTHING.to_owned()),
            Self::Done(output) => ("done", output.clone()),
            Self::Confirmed(output) => ("confirmed", output.clone()),
            Self::Undone => ("undone", NOTHING.to_owned()),
            Self::Tomb(None) => ("tomb", NOTHING.to_owned()),
            Self::Tomb(Some(why)) => ("tomb", serde_json::Value::from(why.as_str()).to_string()),
        }
    }

    /// What a database has kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if that is none of the five.
    pub fn read(state: &str, result: String) -> Result<Self, StoreError> {
        let corrupt = |what: String| StoreError::Corrupt { what };
        Ok(match state {
            "intent" => Self::Intent,
            "done" => Self::Done(result),
            "confirmed" => Self::Confirmed(result),
            "undone" => Self::Undone,
            "tomb" => Self::Tomb(
                serde_json::from_str(&result)
                    .map_err(|error| corrupt(format!("the reason of a guard row cannot be read: {error}")))?,
            ),
            other => return Err(corrupt(format!("a guard row is in the state {other:?}, which is none"))),
        })
    }
}

/// What came of nothing.
const NOTHING: &str = "null";

/// A guard row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a row of two columns and what came of it")]
pub struct GuardRow {
    /// What the call was made with, as a hash.
    pub fingerprint: u128,
    /// Where it stands.
    pub standing: Standing,
}

/// What whoever has tried to insert a guard row finds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "it was the first, or not")]
pub enum Found {
    /// None: its own stands there now. With the floor, as it was read after that.
    Inserted(Uuid),
    /// This one.
    Standing(GuardRow),
}

/// What is to be done for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "it runs, or has an answer")]
pub enum Forward {
    /// It runs.
    Run,
    /// It has run: this is its output.
    Done(String),
    /// It has refused, for good.
    Refused(String),
}

/// A call, which has tried to insert `intent`.
///
/// # Errors
///
/// [`GuardError`] if it neither runs nor has an answer.
pub fn forward(run: Uuid, fingerprint: u128, found: Found) -> Result<Forward, GuardError> {
    let row = match found {
        Found::Inserted(floor) => return expired(run, floor).map(|()| Forward::Run),
        Found::Standing(row) => row,
    };
    match row.standing {
        // Left by an undo, which knows nothing of what the call was made with.
        Standing::Tomb(None) | Standing::Undone => Err(GuardError::Hanging),
        _ if row.fingerprint != fingerprint => Err(GuardError::OtherInput),
        Standing::Intent => Err(GuardError::InProgress),
        Standing::Done(output) | Standing::Confirmed(output) => Ok(Forward::Done(output)),
        Standing::Tomb(Some(why)) => Ok(Forward::Refused(why)),
    }
}

/// What is to be done for an undo.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is something to undo, or not")]
pub enum Undo {
    /// There is nothing to undo.
    Nothing,
    /// It is undone: it has run with this output, or may have.
    Run(Option<String>),
}

/// An undo, which has tried to insert `tomb`. `known`: whether whoever asks has heard that it has run.
///
/// # Errors
///
/// [`GuardError`] if it must not be undone, or cannot be here.
pub fn undo(run: Uuid, known: bool, found: Found) -> Result<Undo, GuardError> {
    let row = match found {
        Found::Inserted(floor) => {
            expired(run, floor)?;
            return if known { Err(GuardError::NoTrace) } else { Ok(Undo::Nothing) };
        }
        Found::Standing(row) => row,
    };
    match row.standing {
        Standing::Done(output) => Ok(Undo::Run(Some(output))),
        Standing::Intent => Ok(Undo::Run(None)),
        Standing::Tomb(_) if known => Err(GuardError::NoTrace),
        Standing::Tomb(_) | Standing::Undone => Ok(Undo::Nothing),
        Standing::Confirmed(_) => Err(GuardError::Confirmed),
    }
}

/// What is to be done for a confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "it is confirmed now, or was before")]
pub enum Confirm {
    /// It is confirmed.
    Run(String),
    /// It was confirmed before.
    Nothing,
}

/// A confirmation, which inserts nothing. `found`: the row, or the floor, as it was read once there was none.
///
/// # Errors
///
/// [`GuardError`] if there is nothing to confirm.
pub fn confirm(run: Uuid, found: Result<GuardRow, Uuid>) -> Result<Confirm, GuardError> {
    match found.map(|row| row.standing) {
        Ok(Standing::Done(output)) => Ok(Confirm::Run(output)),
        Ok(Standing::Confirmed(_)) => Ok(Confirm::Nothing),
        Ok(Standing::Intent) => Err(GuardError::InProgress),
        Ok(Standing::Undone | Standing::Tomb(_)) => Err(GuardError::Hanging),
        Err(floor) => expired(run, floor).and(Err(GuardError::NoTrace)),
    }
}

/// Whether a call has run, or ever will.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "yes or no, each for good")]
pub enum Outcome {
    /// It has run.
    Ran,
    /// It has not, was undone, or never will; with the reason, if it has refused.
    Never(Option<String>),
}

/// A question for what became of a call, which has tried to insert `tomb`.
///
/// # Errors
///
/// [`GuardError`] if nobody can know.
pub fn outcome(run: Uuid, found: Found) -> Result<Outcome, GuardError> {
    match found {
        Found::Inserted(floor) => expired(run, floor).map(|()| Outcome::Never(None)),
        Found::Standing(row) => match row.standing {
            Standing::Done(_) | Standing::Confirmed(_) => Ok(Outcome::Ran),
            Standing::Undone => Ok(Outcome::Never(None)),
            Standing::Tomb(why) => Ok(Outcome::Never(why)),
            Standing::Intent => Err(GuardError::InProgress),
        },
    }
}

/// What stood below the floor may have been forgotten.
fn expired(run: Uuid, floor: Uuid) -> Result<(), GuardError> {
    if run < floor { Err(GuardError::Expired) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Uuid = Uuid::from_u128(5 << 80);
    const LATER: Uuid = Uuid::from_u128(6 << 80);
    const WITH: u128 = 7;

    fn all() -> [Standing; 6] {
        let output = || "[1]".to_owned();
        let refused = Standing::Tomb(Some("no".to_owned()));
        let [done, confirmed] = [Standing::Done(output()), Standing::Confirmed(output())];
        [Standing::Intent, done, confirmed, Standing::Undone, Standing::Tomb(None), refused]
    }

    fn each<T>(of: impl Fn(Found) -> T) -> Vec<T> {
        let first = of(Found::Inserted(RUN));
        let row = |standing| Found::Standing(GuardRow { fingerprint: WITH, standing });
        std::iter::once(first).chain(all().into_iter().map(|standing| of(row(standing)))).collect()
    }

    #[test]
    fn a_call_runs_once_and_never_after_its_undo() {
        let done = || Ok(Forward::Done("[1]".to_owned()));
        let (hanging, refused) = (Err(GuardError::Hanging), Ok(Forward::Refused("no".to_owned())));
        let expected = [
            Ok(Forward::Run),
            Err(GuardError::InProgress),
            done(),
            done(),
            hanging.clone(),
            hanging,
            refused,
        ];
        assert_eq!(each(|found| forward(RUN, WITH, found)), expected);
        assert_eq!(forward(RUN, WITH, Found::Inserted(LATER)), Err(GuardError::Expired));
    }

    #[test]
    fn a_call_with_another_input_gets_no_answer() {
        for (standing, answer) in
            all().into_iter().zip(each(|found| forward(RUN, WITH + 1, found)).split_off(1))
        {
            let is_by_undo = matches!(standing, Standing::Undone | Standing::Tomb(None));
            let expected = if is_by_undo { GuardError::Hanging } else { GuardError::OtherInput };
            assert_eq!(answer, Err(expected), "{standing:?}");
        }
    }

    #[test]
    fn an_undo_undoes_what_has_run_once_and_bars_what_has_not() {
        let run = |output: Option<&str>| Ok(Undo::Run(output.map(str::to_owned)));
        let (nothing, confirmed) = (|| Ok(Undo::Nothing), || Err(GuardError::Confirmed));
        let expected = [nothing(), run(None), run(Some("[1]")), confirmed(), nothing(), nothing(), nothing()];
        assert_eq!(each(|found| undo(RUN, false, found)), expected);
        // Of what the journal has heard, the database has a trace.
        let lost = || Err(GuardError::NoTrace);
        let expected = [lost(), run(None), run(Some("[1]")), confirmed(), nothing(), lost(), lost()];
        assert_eq!(each(|found| undo(RUN, true, found)), expected);
        assert_eq!(undo(RUN, false, Found::Inserted(LATER)), Err(GuardError::Expired));
    }

    #[test]
    fn whether_it_ran_is_answered_for_good() {
        let (ran, never) = (Ok(Outcome::Ran), Ok(Outcome::Never(None)));
        let (busy, refused) = (Err(GuardError::InProgress), Ok(Outcome::Never(Some("no".to_owned()))));
        let expected = [never.clone(), busy, ran.clone(), ran, never.clone(), never, refused];
        assert_eq!(each(|found| outcome(RUN, found)), expected);
        assert_eq!(outcome(RUN, Found::Inserted(LATER)), Err(GuardError::Expired));
    }

    #[test]
    fn what_has_run_is_confirmed_once() {
        let row = |standing| Ok(GuardRow { fingerprint: WITH, standing });
        let answers = all().map(|standing| confirm(RUN, row(standing)));
        let hanging = || Err(GuardError::Hanging);
        let run = Ok(Confirm::Run("[1]".to_owned()));
        let expected =
            [Err(GuardError::InProgress), run, Ok(Confirm::Nothing), hanging(), hanging(), hanging()];
        assert_eq!(answers, expected);
        assert_eq!(confirm(RUN, Err(RUN)), Err(GuardError::NoTrace));
        assert_eq!(confirm(RUN, Err(LATER)), Err(GuardError::Expired));
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let odd = Standing::Tomb(Some("\"\0ä".to_owned()));
        for standing in all().into_iter().chain([odd, Standing::Tomb(Some(String::new()))]) {
            let (state, result) = standing.stored();
            assert_eq!(Standing::read(state, result).ok(), Some(standing));
        }
        assert!(Standing::read("doing", String::new()).is_err());
        assert!(Standing::read("tomb", "no".to_owned()).is_err());
    }
}
