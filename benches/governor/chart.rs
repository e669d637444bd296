//! Memory, ledger and running jobs over time as one SVG, a panel for each run, readable
//! on light and on dark ground.

use std::fmt::Write as _;

use crate::survive::{Mode, Run};
use crate::watch::Point;

const MIB: f64 = 1_048_576.0;
const WIDTH: f64 = 860.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 44.0;
/// Of a panel: its title, its memory, what runs, and the space below.
const TITLE: f64 = 26.0;
const MEMORY: f64 = 120.0;
const RUNNING: f64 = 34.0;
const BELOW: f64 = 26.0;
const PANEL: f64 = TITLE + MEMORY + 6.0 + RUNNING + BELOW;
/// Jobs that the strip of running ones has room for.
const MOST: f64 = 6.0;
/// Steps along the time axis: more would not be seen.
const STEPS: usize = 260;
/// What the others show of their time, in governed times.
const SHOWN: f64 = 2.0;

const STYLE: &str = "<style>\
svg{--bg:#fff;--fg:#1f2328;--dim:#59636e;--grid:#d8dee4;--mem:#0969da;--led:#9a6700;--bad:#cf222e;--run:#1a7f37}\
@media(prefers-color-scheme:dark){svg{--bg:#0d1117;--fg:#e6edf3;--dim:#9198a1;--grid:#30363d;--mem:#4493f8;--led:#d29922;--bad:#f85149;--run:#3fb950}}\
text{font:12px system-ui,sans-serif;fill:var(--dim)}.t{font-size:13px;font-weight:600;fill:var(--fg)}\
.g{stroke:var(--grid);stroke-width:1;fill:none}.m{fill:var(--mem);fill-opacity:.28;stroke:var(--mem);stroke-width:1}\
.l{fill:none;stroke:var(--led);stroke-width:1.5}.x{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:5 3;fill:none}\
.k{stroke:var(--bad);stroke-width:1.5}.r{fill:var(--run);fill-opacity:.5}.e{text-anchor:end}</style>";

/// Draws the runs below each other; all have the same time axis.
pub(crate) fn draw(runs: &[&Run]) -> String {
    let longest = runs.iter().map(|run| run.wall.as_secs_f64()).fold(1.0, f64::max);
    let governed = runs.iter().find(|run| run.mode == Mode::Governed);
    let seconds =
        governed.map_or(longest, |run| (run.wall.as_secs_f64() * SHOWN).min(longest)).ceil();
    let height = TOP + PANEL * runs.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Memory over time\">{STYLE}<rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" \
         fill=\"var(--bg)\"/>\n"
    );
    legend(&mut svg);
    for (index, run) in runs.iter().enumerate() {
        panel(&mut svg, run, TOP + PANEL * index as f64, seconds);
    }
    svg + "</svg>\n"
}

fn legend(svg: &mut String) {
    let marks = [
        ("<path class=\"m\" d=\"M0-9h16v9H0z\"/>", "working set"),
        ("<path class=\"l\" d=\"M0-5h16\"/>", "used and promised, by the ledger"),
        ("<path class=\"x\" d=\"M0-5h16\"/>", "limit"),
        ("<path class=\"k\" d=\"M8-10v10\"/>", "killed by the kernel"),
        ("<path class=\"r\" d=\"M0-9h16v9H0z\"/>", "rendering"),
    ];
    let mut left = LEFT;
    for (mark, word) in marks {
        put(
            svg,
            &format!(
                "<g transform=\"translate({left} 26)\">{mark}<text x=\"22\">{word}</text></g>"
            ),
        );
        left += 50.0 + word.len() as f64 * 6.4;
    }
}

