//! Bars and distributions as SVG, readable on light and on dark ground.

use std::fmt::Write as _;

use crate::report::number;

const WIDTH: f64 = 760.0;
const STYLE: &str = "<style>\
svg{--bg:#fff;--fg:#1f2328;--dim:#59636e;--grid:#d8dee4;--a:#0969da;--b:#8c959f;--c:#1a7f37;--d:#9a6700;--e:#cf222e}\
@media(prefers-color-scheme:dark){svg{--bg:#0d1117;--fg:#e6edf3;--dim:#9198a1;--grid:#30363d;--a:#4493f8;--b:#6e7681;--c:#3fb950;--d:#d29922;--e:#f85149}}\
text{font:12px system-ui,sans-serif;fill:var(--dim)}.v{fill:var(--fg)}.t{font-size:13px;font-weight:600;fill:var(--fg)}\
.g{stroke:var(--grid);fill:none}.l{fill:none;stroke-width:2}.r{text-anchor:end}.m{text-anchor:middle}</style>";

/// One bar; `label` is empty where it goes with the bar above.
pub(crate) struct Bar {
    label: String,
    series: &'static str,
    value: f64,
}

impl Bar {
    pub(crate) fn new(label: &str, series: &'static str, value: f64) -> Self {
        Self { label: label.to_owned(), series, value }
    }
}

/// One distribution: shares of all, and milliseconds.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Horizontal bars from zero.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    const LABELS: f64 = 260.0;
    const BAR: f64 = 18.0;
    const GAP: f64 = 10.0;
    let most = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
    let mut body = String::new();
    let mut top = 44.0;
    for bar in bars {
        if !bar.label.is_empty() {
            top += GAP;
            let (right, base) = (LABELS - 10.0, top + 13.0);
            put(
                &mut body,
                &format!("<text class=\"r\" x=\"{right}\" y=\"{base}\">{}</text>", bar.label),
            );
        }
        let width = (WIDTH - LABELS - 130.0) * bar.value / most;
        let colour = if bar.series == "floor" { "b" } else { "a" };
        put(
            &mut body,
            &format!(
                "<rect x=\"{LABELS}\" y=\"{top}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\" \
                 fill=\"var(--{colour})\"/><text class=\"v\" x=\"{:.0}\" y=\"{}\">{} {}</text>",
                BAR - 3.0,
                LABELS + width + 8.0,
                top + 13.0,
                number(bar.value),
                bar.series
            ),
        );
        top += BAR;
    }
    frame(title, top + 16.0, &body)
}

/// Milliseconds over the share of jobs that took no longer, stretched towards the
/// slowest.
pub(crate) fn percentiles(lines: &[Line]) -> String {
    const LEFT: f64 = 56.0;
    const RIGHT: f64 = 96.0;
    const FLOOR: f64 = 300.0;
    const HEIGHT: f64 = 236.0;
    let most = lines.iter().flat_map(|line| &line.points).map(|(_, ms)| *ms).fold(1.0, f64::max);
    let step = [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 5_000.0];
    let step = step.into_iter().find(|step| most / step <= 6.0).unwrap_or(20_000.0);
    let top = (most / step).ceil() * step;
    let x = |share: f64| LEFT + (WIDTH - LEFT - RIGHT) * -(1.0 - share).log10() / 3.0;
    let y = |ms: f64| FLOOR - HEIGHT * ms / top;
    let mut body = String::new();
    let mut at = 0.0;
    while at <= top {
        put(
            &mut body,
            &format!("<path class=\"g\" d=\"M{LEFT} {:.1}H{:.0}\"/>", y(at), WIDTH - RIGHT),
        );
        let (right, base) = (LEFT - 6.0, y(at) + 4.0);
        put(
            &mut body,
            &format!("<text class=\"r\" x=\"{right}\" y=\"{base:.1}\">{at:.0} ms</text>"),
        );
        at += step;
    }
    for share in [0.0, 0.5, 0.9, 0.95, 0.99, 0.999] {
        let place = (x(share), FLOOR + 18.0, share * 100.0);
        put(
            &mut body,
            &format!(
                "<text class=\"m\" x=\"{:.0}\" y=\"{}\">{} %</text>",
                place.0, place.1, place.2
            ),
        );
    }
    for (line, colour) in lines.iter().zip(["c", "a", "d", "e"].into_iter().cycle()) {
        let mut path = String::new();
        for (share, ms) in &line.points {
            write!(path, "{:.1} {:.1} ", x(*share), y(*ms)).unwrap();
        }
        put(
            &mut body,
            &format!("<path class=\"l\" stroke=\"var(--{colour})\" d=\"M{}\"/>", path.trim()),
        );
        let (left, base) = (WIDTH - RIGHT + 8.0, y(line.points.last().map_or(0.0, |last| last.1)));
        put(
            &mut body,
            &format!(
                "<text x=\"{left}\" y=\"{base:.0}\" fill=\"var(--{colour})\">{}</text>",
                line.name
            ),
        );
    }
    frame("push to reply, by share of jobs, at parts of the capacity", FLOOR + 36.0, &body)
}

fn frame(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{title}\">{STYLE}<rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" \
         fill=\"var(--bg)\"/>\n<text class=\"t\" x=\"16\" y=\"26\">{title}</text>\n{body}</svg>\n"
    )
}

fn put(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}
