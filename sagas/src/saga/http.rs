//! Calls over HTTP, under the key of the call.

use es_core::BoxError;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;

use super::place::Call;
use super::step::StepError;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Bytes of an answer that are read, and of those that an error shows.
const MAX: usize = 1 << 20;
const SHOWN: usize = 500;

/// An answer that came, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    status: StatusCode,
    body: Vec<u8>,
}

impl Reply {
    /// Its status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Its body, read as JSON.
    ///
    /// # Errors
    ///
    /// It is not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    fn unexpected(&self) -> BoxError {
        let shown = &self.body[..self.body.len().min(SHOWN)];
        format!("{}: {}", self.status, String::from_utf8_lossy(shown)).into()
    }
}

impl Call {
    /// Sends a request with the key of this call in its header `Idempotency-Key`. An answer with another status than 2xx, one
    /// that is larger than 1 MiB, no answer, no connection are errors: the step, or its undo, is tried again under the same
    /// key. Whoever is called may also answer so that a request with this key is being worked on.
    ///
    /// The client should not follow redirects, most of which drop what is sent.
    ///
    /// # Errors
    ///
    /// All of these. [`or_retry`](super::OrRetry::or_retry) makes them a step's.
    pub async fn send(&self, request: RequestBuilder) -> Result<Reply, BoxError> {
        let reply = self.reply(request).await?;
        if reply.status.is_success() { Ok(reply) } else { Err(reply.unexpected()) }
    }

    /// The same for whoever may say no. `refusal` says which answers are a no of the business, after which nothing has
    /// happened, whatever their status. Nothing else is one.
    ///
    /// ```
    /// # use sagas::saga::{Call, Reply, StepError};
    /// async fn charge(call: &Call, client: &reqwest::Client, cents: u64) -> Result<String, StepError<String>> {
    ///     let request = client.post("http://payments.internal/charges").body(cents.to_string());
    ///     let declined = |reply: &Reply| (reply.status() == 402).then(|| "declined".to_owned());
    ///     let reply = call.send_or_refuse(request, declined).await?;
    ///     reply.json().map_err(StepError::Retry)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StepError::Refused`] for what `refusal` says is one, else [`StepError::Retry`] as of [`Self::send`].
    pub async fn send_or_refuse<R>(
        &self,
        request: RequestBuilder,
        refusal: impl FnOnce(&Reply) -> Option<R>,
    ) -> Result<Reply, StepError<R>> {
        let reply = self.reply(request).await.map_err(StepError::Retry)?;
        match refusal(&reply) {
            Some(why) => Err(StepError::Refused(why)),
            None if reply.status.is_success() => Ok(reply),
            None => Err(StepError::Retry(reply.unexpected())),
        }
    }

    async fn reply(&self, request: RequestBuilder) -> Result<Reply, BoxError> {
        let key = HeaderValue::from_bytes(self.key().as_bytes())?;
        let mut response = request.header(IDEMPOTENCY_KEY, key).send().await?;
        let (status, mut body) = (response.status(), Vec::new());
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX {
                return Err(format!("{status}: its answer has more than {MAX} bytes").into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, body })
    }
}
