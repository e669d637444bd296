//! One page: one document after the other, each printed once.
//!
//! ```text
//! prepare ─▶ set document ─▶ [wait for images and fonts] ─▶ [measure a roll] ─▶ print ─▶ finish
//!    │                              │                            │
//!    └ only what changed            └ only if it loads any       └ one page, or relaxed and once more
//! ```
//!
//! A document whose scripts run ([`script`]) has a page for itself alone, watched
//! by a [`guard`].
//!
//! A document with assets is rendered the same way, with its requests answered
//! beside it ([`fetch`]); one without pays nothing for that.
//!
//! One that brings much along is printed into a stream ([`stream`]).
//!
//! A plain receipt costs two calls to Chromium, one on a roll three: the page
//! remembers style sheet, viewport and media, and sets only what is new. Where nothing
//! is asked of it before it is printed, it is laid out once ([`unseen`]).
//!
//! Nothing of a document is left for the next: scripts are off, what a `<meta>`
//! could leave is disarmed (`markup`), `Page.setDocumentContent` replaces the rest,
//! and a page in which a document leaves more is renewed, and rid of a large one before it
//! rests ([`hygiene`]). Failures say whether the page took harm ([`Failed`]); the caller
//! destroys one that did, and one whose render was abandoned.

mod blame;
mod calls;
mod fetch;
mod finish;
mod guard;
mod hygiene;
mod prepared;
mod probe;
mod script;
mod stream;
mod unseen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::emulation::{
    SetDeviceMetricsOverrideParams, SetEmulatedMediaParams,
};
use chromiumoxide::cdp::browser_protocol::page::{
    EnableParams, PrintToPdfParams, PrintToPdfTransferMode,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::Instant;

pub use blame::Failed;
use finish::{Printed, Unfinished, finish};
use prepared::Prepared;

use super::assets::Shelf;
use super::cdp::{CdpError, Events, Session};
use super::context::Context;
use super::limits::Limits;
use super::markup::{self, Loads, Look};
use super::paper::{self, MAX_SHRINK, Plan};
use super::pdf::Finished;
use super::{RenderRequest, Rendered, Warning};
use crate::job::RenderOptions;
use crate::job::length::{Length, MAX_POINTS, Margins, PIXELS_PER_INCH, POINTS_PER_INCH};
use crate::job::options::Media;

/// At most this long, and at most half of what is left, for images and fonts.
const LOADING_LIMIT: Duration = Duration::from_secs(3);
/// First pause between two looks at what is loading; it doubles up to the last.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(32);
/// A second attempt at a roll gets this much more, in points.
const SECOND_ATTEMPT_POINTS: f64 = 12.0;
/// The viewport in which heights that follow the page are found out.
const OTHER_HEIGHT: u32 = 1_000;

/// A warm page in a context of its own.
#[derive(Debug)]
pub struct Page {
    session: Session,
    frame: String,
    css: String,
    viewport: (u32, u32),
    media: Option<Media>,
    spent: bool,
    /// Whether its last document was large, and is there still.
    large: bool,
    /// Whether it came from no address, in which frames of a document's own stay empty.
    nowhere: bool,
    /// Whether a document may be hidden until it is printed.
    hides: bool,
    /// How much time scripts see pass.
    script_time: Duration,
    /// Where the page went; it is to stay. Listened to from the first document on that
    /// could lead it away: what Chromium tells of a page costs a twentieth of a receipt.
    strays: Option<Events>,
}

/// One render: its page, its deadline, what was noticed.
struct Run<'a> {
    page: &'a mut Page,
    options: &'a RenderOptions,
    limits: &'a Limits,
    deadline: Instant,
    /// Whether its PDF is read piece by piece.
    in_pieces: bool,
    /// Of a job with assets.
    traffic: Option<fetch::Traffic>,
    /// Its style sheets, where they may have `@page` rules.
    sheets: BTreeMap<String, String>,
    loaded: Option<probe::Loaded>,
    warnings: Vec<Warning>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SetContent<'a> {
    frame_id: &'a str,
    html: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metrics {
    css_content_size: Size,
}

#[derive(Clone, Copy, Deserialize)]
struct Size {
    width: f64,
    height: f64,
}

impl Page {
    /// The page of a freshly opened context. Where scripts are on, it serves one
    /// document only, whose scripts see `script_time` pass.
    #[must_use]
    pub fn of(context: &Context, script_time: Duration) -> Self {
        Self {
            session: context.session().clone(),
            frame: context.frame_id().to_owned(),
            css: String::new(),
            viewport: (0, 0),
            media: None,
            spent: false,
            large: false,
            nowhere: context.starts_nowhere(),
            hides: true,
            script_time,
            strays: None,
        }
    }

    /// Whether it must not be used again although its last render went well: the
    /// document still asks for things, and the next one would be blamed for them.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// Renders one document; every wait ends at `deadline`.
    ///
    /// # Errors
    /// [`Failed`], which says whether the page may be used again. A future that
    /// is dropped leaves a page that may not.
    pub async fn render(
        &mut self,
        request: &RenderRequest,
        limits: &Limits,
        deadline: Instant,
    ) -> Result<Rendered, Failed> {
        let options = Arc::clone(&request.options);
        let prepared = Prepared::of(&request.html, limits.pages, deadline).await?;
        let (html, look) = (prepared.html(), prepared.look);
        self.large |= Self::is_large(request, look);
        let needs_address = look.has_frames || prints_address(&options);
        if self.nowhere && needs_address {
            let renewed = self.renew(deadline).await;
            renewed.map_err(|error| Failed::from_cdp(&error, options.timeout))?;
        }
        if look.may_navigate || options.script.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            let watched = self.watch(left).await.map(drop);
            watched.map_err(|error| Failed::from_cdp(&error, options.timeout))?;
        }
        let run = Run {
            page: self,
            options: &options,
            limits,
            deadline,
            in_pieces: stream::is_wanted(request),
            traffic: None,
            sheets: BTreeMap::new(),
            loaded: None,
            warnings: Vec::new(),
        };
        let result = if request.assets.is_empty() && options.script.is_none() {
            run.alone(request, html, look).await
        } else {
            let shelf = Shelf::of(&request.assets);
            run.with_assets(request, html, look, &shelf).await
        };
        let result = match self.stayed() {
            Ok(()) => result,
            Err(left) => {
                let noticed = result.map_or_else(
                    |failed| failed.failure.warnings.into_vec(),
                    |rendered| rendered.warnings,
                );
                Err(Failed { failure: left.failure.with_warnings(noticed), ..left })
            }
        };
        // Where scripts ran it serves nobody again.
        let is_kept = !self.spent && options.script.is_none();
        if is_kept && result.as_ref().err().is_none_or(|failed| failed.page_is_sound) {
            self.wash(look, deadline).await;
        }
        let sound = !self.spent;
        result.map_err(|failed| Failed { page_is_sound: failed.page_is_sound && sound, ..failed })
    }

    /// Has Chromium tell from now on where the page goes.
    async fn watch(&mut self, timeout: Duration) -> Result<&mut Events, CdpError> {
        let strays = match self.strays.take() {
            Some(strays) => strays,
            None => {
                let strays = self.session.events("Page.frameNavigated");
                self.session.call(EnableParams::default(), timeout).await?;
                strays
            }
        };
        Ok(self.strays.insert(strays))
    }

    /// Nothing in a document may lead its page away; where something did, what is
    /// printed is not the document, and the next one would not be safe.
    fn stayed(&mut self) -> Result<(), Failed> {
        let Some(strays) = &mut self.strays else { return Ok(()) };
        loop {
            match strays.try_next() {
                Ok(Some(event)) if guard::went_elsewhere(&event) => {
                    return Err(Failed::page_left());
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                // From here on nobody could tell where the page is.
                Err(_) => return Err(Failed::too_many_frames()),
            }
        }
    }
}

impl Run<'_> {
    /// A document that brings nothing along.
    async fn alone(
        mut self,
        request: &RenderRequest,
        html: &str,
        look: Look,
    ) -> Result<Rendered, Failed> {
        let result = self.render(request, html, look).await;
        let mut warnings = self.loaded.take().map(|l| l.warnings(|_| false)).unwrap_or_default();
        warnings.append(&mut self.warnings);
        ended(result, warnings)
    }

    /// A document with assets: while it is rendered, they are served.
    async fn with_assets(
        mut self,
        request: &RenderRequest,
        html: &str,
        look: Look,
        shelf: &Shelf,
    ) -> Result<Rendered, Failed> {
        let (session, deadline) = (self.page.session.clone(), self.deadline);
        let opened = fetch::open(&session, shelf, deadline).await;
        let (mut server, traffic) = opened.map_err(|error| self.failed(&error))?;
        self.traffic = Some(traffic);
        let sheets = shelf.style_sheets().map(|(name, css)| (name.to_owned(), css.into_owned()));
        self.sheets = sheets.collect();
        let in_sheets = self.sheets.values().any(|css| markup::has_page_rules(css));
        let has_page_rules = in_sheets || look.has_page_rules;
        let forces_breaks =
            look.forces_breaks || self.sheets.values().any(|css| markup::forces_breaks(css));
        let look = Look { has_page_rules, forces_breaks, loads: Loads::Anything, ..look };
        let scripts = self.options.script.is_some();
        let html = shelf.with_base(html, if scripts { script::head() } else { "" });
        let mut guard = scripts.then(|| guard::Guard::of(&session, &self.page.frame));
        let watched = async {
            match &mut guard {
                Some(guard) => guard.watch(deadline).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            result = self.render(request, &html, look) => result,
            failed = server.serve(deadline) => Err(failed),
            failed = watched => Err(failed),
        };
        // A page with scripts serves nobody else, and may hang in a dialog by now that
        // nobody dismisses any more.
        if !scripts && result.as_ref().err().is_none_or(|failed| failed.page_is_sound) {
            fetch::close(&session, deadline).await.map_err(|error| self.failed(&error))?;
        }
        let loaded = self.loaded.take();
        let is_settled = loaded.as_ref().is_some_and(|loaded| loaded.ready);
        self.page.spent = !is_settled;
        let result = result.map_err(|failed| Failed {
            page_is_sound: failed.page_is_sound && is_settled,
            ..failed
        });
        let mut warnings = loaded.map(|l| l.warnings(|url| server.named(url))).unwrap_or_default();
        warnings.extend(server.warnings());
        warnings.append(&mut self.warnings);
        ended(result, warnings)
    }

    async fn render(
        &mut self,
        request: &RenderRequest,
        html: &str,
        look: Look,
    ) -> Result<(Finished, u32), Failed> {
        let plan = paper::plan(self.options, look.has_page_rules);
        if !plan.has_room() {
            return Err(Failed::margin_too_large());
        }
        let hidden = self.prepare_for(look, &plan).await?;
        let content = SetContent { frame_id: &self.page.frame.clone(), html };
        if let Some(script) = &self.options.script {
            self.play(&content, script, request.options.info.date.unwrap_or(request.date)).await?;
            self.end_of_play().await?;
        } else {
            self.raw("Page.setDocumentContent", &content).await?;
        }
        if look.loads > Loads::Nothing {
            self.wait_until_loaded().await?;
        }
        let date = request.date;
        let (pdf, pages) = if plan.is_roll() {
            self.print_roll(plan, look.has_page_rules, date).await?
        } else {
            self.check_pages(look, &plan).await?;
            self.print_sheets(&plan, request, hidden).await?
        };
        Ok((pdf, u32::try_from(pages).unwrap_or(u32::MAX)))
    }

    /// Sets style sheet, viewport and media, where they are not set already: all at once,
    /// since each takes a way through three processes.
    async fn prepare(&mut self, plan: &Plan, css: &str) -> Result<(), Failed> {
        let (viewport, media) = ((plan.viewport_width(), 1), self.options.media);
        let has_media = self.page.media == Some(media);
        let has_viewport = self.page.viewport == viewport;
        let has_css = self.page.css == css;
        // A page in which one of them fails serves nobody again.
        tokio::try_join!(
            async { if has_media { Ok(()) } else { self.send_media(media).await } },
            async { if has_viewport { Ok(()) } else { self.send_viewport(viewport).await } },
            async { if has_css { Ok(()) } else { self.send_css(css).await } },
        )?;
        (self.page.media, self.page.viewport) = (Some(media), viewport);
        css.clone_into(&mut self.page.css);
        Ok(())
    }

    async fn send_media(&self, media: Media) -> Result<(), Failed> {
        let name = match media {
            Media::Print => "print",
            Media::Screen => "screen",
        };
        self.call(SetEmulatedMediaParams::builder().media(name).build()).await.map(drop)
    }

    async fn send_viewport(&self, (width, height): (u32, u32)) -> Result<(), Failed> {
        let (width, height) = (i64::from(width), i64::from(height));
        let params = SetDeviceMetricsOverrideParams::new(width, height, 1.0, false);
        self.call(params).await.map(drop)
    }

    async fn send_css(&self, css: &str) -> Result<(), Failed> {
        self.evaluate::<serde::de::IgnoredAny>(&probe::adopt(css)).await.map(drop)
    }

    /// The viewport decides what a roll measures and which of several images
    /// is chosen, never the size of a sheet.
    async fn set_viewport(&mut self, width: u32, height: u32) -> Result<(), Failed> {
        if self.page.viewport != (width, height) {
            self.page.viewport = (0, 0);
            self.send_viewport((width, height)).await?;
            self.page.viewport = (width, height);
        }
        Ok(())
    }

    /// Images decode and fonts load on their own time, from `data:` URLs too.
    async fn wait_until_loaded(&mut self) -> Result<(), Failed> {
        let limit = Instant::now() + LOADING_LIMIT.min(self.left() / 2);
        let mut pause = FIRST_LOOK;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            match self.evaluate_within::<probe::Loaded>(probe::LOADED, left).await {
                Ok(mut loaded) => {
                    let quiet = self.traffic.as_mut().is_none_or(fetch::Traffic::is_quiet);
                    loaded.ready &= quiet;
                    if loaded.ready || left <= pause {
                        self.loaded = Some(loaded);
                        return Ok(());
                    }
                    tokio::time::sleep(pause).await;
                }
                // A page that hangs fails at its deadline, in the next call.
                Err(CdpError::Timeout { .. }) if !self.left().is_zero() => {
                    self.warnings.push(probe::still_loading());
                    return Ok(());
                }
                Err(error) => return Err(self.failed(&error)),
            }
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    async fn print_roll(
        &mut self,
        mut plan: Plan,
        has_page_rules: bool,
        date: OffsetDateTime,
    ) -> Result<(Finished, usize), Failed> {
        if has_page_rules && self.options.margin.is_none() {
            let found: probe::PageMargins = self.evaluate(&probe::margins(&self.sheets)).await?;
            plan = plan.with_margins(margins(&found));
            if !plan.has_room() {
                return Err(Failed::margin_too_large());
            }
            self.prepare(&plan, &plan.css).await?;
        }
        let height = self.measure(&plan).await?;
        let options = Arc::new(self.options.clone());
        let printed = self.print(&plan, height).await?;
        match finish(printed, &options, plan.exact_size(), date, Some(1)).await {
            Err(Unfinished::Pages(_)) => {}
            other => return Ok(other?),
        }
        // Something in it follows the height of the page, so no height is enough.
        self.evaluate::<serde::de::IgnoredAny>(probe::NOTE_HEIGHTS).await?;
        self.set_viewport(plan.viewport_width(), OTHER_HEIGHT).await?;
        self.evaluate::<serde::de::IgnoredAny>(probe::RELEASE_HEIGHTS).await?;
        self.set_viewport(plan.viewport_width(), 1).await?;
        self.warnings.retain(|warning| warning.code != "content_too_wide");
        let height = self.measure(&plan).await? + SECOND_ATTEMPT_POINTS;
        let printed = self.print(&plan, height).await?;
        Ok(finish(printed, &options, plan.exact_size(), date, Some(1)).await?)
    }

    /// How high a roll must be for the document in the page, in points.
    async fn measure(&mut self, plan: &Plan) -> Result<f64, Failed> {
        let narrow = plan.viewport_width();
        let mut size = self.content_size().await?;
        if let Some(by) = plan.too_wide_by(size.width) {
            // Chromium lays such a document out in a wider page and shrinks it.
            let shrunk = by.min(MAX_SHRINK);
            self.set_viewport(paper::whole_pixels(f64::from(narrow) * shrunk), 1).await?;
            let wide = self.content_size().await?;
            self.set_viewport(narrow, 1).await?;
            size.height = wide.height / shrunk;
            self.warnings.push(probe::too_wide(by, shrunk));
        }
        let height = plan.roll_height(size.height);
        if height > MAX_POINTS { Err(Failed::page_too_long(height)) } else { Ok(height) }
    }

    async fn content_size(&self) -> Result<Size, Failed> {
        #[derive(Serialize)]
        struct Nothing {}
        let reply = self.raw("Page.getLayoutMetrics", &Nothing {}).await?;
        let metrics: Metrics = reply.deserialize().map_err(|error| self.failed(&error))?;
        Ok(metrics.css_content_size)
    }

    async fn print(&self, plan: &Plan, roll_height: f64) -> Result<Printed, Failed> {
        if let Some(traffic) = &self.traffic {
            let take_out = probe::take_out_base(traffic.origin());
            self.evaluate::<serde::de::IgnoredAny>(&take_out).await?;
        }
        let (width, height) = plan.inches(roll_height);
        let options = self.options;
        let mut params = PrintToPdfParams::builder()
            .landscape(plan.landscape)
            .print_background(options.background)
            .scale(plan.scale)
            .paper_width(width)
            .paper_height(height)
            .margin_top(plan.margins.top.inches())
            .margin_right(plan.margins.right.inches())
            .margin_bottom(plan.margins.bottom.inches())
            .margin_left(plan.margins.left.inches())
            .prefer_css_page_size(plan.prefer_css_page_size)
            .transfer_mode(PrintToPdfTransferMode::ReturnAsBase64)
            .generate_tagged_pdf(options.tagged)
            .generate_document_outline(options.outline);
        if !options.pages.is_empty() {
            params = params.page_ranges(&options.pages);
        } else if !plan.is_roll()
            && let Some(range) = self.limits.page_range()
        {
            params = params.page_ranges(range);
        }
        if options.header.is_some() || options.footer.is_some() {
            // Without a template Chromium prints one of its own.
            let or_none = |html: &Option<String>| html.clone().unwrap_or("<span></span>".into());
            params = params
                .display_header_footer(true)
                .header_template(or_none(&options.header))
                .footer_template(or_none(&options.footer));
        }
        let params = params.build();
        if self.in_pieces {
            return self.print_to_stream(params).await.map(Printed::File);
        }
        self.raw("Page.printToPDF", &params).await.map(Printed::Reply)
    }
}

/// Whether header or footer may have Chromium's class `url`: it is to say the same on
/// every page.
fn prints_address(options: &RenderOptions) -> bool {
    [&options.header, &options.footer].into_iter().flatten().any(|html| html.contains("url"))
}

/// What was noticed goes with the PDF, or with the failure.
fn ended(
    result: Result<(Finished, u32), Failed>,
    warnings: Vec<Warning>,
) -> Result<Rendered, Failed> {
    match result {
        Ok((Finished { pdf, sha256 }, pages)) => {
            Ok(Rendered { pdf, sha256: Some(sha256), pages, warnings })
        }
        Err(Failed { failure, page_is_sound }) => {
            Err(Failed { failure: failure.with_warnings(warnings), page_is_sound })
        }
    }
}

fn margins(found: &probe::PageMargins) -> Margins {
    let side = |pixels: Option<f64>| {
        Length::from_points(pixels.unwrap_or_default().max(0.0) * POINTS_PER_INCH / PIXELS_PER_INCH)
    };
    Margins {
        top: side(found.top),
        right: side(found.right),
        bottom: side(found.bottom),
        left: side(found.left),
    }
}
