//! What a sender is answered over HTTP.

use es_core::{Backend, ErrorKind, chain};

use super::Inbox;
use super::consumer::Consumer;
use super::error::InboxError;
use super::take::Outcome;

/// What a sender is answered. What is true of one lane has a status of its own below 500, so that a relay parks that key and
/// sends the others; 500 and 503 make it wait with all of them.
///
/// | status | what it means | what the sender does |
/// | --- | --- | --- |
/// | 200 | taken, or it was taken before | sends the next one |
/// | 202 | kept: it, or one before it in its lane, failed here, and waits for an operator | sends the next one |
/// | 400 | no message: the body is no envelope, or an attribute of it is wrong | sets it aside, and is fixed |
/// | 409 | messages before it have not come, and the log did not give them either, or more of them than there is time for | sets it aside until they have, and sends it again then |
/// | 422 | another message came under the same name before | sets it aside, and is fixed |
/// | 423 | its lane takes nothing before an operator has looked at it: too much is parked, what is stored of it cannot be read, or it has met an event that only a newer program can read, and that was told as 503 about ten times | sets it aside until then |
/// | 500 | the inbox cannot use its store | sends it again, much later |
/// | 503 | busy: the store, what the consumer needs, or the log of what is missing before it | sends it again, after `retry_after` |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// A line for people.
    pub body: String,
    /// Seconds, for the header `Retry-After`.
    pub retry_after: Option<u32>,
}

impl Answer {
    fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into(), retry_after: None }
    }
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Taken => Self::new(200, "taken"),
            Outcome::Duplicate => Self::new(200, "it came before"),
            Outcome::Parked { waiting } => Self::new(202, format!("kept; {waiting} wait for an operator")),
            Outcome::Gap(gap) => {
                let after = gap.after.map_or_else(|| "the beginning".to_owned(), |after| after.to_string());
                Self::new(409, format!("messages behind {after} up to {} have not come", gap.up_to))
            }
        }
    }
}

impl From<&InboxError> for Answer {
    fn from(error: &InboxError) -> Self {
        let status = match error {
            InboxError::NoMessage { .. } => 400,
            InboxError::OtherContent { .. } => 422,
            InboxError::Full { .. } | InboxError::Newer(_) => 423,
            InboxError::Store(error) => match error.kind() {
                ErrorKind::Transient | ErrorKind::Unknown => 503,
                // A row, and those are of a lane.
                ErrorKind::Corrupt => 423,
                _ => 500,
            },
            InboxError::Busy(_) | InboxError::Log(_) => 503,
        };
        Self { retry_after: (status == 503).then_some(1), ..Self::new(status, error.to_string()) }
    }
}

impl<B: Backend, C: Consumer<B::Tx>> Inbox<B, C> {
    /// Takes the body of a request: one [envelope](crate::message::Envelope) in JSON, `application/cloudevents+json`. Why
    /// something was not taken is logged here in full; the sender is told in a line.
    ///
    /// With `axum`:
    ///
    /// ```text
    /// async fn messages(State(inbox): State<Arc<Inbox<PgBackend, Payments>>>, body: Bytes) -> impl IntoResponse {
    ///     let answer = inbox.answer(&body).await;
    ///     let wait = answer.retry_after.map(|seconds| [(header::RETRY_AFTER, seconds.to_string())]);
    ///     (StatusCode::from_u16(answer.status).unwrap(), wait, answer.body)
    /// }
    /// ```
    ///
    /// `axum` refuses bodies over 2 MB by itself (413); a message has at most [`MAX_MESSAGE`](super::MAX_MESSAGE) bytes.
    pub async fn answer(&self, body: &[u8]) -> Answer {
        let message = match serde_json::from_slice(body) {
            Ok(message) => message,
            Err(error) => return Answer::new(400, format!("no message: {error}")),
        };
        match self.take(&message).await {
            Ok(outcome) => outcome.into(),
            Err(error) => {
                let answer = Answer::from(&error);
                let Answer { status, .. } = answer;
                tracing::warn!(status, id = message.id, error = chain(&error), "a message was not taken");
                answer
            }
        }
    }
}
