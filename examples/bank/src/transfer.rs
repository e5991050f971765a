//! A transfer: what is wanted, and what came of it. Its events are in the journal, the clearing house between the banks.

use std::fmt;
use std::str::FromStr;

use es_core::prelude::*;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::banks::Banks;
use crate::by::{Method, process};

#[derive(AggregateId, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct TransferId(pub(crate) String);

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bank {
    #[default]
    A,
    B,
}

impl Bank {
    pub(crate) const ALL: [Self; 2] = [Self::A, Self::B];
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// As in `a-17`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct AccountId {
    pub(crate) bank: Bank,
    pub(crate) number: i32,
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.bank, self.number)
    }
}

impl FromStr for AccountId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let bad = "an account has a bank and a number: a-17";
        let (bank, number) = text.split_once('-').ok_or(bad)?;
        let bank = Bank::ALL.into_iter().find(|one| one.to_string() == bank).ok_or(bad)?;
        Ok(Self { bank, number: number.parse().map_err(|_| bad)? })
    }
}

/// What is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) from: AccountId,
    pub(crate) to: AccountId,
    pub(crate) cents: i64,
}

/// Why a bank says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Refusal {
    #[error("the account has not that much")]
    Overdrawn,
    #[error("the bank takes no transfers now")]
    Closed,
    #[error("there is no such account")]
    NoAccount,
}

impl Refusal {
    const ALL: [Self; 3] = [Self::Overdrawn, Self::Closed, Self::NoAccount];

    /// From its own words, as a guard row keeps them.
    pub(crate) fn of(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.to_string() == words)
    }
}

/// What came of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Settled,
    /// Why, in words.
    Declined(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => f.write_str("settled"),
            Self::Declined(why) => write!(f, "declined: {why}"),
        }
    }
}

// Stored: change by upcasting.

/// A method has begun it: no other one does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filed {
    pub(crate) order: Order,
    pub(crate) by: Method,
}

/// A process is to see to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Requested {
    pub(crate) id: TransferId,
    pub(crate) order: Order,
    /// Names its calls to the banks.
    pub(crate) run: Uuid,
}

/// The money has left the first bank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settled {
    pub(crate) id: TransferId,
    pub(crate) order: Order,
}

/// Nothing of it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Declined {
    pub(crate) id: TransferId,
    pub(crate) order: Order,
    /// Not said where a saga or a TCC keeps it itself.
    pub(crate) why: Option<Refusal>,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "transfer")]
pub(crate) enum TransferEvent {
    Filed(Filed),
    Requested(Requested),
    Taken(Taken),
    Settled(Settled),
    Declined(Declined),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TransferError {
    #[error("the key is that of another transfer")]
    OtherOrder,
    #[error("another method is at it, under the same key")]
    OtherMethod,
    #[error("it is over")]
    Over,
    #[error("the money is not there to be sent on")]
    NotTaken,
    #[error("{0}")]
    Refused(Refusal),
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = TransferId, event = TransferEvent, error = TransferError)]
pub(crate) struct Transfer {
    requested: Option<Requested>,
    pub(crate) order: Option<Order>,
    /// Whose it is. By two-phase commit it begins and ends at once.
    by: Option<Method>,
    taken: bool,
    pub(crate) outcome: Option<Outcome>,
}

impl Apply for Transfer {
    fn apply(&mut self, event: &TransferEvent) {
        match event {
            TransferEvent::Filed(e) => (self.order, self.by) = (Some(e.order), Some(e.by)),
            TransferEvent::Requested(e) => {
                (self.order, self.by) = (Some(e.order), Some(Method::Process));
                self.requested = Some(e.clone());
            }
            TransferEvent::Taken(_) => self.taken = true,
            TransferEvent::Settled(e) => {
                self.order = Some(e.order);
                self.outcome = Some(Outcome::Settled);
            }
            TransferEvent::Declined(e) => {
                let why = e.why.map_or_else(|| "it was undone".to_owned(), |why| why.to_string());
                self.order = Some(e.order);
                self.outcome = Some(Outcome::Declined(why));
            }
        }
    }
}

