//! Watches over a page whose scripts run: every dialog is dismissed, and a page
//! that is led away from its document ends its job.
//!
//! Windows, downloads, permissions, workers and the network are refused where the
//! context is opened, in the browser's flags and in front of the document; this is
//! what is left. It works beside the render, since a dialog holds up every call.

use std::borrow::Cow;
use std::future::pending;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Failed;
use crate::renderer::cdp::{CdpError, Event, Events, Session};

/// A document may open so many dialogs; a loop of them would never end.
const MOST_DIALOGS: u32 = 100;

pub(super) struct Guard {
    session: Session,
    frame: String,
    dialogs: Events,
    leaving: Events,
    dismissed: u32,
}

#[derive(Serialize)]
struct Answer {
    accept: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Leaving<'a> {
    #[serde(borrow)]
    frame_id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Navigated<'a> {
    #[serde(borrow)]
    frame: Place<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place<'a> {
    #[serde(borrow)]
    parent_id: Option<Cow<'a, str>>,
}

/// Whether an event of `Page.frameNavigated` tells that the page itself went elsewhere.
pub(super) fn went_elsewhere(event: &Event) -> bool {
    event.deserialize::<Navigated<'_>>().is_ok_and(|navigated| navigated.frame.parent_id.is_none())
}

impl Guard {
    /// Watches from now on.
    pub(super) fn of(session: &Session, frame: &str) -> Self {
        Self {
            session: session.clone(),
            frame: frame.to_owned(),
            dialogs: session.events("Page.javascriptDialogOpening"),
            leaving: session.events("Page.frameRequestedNavigation"),
            dismissed: 0,
        }
    }

    /// Watches until it is dropped. It ends by itself only where the render
    /// cannot go on.
    pub(super) async fn watch(&mut self, deadline: Instant) -> Failed {
        loop {
            tokio::select! {
                dialog = self.dialogs.next() => match dialog {
                    Ok(Some(_)) if self.dismissed == MOST_DIALOGS => {
                        return Failed::too_many_dialogs(MOST_DIALOGS);
                    }
                    Ok(Some(_)) => self.dismiss(deadline).await,
                    // The render itself learns of it from its next call.
                    Ok(None) => pending().await,
                    Err(_) => return Failed::too_many_dialogs(MOST_DIALOGS),
                },
                leaving = self.leaving.next() => match leaving {
                    Ok(Some(event)) if self.is_main(&event) => return Failed::page_left(),
                    Ok(Some(_)) => {}
                    Ok(None) => pending().await,
                    // Frames that are led about without end hide what the page does.
                    Err(_) => return Failed::page_left(),
                },
            }
        }
    }

    fn is_main(&self, event: &Event) -> bool {
        event.deserialize::<Leaving<'_>>().is_ok_and(|leaving| *leaving.frame_id == *self.frame)
    }

    async fn dismiss(&mut self, deadline: Instant) {
        self.dismissed += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = Answer { accept: false };
        match self.session.call_raw("Page.handleJavaScriptDialog", &answer, left).await {
            // Refused: it is closed already.
            Ok(_) | Err(CdpError::Refused { .. }) => {}
            // These meet the render's own calls too, which know more.
            Err(_) => pending().await,
        }
    }
}
