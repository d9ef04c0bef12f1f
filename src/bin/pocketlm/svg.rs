//! Charts as SVG: bars of memory, and points of size against accuracy.

use std::fmt::Write;

use crate::size;

/// One memory.
pub struct Bar {
    /// `flash`, `RAM`.
    pub name: &'static str,
    /// Label and bytes of each part, in order.
    pub parts: Vec<(String, u64)>,
    /// The size of the memory, if it is known.
    pub limit: Option<u64>,
}

const WIDTH: f64 = 760.0;
const MARGIN: f64 = 20.0;
const ROW: usize = 20;
/// The start of every chart. The class tells it from other SVG files.
pub const START: &str = "<svg class=\"pocketlm-plan\" ";

/// Draws a bar for each memory, each with a scale of its own, and a legend with the bytes of each
/// part.
pub fn chart(title: &str, bars: &[Bar]) -> String {
    let rows = bars.iter().map(|bar| 90 + ROW * bar.parts.len());
    let height = 50 + rows.sum::<usize>();
    let mut svg = begin(title, height);
    let mut y = 50;
    for bar in bars {
        draw(&mut svg, bar, y);
        y += 90 + ROW * bar.parts.len();
    }
    svg + "</svg>\n"
}

/// The start of a chart, with its title.
fn begin(title: &str, height: usize) -> String {
    let width = WIDTH + 2.0 * MARGIN;
    format!(
        "{START}xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"28\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
        escape(title),
        escape(&shortened(title, 16.0)),
    )
}

/// An image of some size.
pub struct Point {
    pub label: String,
    pub bytes: u64,
    /// Its divergence from the checkpoint, in nats a token.
    pub kl: f64,
}

/// The plot area of [`frontier`].
const LEFT: f64 = 80.0;
const RIGHT: f64 = WIDTH;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 400.0;

/// Draws size against divergence: the divergence on a logarithmic scale, and a line where the flash
/// ends.
pub fn frontier(title: &str, points: &[Point], limit: Option<u64>) -> String {
    let mut svg = begin(title, 470);
    let scale = Scale::of(points, limit);
    scale.axes(&mut svg);
    if let Some(limit) = limit.filter(|limit| *limit <= scale.most) {
        scale.limit(&mut svg, limit);
    }
    let line: Vec<String> = points
        .iter()
        .map(|point| format!("{:.1},{:.1}", scale.x(point.bytes), scale.y(point.kl)))
        .collect();
    _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
        line.join(" "),
        colour(0)
    );
    for point in points {
        scale.point(&mut svg, point);
    }
    svg + "</svg>\n"
}

/// Where sizes and divergences are in the plot.
struct Scale {
    /// The largest size.
    most: u64,
    /// The powers of ten below and above the divergences.
    low: f64,
    high: f64,
}

impl Scale {
    fn of(points: &[Point], limit: Option<u64>) -> Self {
        let largest = points.iter().map(|point| point.bytes).max().unwrap_or(1);
        let most = largest.max(limit.filter(|limit| *limit < 2 * largest).unwrap_or(0));
        // Whole powers of ten around the points. A model without loss has a divergence of 0.
        let kls = points.iter().map(|point| point.kl.max(1e-6).log10());
        let (low, high) = kls.fold((0.0f64, -6.0f64), |(low, high), kl| {
            (low.min(kl), high.max(kl))
        });
        let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
        Scale { most, low, high }
    }

    fn x(&self, bytes: u64) -> f64 {
        LEFT + (RIGHT - LEFT) * bytes as f64 / (1.05 * self.most as f64)
    }

    fn y(&self, kl: f64) -> f64 {
        let part = (kl.max(1e-6).log10() - self.low) / (self.high - self.low);
        BOTTOM - (BOTTOM - TOP) * part
    }

