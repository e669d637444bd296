//! Paper maths: from a job's options to what is asked of Chromium. Pure.
//!
//! Three things decide the size of a printed page, and Chromium weighs them in
//! its own way (seen on version 156):
//!
//! - the document's `@page { size }` wins where `preferCSSPageSize` is set, and
//!   where it is not, it is centred on the given paper, or shrunk onto it, and
//!   even turns it;
//! - the document's `@page { margin }` wins always;
//! - the parameters of the print command are what is left.
//!
//! So what the job asks for is put before the document's rules by a style sheet
//! of our own ([`Plan::css`]): `size: auto` gives the paper back to the
//! parameters, and `!important` beats whatever the document says. It is adopted
//! by the page next to the document, which is not touched, and it outlives the
//! document, so that jobs which ask for the same paper pay for it once.
//!
//! A roll is one page as high as its content. It is measured in a viewport as
//! wide as the paper and one pixel high, so that heights in percent do not add
//! to it, and its page breaks are taken away.

use crate::job::RenderOptions;
use crate::job::length::{
    Height, Length, MAX_POINTS, Margins, PIXELS_PER_INCH, POINTS_PER_INCH, Paper,
};

/// Points in one CSS pixel.
const POINTS_PER_PIXEL: f64 = POINTS_PER_INCH / PIXELS_PER_INCH;
/// The margin of a sheet where neither the job nor the document gives one.
const SHEET_MARGIN: Length = Length::from_mm(10.0);
/// Chromium widens the page by at most this to take in content that is too
/// wide, and scales the result down; what is wider still is cut off.
pub const MAX_SHRINK: f64 = 1.5;

/// What a roll adds to the style sheet: its height follows the content, so
/// nothing may ask for the height of a page, and nothing may end one.
const ROLL_CSS: &str = "html,body{height:auto!important;min-height:0!important;\
    max-height:none!important}*{break-before:auto!important;break-after:auto!important;\
    page:auto!important}";

/// How one job is printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The style sheet that puts the job's paper and margins before the
    /// document's; empty where the document decides.
    pub css: String,
    /// Whether the document's `@page { size }` decides on the paper.
    pub prefer_css_page_size: bool,
    /// The paper that is asked for, upright; of a roll only the width counts.
    pub width: Length,
    /// See `width`.
    pub height: Height,
    /// What is asked for; the document's `@page { margin }` wins unless `css` says otherwise.
    pub margins: Margins,
    /// Magnification.
    pub scale: f64,
    /// Turned by a quarter.
    pub landscape: bool,
}

/// The plan for `options`.
///
/// # Examples
/// ```
/// use tillroll::job::RenderOptions;
/// use tillroll::job::length::Paper;
/// use tillroll::renderer::paper;
///
/// let roll = RenderOptions { paper: Paper::named("80mm"), ..RenderOptions::default() };
/// let plan = paper::plan(&roll);
/// assert!(plan.is_roll());
/// assert_eq!(plan.viewport_width(), 302);
/// assert_eq!(plan.roll_height(1036.0), 778.0);
/// ```
#[must_use]
pub fn plan(options: &RenderOptions) -> Plan {
    let roll = options.paper.is_some_and(|paper| paper.is_roll());
    let paper = options.paper.unwrap_or_else(default_paper);
    let default_margin = if roll { Length::ZERO } else { SHEET_MARGIN };
    Plan {
        css: css(options.paper.is_some(), roll, options.margin.as_ref()),
        prefer_css_page_size: options.paper.is_none(),
        width: paper.width,
        height: paper.height,
        margins: options.margin.unwrap_or(Margins::all(default_margin)),
        scale: options.scale,
        landscape: options.landscape,
    }
}

/// The sheet where neither the job nor the document gives one.
fn default_paper() -> Paper {
    Paper { width: Length::from_mm(210.0), height: Height::Fixed(Length::from_mm(297.0)) }
}

