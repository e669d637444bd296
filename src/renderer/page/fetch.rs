//! Answers what a document asks for, from the job's assets and nothing else.
//!
//! ```text
//! open (Fetch and Network on) ─▶ serve, beside the render ─▶ close (both off)
//!                                   └ Network's events say when nothing is on its way
//! ```
//!
//! Only jobs with assets come here. A request is held by Chromium until it is
//! answered or refused; all that are not for an asset are refused, and named.
//! Frames are refused too: an asset in a frame would be a page of its own.
//!
//! A document that still asks for things when it is printed leaves requests
//! behind, which would be named as the next job's (seen with 3,000 images). Its
//! page is not used again.

use std::borrow::Cow;
use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Failed;
use crate::failure::Class;
use crate::renderer::Warning;
use crate::renderer::assets::{Found, Shelf};
use crate::renderer::cdp::{CdpError, Event, Events, Session};

/// How many addresses the warnings name.
const NAMED: usize = 20;

/// Answers requests for one job.
pub(super) struct Server<'a> {
    session: &'a Session,
    shelf: &'a Shelf,
    paused: Events,
    missing: Vec<String>,
    refused: Vec<String>,
}

/// What is on its way into the page, as its renderer sees it.
pub(super) struct Traffic {
    origin: String,
    sent: Events,
    finished: Events,
    failed: Events,
    open: HashSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paused<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    request: Request<'a>,
    #[serde(borrow)]
    resource_type: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fulfill<'a> {
    request_id: &'a str,
    response_code: u16,
    response_headers: [Header<'a>; 2],
    body: String,
}

#[derive(Serialize)]
struct Header<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refuse<'a> {
    request_id: &'a str,
    error_reason: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnableNetwork {
    /// Bodies are not kept for us to read.
    max_total_buffer_size: u32,
    max_resource_buffer_size: u32,
}

#[derive(Serialize)]
struct Nothing {}

/// Has every request held and told of.
pub(super) async fn open<'a>(
    session: &'a Session,
    shelf: &'a Shelf,
    deadline: Instant,
) -> Result<(Server<'a>, Traffic), CdpError> {
    let server = Server {
        session,
        shelf,
        paused: session.events("Fetch.requestPaused"),
        missing: Vec::new(),
        refused: Vec::new(),
    };
    let traffic = Traffic {
        origin: shelf.origin().to_owned(),
        sent: session.events("Network.requestWillBeSent"),
        finished: session.events("Network.loadingFinished"),
        failed: session.events("Network.loadingFailed"),
        open: HashSet::new(),
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let network = EnableNetwork { max_total_buffer_size: 0, max_resource_buffer_size: 0 };
    tokio::try_join!(
        session.call_raw("Fetch.enable", &Nothing {}, left),
        session.call_raw("Network.enable", &network, left),
    )?;
    Ok((server, traffic))
}

/// Undoes [`open`].
pub(super) async fn close(session: &Session, deadline: Instant) -> Result<(), CdpError> {
    let left = deadline.saturating_duration_since(Instant::now());
    tokio::try_join!(
        session.call_raw("Fetch.disable", &Nothing {}, left),
        session.call_raw("Network.disable", &Nothing {}, left),
    )?;
    Ok(())
}

impl Server<'_> {
    /// Answers until it is dropped. It ends by itself only where the render
    /// cannot go on.
    pub(super) async fn serve(&mut self, deadline: Instant) -> Failed {
        loop {
            match self.paused.next().await {
                Ok(Some(event)) => {
                    if let Err(error) = self.answer(&event, deadline).await {
                        return Failed::from_cdp(&error, std::time::Duration::ZERO);
                    }
                }
                // The render itself learns of it from its next call.
                Ok(None) => std::future::pending().await,
                Err(_) => return too_many(),
            }
        }
    }

    async fn answer(&mut self, event: &Event, deadline: Instant) -> Result<(), CdpError> {
        let paused: Paused<'_> = event.deserialize().map_err(|error| CdpError::Malformed {
            method: "Fetch.requestPaused",
            detail: error.to_string(),
        })?;
        let id = &*paused.request_id;
        let url = &*paused.request.url;
        let left = deadline.saturating_duration_since(Instant::now());
        let is_frame = paused.resource_type == "Document";
        let answered = match self.shelf.find(url) {
            Found::Asset(asset) if !is_frame => {
                let content_type = match asset.media_type {
                    "text/css" => "text/css; charset=utf-8",
                    "text/javascript" => "text/javascript; charset=utf-8",
                    other => other,
                };
                let reply = Fulfill {
                    request_id: id,
                    response_code: 200,
                    response_headers: [
                        Header { name: "Content-Type", value: content_type },
                        // Fonts are asked for across origins: the document itself has none.
                        Header { name: "Access-Control-Allow-Origin", value: "*" },
                    ],
                    body: STANDARD.encode(&asset.bytes),
                };
                self.session.call_raw("Fetch.fulfillRequest", &reply, left).await
            }
            found => {
                let shown = self.shelf.shown(url);
                let list = match found {
                    Found::Missing if !is_frame => &mut self.missing,
                    _ => &mut self.refused,
                };
                if !list.contains(&shown) && list.len() <= NAMED {
                    list.push(shown);
                }
                let reply = Refuse { request_id: id, error_reason: "BlockedByClient" };
                self.session.call_raw("Fetch.failRequest", &reply, left).await
            }
        };
        match answered {
            // The document does not want it any more.
            Ok(_) | Err(CdpError::Refused { .. }) => Ok(()),
            // These and time-outs meet the render's own calls too, which know more.
            Err(CdpError::Closed { .. } | CdpError::Crashed { .. } | CdpError::Timeout { .. }) => {
                std::future::pending().await
            }
            Err(error) => Err(error),
        }
    }

    /// What a person should know, one warning for each address.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let missing = self.missing.iter().take(NAMED).map(|path| Warning {
            code: "asset_missing",
            message: format!(
                "the document asks for {path}, and no asset of the job or its tenant has that name"
            ),
            remedy: "send it with the job (`assets`), or store it for the tenant (`tillroll asset put`), \
                     under the path that the document uses"
                .into(),
        });
        let refused = self.refused.iter().take(NAMED).map(|url| Warning {
            code: "request_refused",
            message: format!("the document asks for {url}, which was refused"),
            remedy: "send it with the job (`assets`) and use a relative URL; a document has no \
                     network, no files and no frames"
                .into(),
        });
        missing.chain(refused).collect()
    }

    /// Whether this address has a warning of its own already.
    pub(super) fn named(&self, url: &str) -> bool {
        let shown = self.shelf.shown(url);
        self.missing.contains(&shown) || self.refused.contains(&shown)
    }
}

impl Traffic {
    /// Where the job's assets are.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether nothing is on its way, and nothing came or went since the last
    /// question. The renderer tells of a request before it answers a call that
    /// caused it.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut moved = false;
        // Who asks for so much that a list of events overflows is looked at by `LOADED`.
        while let Ok(Some(event)) = self.sent.try_next() {
            if let Ok(sent) = event.deserialize::<Sent<'_>>()
                && sent.request.url.starts_with("http")
            {
                self.open.insert(sent.request_id.into_owned());
                moved = true;
            }
        }
        for ended in [&mut self.finished, &mut self.failed] {
            while let Ok(Some(event)) = ended.try_next() {
                if let Ok(ended) = event.deserialize::<Ended<'_>>() {
                    moved |= self.open.remove(&*ended.request_id);
                }
            }
        }
        !moved && self.open.is_empty()
    }
}

fn too_many() -> Failed {
    Failed::broken(
        Class::Document,
        "too_many_requests",
        "the document asks for more than 1024 things at once".into(),
        "put images together, or send a simpler document",
    )
}
