//! What the tests on Chromium share.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use chromiumoxide::cdp::browser_protocol::page::SetDocumentContentParams;
use serde::Deserialize;
use tillroll::renderer::browser::{Browser, BrowserConfig};
use tillroll::renderer::cdp::CdpError;
use tillroll::renderer::context::{Context, ContextOptions};
use tillroll::renderer::engine::{self, Search};
use tillroll::renderer::jail::Jail;
use tillroll::renderer::launcher::Launcher;

/// More than anything here should take, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The machine's engine.
pub(crate) fn engine() -> engine::Engine {
    engine::find(&Search { path: vec!["/usr/bin".into()], ..Search::default() })
        .expect("the tests need a Chromium: apt-get install chromium-headless-shell")
}

/// A configuration with the machine's engine and the jail.
pub(crate) fn jailed() -> BrowserConfig {
    let dirs = ["/usr/bin", "/usr/local/bin", "/bin"].map(PathBuf::from);
    let jail = Jail::find(&dirs).expect("the tests need bubblewrap: apt-get install bubblewrap");
    // The suite shares its cores with whoever builds or tests beside it, and has time limits.
    BrowserConfig { nice: 0, ..BrowserConfig::new(engine(), jail) }
}

/// A browser in the jail.
pub(crate) async fn browser() -> Browser {
    let launcher = Launcher::start().unwrap();
    Browser::launch(&launcher, &jailed()).await.unwrap()
}

/// A context without frames.
pub(crate) async fn context(browser: &Browser) -> Context {
    browser.open_context(ContextOptions::default(), PATIENCE).await.unwrap()
}

/// Sets a document.
pub(crate) async fn set(context: &Context, html: &str) -> Result<(), CdpError> {
    let params = SetDocumentContentParams::new(context.frame_id().to_owned(), html);
    context.session().call(params, PATIENCE).await.map(drop)
}

/// Prints what is set.
pub(crate) async fn print(context: &Context, timeout: Duration) -> Result<Vec<u8>, CdpError> {
    #[derive(Deserialize)]
    struct Printed<'a> {
        data: &'a str,
    }
    let params = serde_json::json!({"generateTaggedPDF": false});
    let reply = context.session().call_raw("Page.printToPDF", &params, timeout).await?;
    let printed: Printed<'_> = reply.deserialize()?;
    Ok(base64::engine::general_purpose::STANDARD.decode(printed.data).unwrap())
}

/// Sets and prints.
pub(crate) async fn pdf(context: &Context, html: &str) -> Result<Vec<u8>, CdpError> {
    set(context, html).await?;
    print(context, PATIENCE).await
}