fn css(paper: bool, roll: bool, margins: Option<&Margins>) -> String {
    let mut rules = String::new();
    if paper {
        rules.push_str("size:auto!important;");
    }
    if let Some(Margins { top, right, bottom, left }) = margins {
        let [top, right, bottom, left] = [top, right, bottom, left].map(|side| side.points());
        rules.push_str(&format!("margin:{top}pt {right}pt {bottom}pt {left}pt!important;"));
    }
    let mut css = String::new();
    if !rules.is_empty() {
        css = format!("@page{{{rules}}}");
    }
    if roll {
        css.push_str(ROLL_CSS);
    }
    css
}

impl Plan {
    /// Whether the paper is a roll, which must be measured before it is printed.
    #[must_use]
    pub fn is_roll(&self) -> bool {
        matches!(self.height, Height::Auto)
    }

    /// The same plan with margins that were found in the document. They are
    /// said again in the style sheet, so that measuring and printing agree.
    #[must_use]
    pub fn with_margins(mut self, margins: Margins) -> Self {
        self.css = css(!self.prefer_css_page_size, self.is_roll(), Some(&margins));
        self.margins = margins;
        self
    }

    /// The paper's height in points; of a roll the longest that there is.
    fn height_points(&self) -> f64 {
        match self.height {
            Height::Auto => MAX_POINTS,
            Height::Fixed(height) => height.points(),
        }
    }

    /// Whether the margins leave room for content.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let across = self.margins.left.points() + self.margins.right.points();
        let down = self.margins.top.points() + self.margins.bottom.points();
        let (mut width, mut height) = (self.width.points(), self.height_points());
        if self.landscape {
            std::mem::swap(&mut width, &mut height);
        }
        across < width && down < height
    }

    /// The width that Chromium prints content in, in CSS pixels. It rounds
    /// paper up to whole points.
    #[must_use]
    pub fn content_width(&self) -> f64 {
        let across = if self.landscape { self.height_points() } else { self.width.points() };
        let margins = self.margins.left.points() + self.margins.right.points();
        (across.ceil() - margins) / POINTS_PER_PIXEL / self.scale
    }

    /// The same in whole pixels, as the viewport is set for the job. Rounding
    /// down means that text is measured at most as wide as it is printed, so
    /// that a roll never comes out too short.
    #[must_use]
    pub fn viewport_width(&self) -> u32 {
        whole_pixels(self.content_width())
    }

    /// By which factor content that measures `pixels` is too wide, if it is.
    /// Measures are rounded up: an 80 mm box on 80 mm paper is not too wide.
    #[must_use]
    pub fn too_wide_by(&self, pixels: f64) -> Option<f64> {
        let width = self.content_width().max(1.0);
        (pixels > width.ceil()).then(|| pixels / width)
    }

    /// The height in points of a roll whose content is `pixels` CSS pixels high.
    ///
    /// One point is added: the height is rounded, and a page that lacks a
    /// hundredth of a point makes a second one.
    #[must_use]
    pub fn roll_height(&self, pixels: f64) -> f64 {
        let margins = self.margins.top.points() + self.margins.bottom.points();
        (pixels * POINTS_PER_PIXEL * self.scale + margins).ceil() + 1.0
    }

    /// Paper width and height in inches for the print command; `roll_height`
    /// in points, where the paper is a roll.
    #[must_use]
    pub fn inches(&self, roll_height: f64) -> (f64, f64) {
        let height = if self.is_roll() { roll_height } else { self.height_points() };
        (inches(self.width.points()), inches(height))
    }

    /// The exact size of the finished pages in points: the width, and the
    /// height unless it followed the content.
    #[must_use]
    pub fn exact_size(&self) -> (f64, Option<f64>) {
        match self.height {
            Height::Auto => (self.width.points(), None),
            Height::Fixed(height) if self.landscape => (height.points(), Some(self.width.points())),
            Height::Fixed(height) => (self.width.points(), Some(height.points())),
        }
    }
}

/// Points in inches, a hair less: Chromium rounds up to whole points, and a
/// whole number must not become the next one on its way through inches.
fn inches(points: f64) -> f64 {
    (points - 0.001) / POINTS_PER_INCH
}