    /// The lines of the grid, and what the axes are.
    fn axes(&self, svg: &mut String) {
        for power in self.low as i32..=self.high as i32 {
            let kl = 10f64.powi(power);
            let y = self.y(kl);
            _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {0:.1} H{RIGHT}\" stroke=\"#ddd\"/><text x=\"{1}\" \
                 y=\"{2:.1}\" text-anchor=\"end\">{kl}</text>",
                y,
                LEFT - 8.0,
                y + 4.0
            );
        }
        for quarter in 0..=4 {
            let bytes = self.most * quarter / 4;
            _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                self.x(bytes),
                BOTTOM + 22.0,
                size::show(bytes)
            );
        }
        _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\">KL divergence from the checkpoint, nats a token</text>\n\
             <text x=\"{RIGHT}\" y=\"{}\" text-anchor=\"end\">size of the image</text>",
            TOP - 14.0,
            BOTTOM + 44.0
        );
    }

    /// The line where the flash ends.
    fn limit(&self, svg: &mut String, limit: u64) {
        let x = self.x(limit);
        _ = writeln!(
            svg,
            "<path d=\"M{0:.1} {TOP} V{BOTTOM}\" stroke=\"#000\" stroke-dasharray=\"5 4\"/>\
             <text x=\"{1:.1}\" y=\"{2}\" text-anchor=\"end\">flash: {3}</text>",
            x,
            x - 6.0,
            BOTTOM - 8.0,
            size::show(limit)
        );
    }

    /// A point and its label.
    fn point(&self, svg: &mut String, point: &Point) {
        let x = self.x(point.bytes);
        let y = self.y(point.kl);
        // Near the right edge the label is on the other side, below the line.
        let (anchor, label_x, label_y) = if x > RIGHT - 90.0 {
            ("end", x - 9.0, y + 16.0)
        } else {
            ("start", x + 9.0, y - 7.0)
        };
        _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{}\"><title>{}: {}, KL {:.4}\
             </title></circle>\
             <text x=\"{label_x:.1}\" y=\"{label_y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            colour(0),
            escape(&point.label),
            in_bytes(point.bytes),
            point.kl,
            escape(&point.label)
        );
    }
}

fn draw(svg: &mut String, bar: &Bar, top: usize) {
    let total: u64 = bar.parts.iter().map(|(_, bytes)| bytes).sum();
    let scale = WIDTH / bar.limit.unwrap_or(0).max(total).max(1) as f64;
    let of_limit = match bar.limit {
        Some(limit) if total <= limit => format!(" of {}", size::show(limit)),
        Some(limit) => format!(
            ", {} too much for {}",
            size::show(total - limit),
            size::show(limit)
        ),
        None => String::new(),
    };
    _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{}\">{}: {}{of_limit}</text>",
        top + 14,
        bar.name,
        size::show(total)
    );
    let mut x = MARGIN;
    for (row, (label, bytes)) in bar.parts.iter().enumerate() {
        let width = *bytes as f64 * scale;
        let fill = colour(row);
        let label = escape(label);
        let bytes = in_bytes(*bytes);
        let y = top + 72 + ROW * row;
        _ = writeln!(
            svg,
            "<rect x=\"{x:.2}\" y=\"{}\" width=\"{width:.2}\" height=\"28\" fill=\"{fill}\">\
             <title>{label}: {bytes}</title></rect>\n\
             <rect x=\"{MARGIN}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>\
             <text x=\"{}\" y=\"{y}\">{label}</text>\
             <text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{bytes}</text>",
            top + 24,
            y - 11,
            MARGIN + 20.0,
            MARGIN + WIDTH,
        );
        x += width;
    }
    if let Some(limit) = bar.limit {
        let x = MARGIN + limit as f64 * scale;
        _ = writeln!(
            svg,
            "<path d=\"M{x:.2} {} v36\" stroke=\"#000\" stroke-width=\"2\"/>",
            top + 20
        );
    }
}

