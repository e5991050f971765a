//! A guarded participant does what its protocol says, wherever it stands: what the explorer visits is what runs.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::BoxError;
use es_core::id::Ids;
use es_sqlite::{GuardedTx, SqliteGuarded};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqlitePoolOptions;
use uuid::Uuid;

use super::guarded::{GuardedParticipant, Holds, ParticipantError, Peers};
use super::standing::{Standing, Then, Told};
use super::{Decision, Decisions};
use crate::saga::{SagaInput, StepError};

/// Another text each time that it is read and written.
#[derive(Serialize, Deserialize)]
struct Input(HashMap<u32, u32>);
impl SagaInput for Input {}

struct Nothing;

impl Holds<GuardedTx> for Nothing {
    type Input = Input;
    type Held = ();
    async fn hold(&self, _: Uuid, _: &Input, _: &mut GuardedTx) -> Result<(), StepError<String>> {
        Ok(())
    }
    async fn commit(&self, _: Uuid, (): (), _: &mut GuardedTx) -> Result<(), BoxError> {
        Ok(())
    }
    async fn release(&self, _: Uuid, (): (), _: &mut GuardedTx) -> Result<(), BoxError> {
        Ok(())
    }
    async fn held(&self, _: &mut GuardedTx) -> Result<Vec<Uuid>, BoxError> {
        Ok(Vec::new())
    }
}

struct Nobody;

#[async_trait]
impl Peers for Nobody {
    async fn standing(&self, _: &str, _: Uuid) -> Result<Standing, BoxError> {
        Err("nobody is there".into())
    }
}

#[async_trait]
impl Decisions for Nobody {
    async fn decide(&self, _: Uuid, _: Decision) -> Result<Decision, BoxError> {
        Err("nobody decides".into())
    }
}

type Participant = GuardedParticipant<SqliteGuarded, Nothing>;

async fn participant() -> Result<Participant, BoxError> {
    let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    let database = SqliteGuarded::new(pool);
    database.install().await?;
    Ok(Participant::new("left", database, Nothing, Arc::new(Nobody), Arc::new(Nobody)))
}

async fn votes(of: &Participant, txn: Uuid) -> Result<(), BoxError> {
    let input = Input((0..12).map(|n| (n, n)).collect());
    of.can_commit(txn, &input, &["left".to_owned()]).await.map_err(|error| format!("{error:?}").into())
}

/// One that stands there.
async fn at(of: &Participant, txn: Uuid, standing: Standing) -> Result<(), BoxError> {
    let told = match standing {
        Standing::Unvoted => return Ok(()),
        Standing::Voted => None,
        Standing::PreCommitted => Some(Told::PreCommit),
        Standing::Committed => Some(Told::DoCommit),
        Standing::Aborted => Some(Told::Abort),
    };
    votes(of, txn).await?;
    if let Some(told) = told {
        assert!(of.tell(txn, told).await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_guarded_participant_does_what_its_protocol_says() -> Result<(), BoxError> {
    use Standing::{Aborted, Committed, PreCommitted, Unvoted, Voted};
    let (left, ids) = (participant().await?, Ids::default());
    for standing in [Unvoted, Voted, PreCommitted, Committed, Aborted] {
        for told in [Told::PreCommit, Told::DoCommit, Told::Abort] {
            let txn = ids.next();
            at(&left, txn, standing).await?;
            assert_eq!(left.standing(txn).await?, standing);
            let then = standing.then(told);
            let said = left.tell(txn, told).await;
            match then {
                Then::Goes(_) | Then::Stays => {
                    assert!(matches!(said, Ok(true)), "{standing:?} {told:?} {said:?}");
                }
                Then::HasAborted => assert!(matches!(said, Ok(false)), "{standing:?} {told:?} {said:?}"),
                Then::Odd => {
                    let is_odd =
                        matches!(&said, Err(ParticipantError::Odd { standing: of, .. }) if *of == standing);
                    assert!(is_odd, "{standing:?} {told:?} {said:?}");
                }
            }
            let comes_to = if let Then::Goes(to) = then { to } else { standing };
            assert_eq!(left.standing(txn).await?, comes_to, "{standing:?} {told:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_vote_that_is_asked_for_in_other_words_is_the_same_one() -> Result<(), BoxError> {
    let (left, txn) = (participant().await?, Ids::default().next());
    for _ in 0..3 {
        votes(&left, txn).await?;
    }
    Ok(())
}