/// Down to whole pixels, at least one, at most what Chromium takes.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 1..=10,000,000 first; NaN becomes 0 by definition of the cast"
)]
pub(crate) fn whole_pixels(pixels: f64) -> u32 {
    // The hair above keeps 302.9999999 what it was meant to be.
    (pixels + 1e-6).floor().clamp(1.0, 10_000_000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(paper: &str) -> RenderOptions {
        RenderOptions { paper: Paper::named(paper), ..RenderOptions::default() }
    }

    #[test]
    fn without_options_the_document_decides() {
        let plan = plan(&RenderOptions::default());
        assert_eq!(plan.css, "");
        assert!(plan.prefer_css_page_size);
        assert!(!plan.is_roll());
        assert_eq!(plan.margins, Margins::all(Length::from_mm(10.0)));
        let (width, height) = plan.inches(0.0);
        assert!((width * 72.0 - 595.275).abs() < 0.01, "{width}");
        assert!((height * 72.0 - 841.889).abs() < 0.01, "{height}");
    }

    #[test]
    fn given_paper_and_margin_win_over_the_document() {
        let mut options = with("A5");
        assert_eq!(plan(&options).css, "@page{size:auto!important;}");
        assert!(!plan(&options).prefer_css_page_size);
        options.margin = Some(Margins::all(Length::from_points(9.5)));
        let css = "@page{size:auto!important;margin:9.5pt 9.5pt 9.5pt 9.5pt!important;}";
        assert_eq!(plan(&options).css, css);
        options.paper = None;
        assert_eq!(plan(&options).css, "@page{margin:9.5pt 9.5pt 9.5pt 9.5pt!important;}");
        assert!(plan(&options).prefer_css_page_size);
    }

    #[test]
    fn a_roll_has_no_margin_and_no_breaks() {
        let plan = plan(&with("58mm"));
        assert!(plan.is_roll());
        assert_eq!(plan.margins, Margins::all(Length::ZERO));
        assert!(plan.css.contains("break-after:auto!important"));
        assert_eq!(plan.exact_size().1, None);
    }

    #[test]
    fn whole_points_stay_what_they_are() {
        for points in 1..=14_400_u32 {
            let points = f64::from(points);
            assert!((inches(points) * 72.0).ceil() - points < 0.5, "{points}");
        }
    }

    #[test]
    fn margins_and_scale_change_the_viewport_and_the_height() {
        let mut options = with("80mm");
        options.margin = Some(Margins::all(Length::from_points(10.0)));
        options.scale = 0.5;
        let plan = plan(&options);
        // 227 pt less 20 pt are 276 px, at half the size 552.
        assert_eq!(plan.viewport_width(), 552);
        assert!((plan.roll_height(100.0) - 59.0).abs() < 1e-9);
        assert!(plan.has_room());
        assert!(!plan.with_margins(Margins::all(Length::from_mm(40.0))).has_room());
    }

    #[test]
    fn content_as_wide_as_the_paper_is_not_too_wide() {
        let plan = plan(&with("80mm"));
        // 80 mm are 302.36 px, which measure 303.
        assert_eq!(plan.too_wide_by(302.0), None);
        assert_eq!(plan.too_wide_by(303.0), None);
        assert!(plan.too_wide_by(304.0).is_some_and(|by| by > 1.004));
    }

    #[test]
    fn landscape_turns_the_sheet() {
        let options = RenderOptions { landscape: true, ..with("Letter") };
        let plan = plan(&options);
        assert_eq!(plan.exact_size(), (792.0, Some(612.0)));
        assert!(plan.viewport_width() > 900);
    }

    proptest::proptest! {
        #[test]
        fn a_roll_is_never_lower_than_its_content(px in 0.0..20_000.0f64, scale in 0.1..2.0f64) {
            let plan = plan(&RenderOptions { scale, ..with("80mm") });
            let height = plan.roll_height(px);
            proptest::prop_assert!(height >= px * 0.75 * scale + 1.0 - 1e-9);
            proptest::prop_assert!(height <= px * 0.75 * scale + 2.0 + 1e-9);
        }

        #[test]
        fn the_viewport_is_sane(scale in 0.1..2.0f64, mm in 4.0..5_000.0f64) {
            let paper = Paper { width: Length::from_mm(mm), height: Height::Auto };
            let options = RenderOptions { paper: Some(paper), scale, ..RenderOptions::default() };
            let width = plan(&options).viewport_width();
            proptest::prop_assert!((1..=10_000_000).contains(&width));
        }
    }
}
