//! The log of a sender over HTTP.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use es_core::BoxError;
use reqwest::{Client, Url};
use serde::Deserialize;

use super::lane::Lane;
use super::log::{Log, Searching};
use super::tries::Remembered;
use crate::message::Envelope;
use crate::message::Sequence;

/// How long one page of messages may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a page that are read: several times what a sender should give.
const MAX_PAGE: usize = 32 << 20;

/// The log of a sender over HTTP: `GET {base}/{relay}/{key}?after={sequence}` gives a page of messages in order, as JSON:
/// `{"messages": [..]}`. Without `after` they are wanted from the first one on. A page without messages may say where to go on:
/// with `"next": text`, it is asked again with that text as `after`. It is remembered, so a search that is broken off continues;
/// keep the value for that.
///
/// For senders at one base; who hears of several implements [`Log`], and chooses by the source of the lane. Relays and keys that
/// cannot be a part of an address (empty, `.`, `..`) cannot be asked for.
#[derive(Clone, Debug)]
pub struct HttpLog {
    client: Client,
    base: Url,
    /// How far searches have come: from where, and to which place.
    searched: Arc<Mutex<Remembered<(Option<Sequence>, String)>>>,
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<Envelope>,
    #[serde(default)]
    next: Option<String>,
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
        Ok(Self { client, base, searched: Arc::default() })
    }

    fn address(&self, lane: &Lane, after: Option<&str>) -> Result<Url, BoxError> {
        let names = [lane.relay.as_deref().unwrap_or_default(), &*lane.key];
        // They would be left out, and something else would be asked for.
        if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
            return Err(format!("no address can name {lane}").into());
        }
        let mut address = self.base.clone();
        if let Ok(mut path) = address.path_segments_mut() {
            path.pop_if_empty().extend(names);
        }
        if let Some(after) = after {
            address.query_pairs_mut().append_pair("after", after);
        }
        Ok(address)
    }

    async fn page(&self, lane: &Lane, after: Option<&str>) -> Result<Page, BoxError> {
        let request = self.client.get(self.address(lane, after)?).timeout(LIMIT);
        let mut response = request.send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_PAGE {
                return Err(format!("a page of messages has more than {MAX_PAGE} bytes").into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// How far a search has come that was broken off.
    fn place(&self, lane: &Lane, after: Option<Sequence>) -> Option<String> {
        let searched = self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        searched.get(lane).filter(|(from, _)| *from == after).map(|(_, place)| place.clone())
    }

    fn remember(&self, lane: &Lane, place: Option<(Option<Sequence>, String)>) {
        let mut searched = self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        match place {
            Some(place) => searched.put(lane, place, |_| true),
            None => searched.remove(lane),
        }
    }
}

#[async_trait]
impl Log for HttpLog {
    async fn behind(&self, lane: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError> {
        let asked = self.place(lane, after).or_else(|| after.map(|after| after.to_string()));
        let page = match self.page(lane, asked.as_deref()).await {
            Ok(page) => page,
            Err(error) => {
                // It may be one that the sender does not know any more.
                let status = error.downcast_ref().and_then(reqwest::Error::status);
                if status.is_some_and(|status| status.is_client_error()) {
                    self.remember(lane, None);
                }
                return Err(error);
            }
        };
        let place = page.next.filter(|next| page.messages.is_empty() && asked.as_ref() != Some(next));
        self.remember(lane, place.clone().map(|place| (after, place)));
        if place.is_none() {
            return Ok(page.messages);
        }
        // One that is not remembered would begin anew each time.
        if self.place(lane, after) == place { Err(Searching.into()) } else { Err("too many searches".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_relay_key_and_sequence() {
        let log = HttpLog::new(Client::new(), "http://shop/messages/").unwrap();
        let lane = Lane::of_key("s", "orders", "a/b?ä");
        let address = log.address(&lane, None).unwrap();
        assert_eq!(address.as_str(), "http://shop/messages/orders/a%2Fb%3F%C3%A4");
        let address = log.address(&lane, Some("00000000000000000007.0001")).unwrap();
        assert_eq!(address.query(), Some("after=00000000000000000007.0001"));
        for key in ["", ".", ".."] {
            assert!(log.address(&Lane::of_key("s", "orders", key), None).is_err(), "{key:?}");
            assert!(log.address(&Lane::of_key("s", key, "7"), None).is_err(), "{key:?}");
        }
        assert!(HttpLog::new(Client::new(), "mailto:a@b").is_err());
    }
}
