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
//!
//! Chromium lays out in whole CSS pixels, and rounds a width that is not whole
//! up; what it prints is cut at the exact width. So a border at the right edge
//! lost up to a pixel. The right margin takes in the fraction: content is a
//! whole number of pixels wide, and the paper stays what it is. Margins that are
//! parameters are rounded to whole points, so the style sheet says them too,
//! unless the document has `@page` rules whose margins it would beat.

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
/// In these, in CSS pixels, Chromium counts margins; it drops the rest.
const LAYOUT_UNIT: f64 = 1.0 / 64.0;
/// So much, in CSS pixels, content is narrower than a whole number, unless that
/// can be hit exactly: what is a hair too wide is laid out a pixel wider, and
/// a border there is lost. Half of it was seen to be too little.
const HAIR_PIXELS: f64 = 4.0 * LAYOUT_UNIT;

/// What a roll adds to the style sheet: its height follows the content, so
/// nothing may ask for the height of a page, and nothing may end one.
const ROLL_CSS: &str = "html,body{height:auto!important;min-height:0!important;\
    max-height:none!important}*{break-before:auto!important;break-after:auto!important;\
    page:auto!important}";

/// Keeps a document without any layout except while it is printed, where the page is
/// higher than the viewport ever is. See [`Plan::css_until_printed`].
const NO_LAYOUT_CSS: &str = "@media(max-height:1px){:root{display:none!important}}";
/// A page with less room than this, in CSS pixels, might be taken for that viewport.
const LOW_PAGE: f64 = 2.0;

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

/// The plan for `options` and a document that has or has no `@page` rules.
///
/// # Examples
/// ```
/// use tillroll::job::RenderOptions;
/// use tillroll::job::length::Paper;
/// use tillroll::renderer::paper;
///
/// let roll = RenderOptions { paper: Paper::named("80mm"), ..RenderOptions::default() };
/// let plan = paper::plan(&roll, false);
/// assert!(plan.is_roll());
/// assert_eq!(plan.viewport_width(), 302);
/// assert_eq!(plan.roll_height(1036.0), 778.0);
/// ```
#[must_use]
pub fn plan(options: &RenderOptions, has_page_rules: bool) -> Plan {
    let roll = options.paper.is_some_and(|paper| paper.is_roll());
    let paper = options.paper.unwrap_or_else(default_paper);
    let default_margin = if roll { Length::ZERO } else { SHEET_MARGIN };
    let mut plan = Plan {
        css: String::new(),
        prefer_css_page_size: options.paper.is_none(),
        width: paper.width,
        height: paper.height,
        margins: options.margin.unwrap_or(Margins::all(default_margin)),
        scale: options.scale,
        landscape: options.landscape,
    };
    if options.margin.is_none() && has_page_rules {
        plan.css = css(options.paper.is_some(), roll, None);
        return plan;
    }
    let margins = plan.margins;
    plan.with_margins(margins)
}

