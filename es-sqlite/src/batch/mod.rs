//! One batch: look up what its commits ask about, judge each in turn, write what is left, commit.
//!
//! Two messages to the database: the look-up begins the transaction, the write ends it. Each commit is
//! judged on what is stored and on what earlier commits of the batch are about to write: two that
//! conflict with each other are never both accepted, and one that is refused takes nobody with it.

mod ledger;
mod lookup;
mod write;

use es_core::store::rules::{Verdict, judge};
use es_core::store::{Attempt, Commit, CommitError, Committed, Touched};

use self::ledger::Batch;
pub(crate) use self::lookup::outcome;
use crate::writer::Writing;
use crate::{attempt, error, history};

type Outcome = Result<Committed, CommitError>;

/// Runs a batch, in the user's transaction if one is open, else in one of its own. Beside each commit stands the history that
/// it was decided on. One outcome each.
pub(crate) async fn run(writing: &mut Writing, commits: Vec<(Commit, u64)>) -> Vec<Outcome> {
    // A user's transaction has rows of its own, which a second try would lose.
    let alone = commits.len() == 1 || writing.is_open();
    let (commits, histories): (Vec<_>, Vec<_>) = commits.into_iter().unzip();
    match run_once(writing, &commits, &histories).await {
        Ok(outcomes) => outcomes,
        Err(e) if error::is_about_data(&e) && !alone => {
            // Somebody's data does not fit: one by one, so that only theirs fails.
            let mut outcomes = Vec::with_capacity(commits.len());
            for (commit, history) in commits.into_iter().zip(histories) {
                let outcome = run_once(writing, &[commit], &[history]).await.map_err(failed);
                outcomes.push(outcome.and_then(|mut o| o.pop().expect("one outcome for one commit")));
            }
            outcomes
        }
        Err(e) => {
            let error = failed(e);
            commits.iter().map(|_| Err(error.clone())).collect()
        }
    }
}

fn failed(error: sqlx::Error) -> CommitError {
    history::failed("a commit", error).into()
}

/// All of it; after an error nothing of it is stored.
async fn run_once(
    writing: &mut Writing,
    commits: &[Commit],
    histories: &[u64],
) -> Result<Vec<Outcome>, sqlx::Error> {
    let users = writing.is_open();
    let (outcomes, batch) = match decide(writing, commits, histories, users).await {
        Ok(decided) => decided,
        Err(error) => {
            writing.rollback().await?;
            return Err(error);
        }
    };
    // The user's rows share the fate of what is staged beside them.
    let keep = if users { outcomes.iter().all(Result::is_ok) } else { !batch.is_empty() };
    if !keep {
        writing.rollback().await?;
        return Ok(outcomes);
    }
    if let Err(error) = write::write(writing, &batch).await {
        match is_stored(writing, &batch).await {
            Ok(true) => {}
            Ok(false) => return Err(error),
            Err(_) => return Ok(unknown(commits, outcomes)),
        }
    }
    let shared = writing.shared();
    if batch.history == shared.histories.changes() {
        batch.new_types().for_each(|(id, kind)| shared.types.learn(id, kind.clone()));
    }
    if let Some((position, event)) = batch.last() {
        shared.histories.saw(batch.history, position.0, event);
    }
    shared.publish(batch.head);
    if shared.row_wakes.is_watched() {
        let accepted = commits.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        accepted.for_each(|(commit, _)| shared.row_wakes.touch(&Touched::from(commit)));
    }
    Ok(outcomes)
}

async fn is_stored(writing: &mut Writing, batch: &Batch) -> Result<bool, sqlx::Error> {
    writing.rollback().await?;
    write::is_stored(writing, batch).await
}

/// The database says neither that the batch is stored nor that it is not.
fn unknown(commits: &[Commit], outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let unknown = |(commit, outcome): (&Commit, Outcome)| {
        outcome.and_then(|_| {
            let attempt = Attempt::of(commit.attempt, commit);
            Err(CommitError::Unknown(Box::new(attempt)))
        })
    };
    commits.iter().zip(outcomes).map(unknown).collect()
}

async fn decide(
    writing: &mut Writing,
    commits: &[Commit],
    histories: &[u64],
    users: bool,
) -> Result<(Vec<Outcome>, Batch), sqlx::Error> {
    let mut batch = lookup::look_up(writing, commits).await?;
    batch.users = users;
    let mut outcomes = Vec::with_capacity(commits.len());
    for (i, commit) in commits.iter().enumerate() {
        batch.turn_to(i);
        if histories[i] != batch.history && commit.depends_on_its_history() {
            outcomes.push(Err(CommitError::OtherHistory));
            continue;
        }
        if batch.fences.contains(&commit.attempt) {
            outcomes.push(Err(attempt::given_up(commit.attempt)));
            continue;
        }
        outcomes.push(match batch.check_age(commit).and_then(|()| judge(commit, &batch)) {
            Ok(Verdict::Apply) => Ok(batch.add(commit)),
            Ok(Verdict::Repeat(committed)) => Ok(committed),
            Err(refused) => Err(refused),
        });
    }
    Ok((outcomes, batch))
}
