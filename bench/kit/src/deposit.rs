//! The event that is written and read: about 200 bytes of JSON.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deposited {
    pub amount: i64,
    pub note: String,
}

/// What a command decides here, on every side.
pub fn deposit() -> Deposited {
    Deposited { amount: 1, note: "x".repeat(170) }
}
