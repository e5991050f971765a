//! Messages over HTTP, in the structured mode of its binding.

use std::sync::Arc;
use std::time::Duration;

use es_core::BoxError;
use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, IntoUrl, Response, StatusCode, Url};

use super::publisher::{PublishError, Publisher};
use crate::breaker::Breaker;
use crate::message::{Envelope, MEDIA_TYPE};

/// The name under which the receiver may remember a message: its id.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest that a connection and a whole request may take.
const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read, and of those that an error shows.
const ANSWER: usize = 64 << 10;
const SHOWN: usize = 500;

/// Posts each message to one address, as `application/cloudevents+json` with its id as `Idempotency-Key`.
///
/// | answer | means |
/// | --- | --- |
/// | 2xx | taken |
/// | 408, 425, 429, 5xx, no connection, no answer within 10 seconds | unavailable: tried again, not before what `Retry-After` asks for (ten minutes at most) |
/// | 401, 407, 3xx | unavailable: the sender is to be fixed, no message is to blame; redirects are not followed |
/// | any other 4xx, such as 409 and 423 of an [inbox](crate::message::inbox::Answer) | refused, with the status and the beginning of the answer: the key is parked |
///
/// After three failures in a row one message at a time finds out whether the receiver is back. Addresses with `https` need the
/// feature `https`.
///
/// ```
/// use sagas::relay::HttpPublisher;
/// # fn main() -> Result<(), es_core::BoxError> {
/// let publisher = HttpPublisher::new("http://warehouse.internal/messages")?;
/// # drop(publisher);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HttpPublisher {
    client: Client,
    url: Url,
    breaker: Arc<Breaker>,
}

impl HttpPublisher {
    /// To this address.
    ///
    /// # Errors
    ///
    /// It is no address of the web, or TLS cannot be set up.
    pub fn new(url: impl IntoUrl) -> Result<Self, BoxError> {
        let client = Client::builder().redirect(Policy::none()).connect_timeout(CONNECT).timeout(REQUEST);
        Self::with_client(client.build()?, url)
    }

    /// The same with a client of your own: with headers such as a token, a proxy, other roots or limits. It should not follow
    /// redirects: most of them drop the message.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_client(client: Client, url: impl IntoUrl) -> Result<Self, BoxError> {
        let url = url.into_url()?;
        if url.scheme() == "https" && !cfg!(feature = "https") {
            return Err("an address with `https` needs the feature `https` of `sagas`".into());
        }
        Ok(Self { client, url, breaker: Arc::default() })
    }

    async fn post(&self, message: &Envelope) -> Result<Response, BoxError> {
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, MEDIA_TYPE);
        let request = request.header(IDEMPOTENCY_KEY, HeaderValue::from_bytes(message.id.as_bytes())?);
        Ok(request.body(serde_json::to_vec(message)?).send().await?)
    }
}

impl Publisher for HttpPublisher {
    async fn publish(&self, message: &Envelope) -> Result<(), PublishError> {
        let pass = self.breaker.pass().map_err(PublishError::unavailable)?;
        let mut response = match self.post(message).await {
            Ok(response) => response,
            Err(error) => {
                pass.failed(None);
                return Err(PublishError::Unavailable(error));
            }
        };
        let (status, rests) = (response.status(), rests(&response));
        // Read to its end, the connection can be used again.
        let answer = beginning(&mut response).await;
        let why = || format!("{status}: {answer}");
        match means(status) {
            Means::Taken => pass.answered(),
            Means::Refused => {
                pass.answered();
                return Err(PublishError::refused(why()));
            }
            Means::Unavailable => {
                pass.failed(rests);
                return Err(PublishError::unavailable(why()));
            }
        }
        Ok(())
    }
}

enum Means {
    Taken,
    Refused,
    Unavailable,
}

fn means(status: StatusCode) -> Means {
    match status.as_u16() {
        200..=299 => Means::Taken,
        401 | 407 | 408 | 425 | 429 => Means::Unavailable,
        400..=499 => Means::Refused,
        _ => Means::Unavailable,
    }
}

/// For how long the receiver wants nothing: in seconds, or until a time, by its own clock.
fn rests(response: &Response) -> Option<Duration> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let after = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = |text| rfc2822::parse(text).ok().map(|at| at.timestamp());
    (at(after)? - at(text(DATE)?)?).try_into().ok()
}

/// The beginning of an answer, as far as it can be shown.
async fn beginning(response: &mut Response) -> String {
    let (mut read, mut shown) = (0, Vec::new());
    while read < ANSWER
        && let Ok(Some(chunk)) = response.chunk().await
    {
        read += chunk.len();
        shown.extend(&chunk[..chunk.len().min(SHOWN - shown.len())]);
    }
    String::from_utf8_lossy(&shown).into_owned()
}