/// The colour of a part; each part has another one. The first are Okabe and Ito's, which people
/// with any colour vision can tell apart. Then come darker and lighter ones, then other hues.
fn colour(part: usize) -> String {
    const COLOURS: [[u32; 3]; 7] = [
        [0x00, 0x72, 0xb2],
        [0xe6, 0x9f, 0x00],
        [0x00, 0x9e, 0x73],
        [0xcc, 0x79, 0xa7],
        [0x56, 0xb4, 0xe9],
        [0xd5, 0x5e, 0x00],
        [0xf0, 0xe4, 0x42],
    ];
    let [red, green, blue] = COLOURS[part % COLOURS.len()];
    let channels = match part / COLOURS.len() {
        0 => [red, green, blue],
        1 => [red, green, blue].map(|channel| channel * 6 / 10),
        2 => [red, green, blue].map(|channel| 255 - (255 - channel) * 4 / 10),
        // The golden angle keeps the hues of neighbours far apart.
        _ => return format!("hsl({:.2} 45% 50%)", (part as f64 * 137.508) % 360.0),
    };
    let [red, green, blue] = channels;
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// `1234567` as `1,234,567 bytes`.
fn in_bytes(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups = groups.map(|group| String::from_utf8_lossy(group));
    let unit = if number == 1 { "byte" } else { "bytes" };
    format!("{} {unit}", groups.collect::<Vec<_>>().join(","))
}

/// Shortens a line of bold text to the width of the chart. An ellipsis replaces its middle.
fn shortened(text: &str, font_size: f64) -> String {
    // The viewer's font is not known, so these are the widths of a wide one.
    let width = |c: char| {
        let of_size = match c {
            'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | '\'' | '|' | ' ' => 0.4,
            'm' | 'w' | 'M' | 'W' | '@' | '%' => 1.05,
            'A'..='Z' => 0.85,
            c if c.is_ascii() => 0.7,
            _ => 1.05,
        };
        of_size * font_size
    };
    let widths: f64 = text.chars().map(width).sum();
    if widths <= WIDTH {
        return text.to_owned();
    }
    let room = WIDTH - width('…');
    let fitting = |chars: &mut dyn Iterator<Item = char>, mut room: f64| -> Vec<char> {
        chars
            .take_while(|&c| {
                room -= width(c);
                room >= 0.0
            })
            .collect()
    };
    let start = fitting(&mut text.chars(), room / 4.0);
    let end = fitting(&mut text.chars().rev(), room * 3.0 / 4.0);
    start
        .into_iter()
        .chain(['…'])
        .chain(end.into_iter().rev())
        .collect()
}

fn escape(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            '"' => "&quot;".into(),
            c if c.is_control() => " ".into(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_to_scale_and_names_are_escaped() {
        let parts = vec![("weights & <norms>".into(), 300), ("cache".into(), 100)];
        let svg = chart(
            "a \"model\"",
            &[Bar {
                name: "RAM",
                parts,
                limit: Some(800),
            }],
        );
        assert!(svg.contains("weights &amp; &lt;norms&gt;") && svg.contains("a &quot;model&quot;"));
        assert!(
            svg.contains("width=\"285.00\"")
                && svg.contains("width=\"95.00\"")
                && svg.contains("400 B of 800 B")
        );
        assert!(svg.starts_with(START) && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_long_title_is_shortened_in_the_middle_and_kept_whole_as_the_title() {
        let long = format!("/a/{}/model.plm, context 8", "folder/".repeat(40));
        let svg = chart(&long, &[]);
        assert!(svg.contains(&format!("<title>{long}</title>")));
        let line = svg.lines().find(|line| line.starts_with("<text")).unwrap();
        assert!(line.contains('…') && line.contains(">/a/folder/"), "{line}");
        assert!(line.ends_with("/model.plm, context 8</text>"), "{line}");
        for narrow in ["W".repeat(200), "語".repeat(200), "i".repeat(400)] {
            let shown = shortened(&narrow, 16.0).chars().count();
            assert!((40..130).contains(&shown), "{shown}");
        }
        assert_eq!(
            shortened("story.plm, context 64", 16.0),
            "story.plm, context 64"
        );
    }

    #[test]
    fn every_part_has_a_colour_of_its_own() {
        let colours: std::collections::HashSet<_> = (0..200).map(colour).collect();
        assert_eq!(colours.len(), 200);
    }

    #[test]
    fn bytes_are_shown_in_groups_of_three() {
        let shown = [0, 1, 999, 1000, 1_234_567].map(in_bytes);
        assert_eq!(
            shown,
            [
                "0 bytes",
                "1 byte",
                "999 bytes",
                "1,000 bytes",
                "1,234,567 bytes"
            ]
        );
    }

    #[test]
    fn points_lie_further_down_the_less_they_cost() {
        let point = |bytes, kl| Point {
            label: format!("{bytes} & more"),
            bytes,
            kl,
        };
        let svg = frontier("m", &[point(100, 0.1), point(200, 0.01)], Some(200));
        let circles: Vec<&str> = svg.lines().filter(|l| l.starts_with("<circle")).collect();
        let y = |circle: &str| -> f64 {
            let value = circle.split("cy=\"").nth(1).unwrap();
            value.split('"').next().unwrap().parse().unwrap()
        };
        assert!(circles.len() == 2 && y(circles[0]) < y(circles[1]), "{svg}");
        assert!(svg.contains("100 &amp; more") && svg.contains("flash: 200 B"));
        // A model without loss has a place, too.
        assert!(!frontier("m", &[point(1, 0.0)], None).contains("NaN"));
    }

    #[test]
    fn a_memory_that_is_too_small_says_by_how_much() {
        let svg = chart(
            "m",
            &[Bar {
                name: "flash",
                parts: vec![("weights".into(), 900)],
                limit: Some(800),
            }],
        );
        assert!(svg.contains("flash: 900 B, 100 B too much for 800 B"));
    }
}