impl Transfer {
    /// Its outcome, if it is this transfer.
    pub(crate) fn outcome_of(&self, order: &Order) -> Result<Option<&Outcome>, TransferError> {
        match self.order {
            Some(own) if own != *order => Err(TransferError::OtherOrder),
            _ => Ok(self.outcome.as_ref()),
        }
    }

    /// Whether it is this method's, or nobody's yet.
    fn is_for(&self, by: Method) -> Result<(), TransferError> {
        match self.by {
            Some(own) if own != by => Err(TransferError::OtherMethod),
            _ => Ok(()),
        }
    }

    fn requested(&self) -> Result<&Requested, TransferError> {
        self.requested.as_ref().ok_or(TransferError::NotTaken)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) order: Order,
    pub(crate) by: Method,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: TransferId,
    pub(crate) order: Order,
    pub(crate) run: Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Take {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Put {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GiveBack {
    pub(crate) why: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settle {
    pub(crate) id: TransferId,
    pub(crate) order: Order,
    pub(crate) by: Method,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decline {
    pub(crate) id: TransferId,
    pub(crate) order: Order,
    pub(crate) why: Option<Refusal>,
    pub(crate) by: Method,
}

#[commands]
impl Transfer {
    /// The first of a method: whoever comes second with another one is refused, before any money moves.
    #[create_if_missing]
    fn file(&self, cmd: File) -> Result<Option<Filed>, TransferError> {
        let File { order, by } = cmd;
        if self.outcome_of(&order)?.is_some() {
            return Err(TransferError::Over);
        }
        self.is_for(by)?;
        Ok(self.by.is_none().then_some(Filed { order, by }))
    }

    #[create_if_missing]
    fn request(&self, cmd: Request) -> Result<Option<Requested>, TransferError> {
        let Request { id, order, run } = cmd;
        if self.outcome_of(&order)?.is_none() {
            self.is_for(Method::Process)?;
        }
        Ok(self.order.is_none().then_some(Requested { id, order, run }))
    }

    /// The bank remembers the call: decided again, it is found.
    async fn take(&self, _: Take, banks: &Banks) -> Result<Option<Taken>, Failure<TransferError>> {
        if self.taken || self.outcome.is_some() {
            return Ok(None);
        }
        process::take(banks, self.requested()?).await?;
        Ok(Some(Taken {}))
    }

    async fn put(&self, _: Put, banks: &Banks) -> Result<Option<Settled>, Failure<TransferError>> {
        match self.outcome {
            Some(Outcome::Settled) => return Ok(None),
            Some(Outcome::Declined(_)) => return Err(TransferError::Over.into()),
            None if !self.taken => return Err(TransferError::NotTaken.into()),
            None => {}
        }
        let Requested { id, order, .. } = self.requested()?;
        process::put(banks, self.requested()?).await?;
        Ok(Some(Settled { id: id.clone(), order: *order }))
    }

    async fn give_back(
        &self,
        cmd: GiveBack,
        banks: &Banks,
    ) -> Result<Option<Declined>, Failure<TransferError>> {
        match self.outcome {
            Some(Outcome::Declined(_)) => return Ok(None),
            Some(Outcome::Settled) => return Err(TransferError::Over.into()),
            None => {}
        }
        let Requested { id, order, .. } = self.requested()?;
        process::give_back(banks, self.requested()?).await?;
        Ok(Some(Declined { id: id.clone(), order: *order, why: Some(cmd.why) }))
    }

    #[create_if_missing]
    fn settle(&self, cmd: Settle) -> Result<Option<Settled>, TransferError> {
        let Settle { id, order, by } = cmd;
        match self.outcome_of(&order)? {
            // Whoever has not filed it would pay again.
            Some(Outcome::Settled) if self.by == Some(by) => Ok(None),
            Some(_) => Err(TransferError::Over),
            None => self.is_for(by).map(|()| Some(Settled { id, order })),
        }
    }

    #[create_if_missing]
    fn decline(&self, cmd: Decline) -> Result<Option<Declined>, TransferError> {
        let Decline { id, order, why, by } = cmd;
        match self.outcome_of(&order)? {
            Some(Outcome::Declined(_)) => Ok(None),
            Some(Outcome::Settled) => Err(TransferError::Over),
            None => self.is_for(by).map(|()| Some(Declined { id, order, why })),
        }
    }
}

#[cfg(test)]
mod tests {
    use es_core::testing::given;

    use super::*;

    fn id() -> TransferId {
        TransferId("t-1".to_owned())
    }

    fn order(cents: i64) -> Order {
        Order { from: "a-17".parse().unwrap(), to: "b-4".parse().unwrap(), cents }
    }

    #[test]
    fn a_transfer_ends_once() {
        let (settle, decline) = (
            || Settle { id: id(), order: order(500), by: Method::Saga },
            || Decline { id: id(), order: order(500), why: None, by: Method::Saga },
        );
        let settled = || Settled { id: id(), order: order(500) };
        given::<Transfer>(()).when(settle()).then(settled());
        let filed = Filed { order: order(500), by: Method::Saga };
        given::<Transfer>((filed, settled())).when(settle()).then_nothing();
        given::<Transfer>(settled()).when(settle()).then_error(TransferError::Over);
        given::<Transfer>(settled()).when(decline()).then_error(TransferError::Over);
        let declined = || Declined { id: id(), order: order(500), why: None };
        given::<Transfer>(declined()).when(decline()).then_nothing();
        given::<Transfer>(declined()).when(settle()).then_error(TransferError::Over);
    }

    #[test]
    fn a_key_is_that_of_one_transfer() {
        let settled = Settled { id: id(), order: order(500) };
        let other = Settle { id: id(), order: order(501), by: Method::Saga };
        given::<Transfer>(settled).when(other).then_error(TransferError::OtherOrder);
    }

    #[test]
    fn a_transfer_is_of_one_method() {
        let filed = |by| Filed { order: order(500), by };
        let file = |by| File { order: order(500), by };
        given::<Transfer>(()).when(file(Method::Tcc)).then(filed(Method::Tcc));
        given::<Transfer>(filed(Method::Tcc)).when(file(Method::Tcc)).then_nothing();
        for by in Method::ALL.into_iter().filter(|by| *by != Method::Tcc) {
            given::<Transfer>(filed(Method::Tcc)).when(file(by)).then_error(TransferError::OtherMethod);
            let settle = Settle { id: id(), order: order(500), by };
            given::<Transfer>(filed(Method::Tcc)).when(settle).then_error(TransferError::OtherMethod);
            let decline = Decline { id: id(), order: order(500), why: None, by };
            given::<Transfer>(filed(Method::Tcc)).when(decline).then_error(TransferError::OtherMethod);
        }
        let request = || Request { id: id(), order: order(500), run: Uuid::nil() };
        given::<Transfer>(filed(Method::Tcc)).when(request()).then_error(TransferError::OtherMethod);
        let requested = Requested { id: id(), order: order(500), run: Uuid::nil() };
        given::<Transfer>(requested).when(file(Method::Saga)).then_error(TransferError::OtherMethod);
        let settled = Settled { id: id(), order: order(500) };
        given::<Transfer>(settled).when(file(Method::Saga)).then_error(TransferError::Over);
    }

    #[test]
    fn an_account_has_a_bank_and_a_number() {
        assert_eq!("b-4".parse::<AccountId>().map(|id| id.to_string()), Ok("b-4".to_owned()));
        for text in ["17", "c-17", "a-", "a-x", ""] {
            text.parse::<AccountId>().unwrap_err();
        }
    }
}
