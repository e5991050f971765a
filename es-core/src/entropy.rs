//! Randomness as a parameter.

use std::fmt::Debug;

use rand::RngExt as _;

/// Gives random bits: for ids and for jitter.
pub trait Entropy: Debug + Send + Sync + 'static {
    /// 128 random bits.
    fn bits(&self) -> u128;
}

/// The thread's own generator, seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bits(&self) -> u128 {
        rand::rng().random()
    }
}