fn panel(svg: &mut String, run: &Run, top: f64, seconds: f64) {
    let limit = run.limit as f64 / MIB;
    let floor = top + TITLE + MEMORY;
    let scale = Scale { seconds, most: limit * 1.08, floor, height: MEMORY };
    put(
        svg,
        &format!("<text class=\"t\" x=\"{LEFT}\" y=\"{:.0}\">{}</text>", top + 14.0, run.title()),
    );
    for share in [0.0, 0.5, 1.0] {
        let y = scale.y(limit * share);
        let class = if share > 0.9 { "x" } else { "g" };
        put(svg, &format!("<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{:.0}\"/>", WIDTH - RIGHT));
        let label = format!("{:.0} MiB", limit * share);
        put(
            svg,
            &format!(
                "<text class=\"e\" x=\"{:.0}\" y=\"{:.1}\">{label}</text>",
                LEFT - 6.0,
                y + 4.0
            ),
        );
    }
    let points = thin(&run.points, seconds);
    let end = points.last().map_or(0.0, |point| point.at);
    let memory = points.iter().map(|p| (p.at, p.memory as f64 / MIB));
    let outline = line(&scale, memory);
    let (start, stop) = (scale.x(0.0), scale.x(end));
    put(
        svg,
        &format!("<path class=\"m\" d=\"M{start:.0} {floor}L{outline}L{stop:.0} {floor}z\"/>"),
    );
    let granted: Vec<_> =
        points.iter().filter_map(|p| Some((p.at, p.granted? as f64 / MIB))).collect();
    if !granted.is_empty() {
        let capped = granted.into_iter().map(|(at, mib)| (at, mib.min(limit)));
        put(svg, &format!("<path class=\"l\" d=\"M{}\"/>", line(&scale, capped)));
    }
    let mut before = 0;
    for point in &points {
        if point.kills.outer > before {
            let x = scale.x(point.at);
            put(svg, &format!("<path class=\"k\" d=\"M{x:.0} {:.0}v10\"/>", floor - MEMORY));
        }
        before = point.kills.outer;
    }
    let base = floor + 6.0 + RUNNING;
    let strip = Scale { seconds, most: MOST, floor: base, height: RUNNING };
    let running = points.iter().map(|p| (p.at, (p.running as f64).min(MOST)));
    put(
        svg,
        &format!(
            "<path class=\"r\" d=\"M{start:.0} {base}L{}L{stop:.0} {base}z\"/>",
            line(&strip, running)
        ),
    );
    put(svg, &format!("<path class=\"g\" d=\"M{LEFT} {base}H{:.0}\"/>", WIDTH - RIGHT));
    put(
        svg,
        &format!(
            "<text class=\"e\" x=\"{:.0}\" y=\"{:.0}\">running</text>",
            LEFT - 6.0,
            base - 10.0
        ),
    );
    axis(svg, base, seconds);
}

fn axis(svg: &mut String, base: f64, seconds: f64) {
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0];
    let step = steps.into_iter().find(|step| seconds / step <= 9.0).unwrap_or(120.0);
    let scale = Scale { seconds, most: 1.0, floor: 0.0, height: 1.0 };
    let mut at = 0.0;
    while at <= seconds {
        let (x, anchor) = (scale.x(at), if at > 0.0 { "middle" } else { "start" });
        put(
            svg,
            &format!(
                "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{at:.0} s</text>",
                base + 15.0
            ),
        );
        at += step;
    }
}

struct Scale {
    seconds: f64,
    most: f64,
    floor: f64,
    height: f64,
}

impl Scale {
    fn x(&self, at: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (at / self.seconds).min(1.0)
    }

    fn y(&self, value: f64) -> f64 {
        self.floor - self.height * value / self.most
    }
}

fn line(scale: &Scale, values: impl Iterator<Item = (f64, f64)>) -> String {
    let mut text = String::new();
    for (at, value) in values {
        let space = if text.is_empty() { "" } else { " " };
        write!(text, "{space}{:.0} {:.1}", scale.x(at), scale.y(value)).unwrap();
    }
    text
}

/// So many points that each can be seen; of those together the most counts.
fn thin(points: &[Point], seconds: f64) -> Vec<Point> {
    let mut thinned: Vec<Point> = Vec::new();
    let step = |point: &Point| (point.at / seconds * STEPS as f64) as usize;
    for point in points.iter().filter(|point| point.at <= seconds) {
        match thinned.last_mut().filter(|last| step(last) == step(point)) {
            Some(last) => {
                last.memory = last.memory.max(point.memory);
                last.granted = last.granted.max(point.granted);
                last.running = last.running.max(point.running);
                last.kills = point.kills;
            }
            None => thinned.push(*point),
        }
    }
    thinned
}

fn put(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}
