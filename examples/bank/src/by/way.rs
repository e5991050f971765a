//! Which way a transfer goes. Where a step lives is a type, so each direction is a type of its own.

use std::marker::PhantomData;

use es_core::guard::GuardedDatabase;
use es_core::store::StoreError;
use es_postgres::{GuardedTx, PgGuarded};
use sagas::saga::SagaInput;
use serde::{Deserialize, Serialize};

use crate::banks::Banks;
use crate::transfer::{Bank, Order};

/// One of the banks, as a type.
pub(crate) trait Side: Send + Sync + 'static {
    const BANK: Bank;
    /// What a transfer from here is called.
    const FROM: &'static str;
}

pub(crate) struct A;
impl Side for A {
    const BANK: Bank = Bank::A;
    const FROM: &'static str = "transfer-from-a";
}

pub(crate) struct B;
impl Side for B {
    const BANK: Bank = Bank::B;
    const FROM: &'static str = "transfer-from-b";
}

/// Its database, in which calls act once.
pub(crate) struct At<S>(PgGuarded, PhantomData<fn() -> S>);

impl<S: Side> At<S> {
    pub(crate) fn of(banks: &Banks) -> Self {
        Self(banks.guarded(S::BANK).with_lock_timeout(super::LOCKS), PhantomData)
    }
}

impl<S: Side> GuardedDatabase for At<S> {
    type Tx = GuardedTx;

    async fn begin(&self) -> Result<GuardedTx, StoreError> {
        self.0.begin().await
    }
}

/// An order from one side to the other: what sagas and TCCs begin with.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Way<F, T> {
    pub(crate) order: Order,
    #[serde(skip)]
    way: PhantomData<fn() -> (F, T)>,
}

impl<F, T> Way<F, T> {
    pub(crate) const fn new(order: Order) -> Self {
        Self { order, way: PhantomData }
    }
}

impl<F: Side, T: Side> SagaInput for Way<F, T> {}
