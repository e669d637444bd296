//! Calls to the page of one render: each ends at its deadline, and its failure
//! is told in words for the job.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Failed, Run};
use crate::renderer::cdp::{CdpError, RawReply};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Evaluate<'a> {
    expression: &'a str,
    await_promise: bool,
    return_by_value: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Evaluated<T> {
    result: Remote<T>,
    exception_details: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Remote<T> {
    value: Option<T>,
}

impl Run<'_> {
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(super) fn failed(&self, error: &CdpError) -> Failed {
        Failed::from_cdp(error, self.options.timeout)
    }

    pub(super) async fn call<C>(&self, params: C) -> Result<C::Response, Failed>
    where
        C: chromiumoxide::types::Command + Serialize,
    {
        let reply = self.page.session.call(params, self.left()).await;
        reply.map_err(|error| self.failed(&error))
    }

    pub(super) async fn raw<P>(&self, method: &'static str, params: &P) -> Result<RawReply, Failed>
    where
        P: Serialize + Sync,
    {
        let reply = self.page.session.call_raw(method, params, self.left()).await;
        reply.map_err(|error| self.failed(&error))
    }

    pub(super) async fn evaluate<T: DeserializeOwned + Default>(
        &self,
        text: &str,
    ) -> Result<T, Failed> {
        let value = self.evaluate_within(text, self.left()).await;
        value.map_err(|error| self.failed(&error))
    }

    pub(super) async fn evaluate_within<T: DeserializeOwned + Default>(
        &self,
        expression: &str,
        timeout: Duration,
    ) -> Result<T, CdpError> {
        const METHOD: &str = "Runtime.evaluate";
        let params = Evaluate { expression, await_promise: true, return_by_value: true };
        let reply = self.page.session.call_raw(METHOD, &params, timeout).await?;
        let evaluated: Evaluated<T> = reply.deserialize()?;
        if evaluated.exception_details.is_some() {
            let detail = "an expression of ours threw an exception".to_owned();
            return Err(CdpError::Malformed { method: METHOD, detail });
        }
        Ok(evaluated.result.value.unwrap_or_default())
    }
}
