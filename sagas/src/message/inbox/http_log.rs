//! The log of a sender over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use es_core::BoxError;
use reqwest::{Client, Url};
use serde::Deserialize;

use super::lane::Lane;
use super::log::Log;
use crate::message::Envelope;
use crate::message::Sequence;

/// How long one page of messages may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a page that are read: several times what a sender should give.
const MAX_PAGE: usize = 32 << 20;

/// The log of a sender over HTTP: `GET {base}/{relay}/{key}?after={sequence}` gives a page of messages in order, as JSON:
/// `{"messages": [..]}`. Without `after` they are wanted from the first one on. For senders at one base; who hears of several
/// implements [`Log`], and chooses by the source of the lane.
#[derive(Clone, Debug)]
pub struct HttpLog {
    client: Client,
    base: Url,
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<Envelope>,
}

impl HttpLog {
    /// A log at an address such as `https://shop.example/messages`. The client brings TLS, and what the sender asks of who
    /// reads it.
    ///
    /// # Errors
    ///
    /// The base is not the address of a folder.
    pub fn new(client: Client, base: &str) -> Result<Self, BoxError> {
        let base = Url::parse(base)?;
        if base.cannot_be_a_base() {
            return Err(format!("{base} is no address that a path can be added to").into());
        }
        Ok(Self { client, base })
    }

    fn address(&self, lane: &Lane, after: Option<Sequence>) -> Url {
        let mut address = self.base.clone();
        if let Ok(mut path) = address.path_segments_mut() {
            path.pop_if_empty().extend([lane.relay.as_deref().unwrap_or_default(), &lane.key]);
        }
        if let Some(after) = after {
            address.query_pairs_mut().append_pair("after", &after.to_string());
        }
        address
    }
}

#[async_trait]
impl Log for HttpLog {
    async fn behind(&self, lane: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError> {
        let request = self.client.get(self.address(lane, after)).timeout(LIMIT);
        let mut response = request.send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_PAGE {
                return Err(format!("a page of messages has more than {MAX_PAGE} bytes").into());
            }
            body.extend_from_slice(&chunk);
        }
        let page: Page = serde_json::from_slice(&body)?;
        Ok(page.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_relay_key_and_sequence() {
        let log = HttpLog::new(Client::new(), "http://shop/messages/").unwrap();
        let lane = Lane::of_key("s", "orders", "a/b?ä");
        let address = log.address(&lane, None);
        assert_eq!(address.as_str(), "http://shop/messages/orders/a%2Fb%3F%C3%A4");
        let address = log.address(&lane, Some("7.1".parse().unwrap()));
        assert_eq!(address.query(), Some("after=00000000000000000007.0001"));
        assert!(HttpLog::new(Client::new(), "mailto:a@b").is_err());
    }
}
