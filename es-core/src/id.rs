//! Identifiers as a parameter: UUIDv7 (RFC 9562) from a clock and randomness.

use std::sync::Arc;

use uuid::Uuid;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::entropy::{Entropy, SystemEntropy};

/// Makes ids. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ids {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Default for Ids {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    }
}

impl Ids {
    /// Ids from this clock and this randomness.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { clock, entropy }
    }

    /// A new UUIDv7: its first 48 bits are milliseconds, so ids of a later millisecond sort later.
    #[must_use]
    pub fn next(&self) -> Uuid {
        self.at(self.clock.now())
    }

    /// A new UUIDv7 born at `time`.
    #[must_use]
    pub fn at(&self, time: Timestamp) -> Uuid {
        let millis = u64::try_from(time.as_millisecond()).unwrap_or_default();
        let [.., a, b, c, d, e, f, g, h, i, j] = self.entropy.bits().to_ne_bytes();
        uuid::Builder::from_unix_timestamp_millis(millis, &[a, b, c, d, e, f, g, h, i, j]).into_uuid()
    }

    /// The clock that ids take their time from.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// A random number in `0.0..1.0`, for jitter.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the 128 bits will do")]
        let bits = self.entropy.bits() as u32;
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

/// When an id was made, if it is a UUIDv7.
#[must_use]
pub fn made_at(id: Uuid) -> Option<Timestamp> {
    let is_of_time = id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122;
    let millis = i64::try_from(id.as_u128() >> 80).ok().filter(|_| is_of_time)?;
    Timestamp::from_millisecond(millis).ok()
}