/// The plan's margins, the right one enlarged so that content is a whole number
/// of pixels wide and ends on the paper, less than one pixel (and
/// [`HAIR_PIXELS`]) before the margin that was asked for. Chromium rounds paper
/// up to whole points, and what lies beyond the exact size is cut off later.
fn whole_across(plan: &Plan) -> Margins {
    let whole = (plan.content_pixels(plan.across()) + 1e-6).floor();
    let excess = plan.content_pixels(plan.across().ceil()) - whole;
    // Chromium's own sum comes out whole where it drops nothing.
    let counted = [plan.margins.left, plan.margins.right].iter().all(|margin| {
        let units = margin.pixels() / plan.scale / LAYOUT_UNIT;
        (units - units.round()).abs() < 1e-6
    });
    if whole < 1.0 || (counted && excess.abs() < 1e-6) {
        return plan.margins;
    }
    let excess = (excess + HAIR_PIXELS) * POINTS_PER_PIXEL * plan.scale;
    Margins { right: Length::from_points(plan.margins.right.points() + excess), ..plan.margins }
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

    /// The same plan with these margins, be it that they were found in the
    /// document. The style sheet says them, so that measuring and printing agree.
    #[must_use]
    pub fn with_margins(mut self, margins: Margins) -> Self {
        self.margins = margins;
        self.margins = whole_across(&self);
        self.css = css(!self.prefer_css_page_size, self.is_roll(), Some(&self.margins));
        self
    }

    /// The paper's height in points; of a roll the longest that there is.
    fn height_points(&self) -> f64 {
        match self.height {
            Height::Auto => MAX_POINTS,
            Height::Fixed(height) => height.points(),
        }
    }

    /// The longer side of the paper, in points.
    #[must_use]
    pub fn longest_side(&self) -> f64 {
        self.height_points().max(self.width.points())
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

    /// The width that Chromium lays content out in, in CSS pixels: a whole
    /// number, unless there is less than one pixel.
    #[must_use]
    pub fn content_width(&self) -> f64 {
        (self.content_pixels(self.across().ceil()) - 1e-6).ceil()
    }

    /// The paper's width as it is printed, turned or not, in points.
    fn across(&self) -> f64 {
        if self.landscape { self.height_points() } else { self.width.points() }
    }

    /// The width of content on paper of that many points, in CSS pixels.
    fn content_pixels(&self, across: f64) -> f64 {
        let margins = self.margins.left.points() + self.margins.right.points();
        (across - margins) / POINTS_PER_PIXEL / self.scale
    }

    /// The same in whole pixels, as the viewport is set for the job. Rounding
    /// down means that text is measured at most as wide as it is printed, so
    /// that a roll never comes out too short.
    #[must_use]
    pub fn viewport_width(&self) -> u32 {
        whole_pixels(self.content_width())
    }

    /// By which factor content that measures `pixels` is too wide, if it is.
    /// Measures are rounded up and the width is rounded down: an 80 mm box on
    /// 80 mm paper, a third of a pixel wider, is not too wide.
    #[must_use]
    pub fn too_wide_by(&self, pixels: f64) -> Option<f64> {
        let width = self.content_width().max(1.0);
        (pixels > width + 1.0).then(|| pixels / width)
    }

    /// The style sheet for a document about which nothing is asked before it is printed.
    ///
    /// Chromium lays a document out when it is set, once more on its pages, and a third
    /// time when it is printed, for the screen again. Where nobody looks at the first and
    /// the last, they are left out: a sixth of the CPU that a receipt takes.
    #[must_use]
    pub fn css_until_printed(&self) -> String {
        let margins = self.margins.top.points() + self.margins.bottom.points();
        let down = if self.landscape { self.width.points() } else { self.height_points() };
        if (down - margins) / POINTS_PER_PIXEL / self.scale < LOW_PAGE {
            return self.css.clone();
        }
        [&self.css, NO_LAYOUT_CSS].concat()
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
        let plan = plan(&RenderOptions::default(), true);
        assert_eq!(plan.css, "");
        assert!(plan.prefer_css_page_size);
        assert!(!plan.is_roll());
        assert_eq!(plan.margins, Margins::all(Length::from_mm(10.0)));
        let (width, height) = plan.inches(0.0);
        assert!((width * 72.0 - 595.275).abs() < 0.01, "{width}");
        assert!((height * 72.0 - 841.889).abs() < 0.01, "{height}");
    }

    #[test]
    fn until_it_is_printed_a_document_is_hidden_unless_its_page_is_as_low_as_the_viewport() {
        let sheet = |json: &str| {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            plan(&crate::job::options::parse(value.as_object().unwrap()).unwrap(), false)
        };
        let a6 = sheet(r#"{"paper":"A6"}"#);
        assert_eq!(a6.css_until_printed(), format!("{}{NO_LAYOUT_CSS}", a6.css));
        for low in [
            r#"{"paper":{"width":"80mm","height":"10.4mm"},"margin":"5mm"}"#,
            r#"{"paper":{"width":"10.4mm","height":"80mm"},"margin":"5mm","landscape":true}"#,
            r#"{"paper":{"width":"80mm","height":"10.9mm"},"margin":"5mm","scale":2}"#,
        ] {
            let plan = sheet(low);
            assert!(plan.has_room(), "{low}");
            assert_eq!(plan.css_until_printed(), plan.css, "{low}");
        }
    }

    #[test]
    fn without_rules_of_the_document_the_margins_are_said() {
        let plan = plan(&RenderOptions::default(), false);
        assert!(plan.css.starts_with("@page{margin:28.346"), "{}", plan.css);
        let Margins { top, right, bottom, left } = plan.margins;
        assert_eq!([top, bottom, left], [Length::from_mm(10.0); 3]);
        // 190 mm are 718.1 px, and Chromium's paper is 0.72 pt wider than A4.
        assert_eq!(plan.viewport_width(), 718);
        assert!((right.points() - left.points() - 0.85).abs() < 0.01, "{right}");
    }

    #[test]
    fn given_paper_and_margin_win_over_the_document() {
        let mut options = with("A5");
        assert_eq!(plan(&options, true).css, "@page{size:auto!important;}");
        assert!(!plan(&options, true).prefer_css_page_size);
        options.margin = Some(Margins::all(Length::from_points(9.0)));
        options.paper = Paper::named("Letter");
        let css = "@page{size:auto!important;margin:9pt 9pt 9pt 9pt!important;}";
        assert_eq!(plan(&options, true).css, css, "792 px as it is");
        options.paper = None;
        let css = plan(&options, true).css;
        assert!(
            css.starts_with("@page{margin:9pt 10.29") && css.ends_with("!important;}"),
            "{css}"
        );
        assert!(plan(&options, true).prefer_css_page_size);
    }

    #[test]
    fn a_roll_has_no_margin_and_no_breaks() {
        let plan = plan(&with("58mm"), false);
        assert!(plan.is_roll());
        let Margins { top, bottom, left, .. } = plan.margins;
        assert_eq!([top, bottom, left], [Length::ZERO; 3]);
        // 58 mm are 219.2 px.
        assert_eq!(plan.content_width(), 219.0);
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
        let plan = plan(&options, false);
        // 226.77 pt less 20 pt are 275.7 px, at half the size 551.4.
        assert_eq!(plan.viewport_width(), 551);
        assert!((plan.roll_height(100.0) - 59.0).abs() < 1e-9);
        assert!(plan.has_room());
        assert!(!plan.with_margins(Margins::all(Length::from_mm(40.0))).has_room());
    }

    #[test]
    fn content_as_wide_as_the_paper_is_not_too_wide() {
        let plan = plan(&with("80mm"), false);
        // 80 mm are 302.36 px, which measure 303.
        assert_eq!(plan.viewport_width(), 302);
        assert_eq!(plan.too_wide_by(302.0), None);
        assert_eq!(plan.too_wide_by(303.0), None);
        assert!(plan.too_wide_by(304.0).is_some_and(|by| by > 1.004));
    }

    #[test]
    fn landscape_turns_the_sheet() {
        let options = RenderOptions { landscape: true, ..with("Letter") };
        let plan = plan(&options, false);
        assert_eq!(plan.exact_size(), (792.0, Some(612.0)));
        assert!(plan.viewport_width() > 900);
    }

    proptest::proptest! {
        #[test]
        fn content_is_whole_pixels_wide_and_loses_less_than_one(
            mm in 20.0..300.0f64,
            left in 0.0..20.0f64,
            right in 0.0..20.0f64,
            scale in 0.1..2.0f64,
            landscape: bool,
        ) {
            let margins = Margins {
                left: Length::from_points(left),
                right: Length::from_points(right),
                ..Margins::all(Length::ZERO)
            };
            let height = Height::Fixed(Length::from_mm(100.0));
            let paper = Some(Paper { width: Length::from_mm(mm), height });
            let margin = Some(margins);
            let plan = plan(&RenderOptions { paper, margin, scale, landscape, ..Default::default() }, false);
            let exact = plan.content_pixels(plan.across().ceil());
            proptest::prop_assert!(exact <= exact.round() && exact.round() - exact < 0.1, "{exact}");
            proptest::prop_assert_eq!(plan.content_width(), f64::from(plan.viewport_width()));
            let points = plan.across() - left - right;
            let lost = points / POINTS_PER_PIXEL / scale - plan.content_width();
            proptest::prop_assert!((-1e-6..1.0).contains(&lost), "{lost}");
        }

        #[test]
        fn a_roll_is_never_lower_than_its_content(px in 0.0..20_000.0f64, scale in 0.1..2.0f64) {
            let plan = plan(&RenderOptions { scale, ..with("80mm") }, false);
            let height = plan.roll_height(px);
            proptest::prop_assert!(height >= px * 0.75 * scale + 1.0 - 1e-9);
            proptest::prop_assert!(height <= px * 0.75 * scale + 2.0 + 1e-9);
        }

        #[test]
        fn the_viewport_is_sane(scale in 0.1..2.0f64, mm in 4.0..5_000.0f64) {
            let paper = Paper { width: Length::from_mm(mm), height: Height::Auto };
            let options = RenderOptions { paper: Some(paper), scale, ..RenderOptions::default() };
            let width = plan(&options, false).viewport_width();
            proptest::prop_assert!((1..=10_000_000).contains(&width));
        }
    }
}
