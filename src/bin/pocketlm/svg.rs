//! A bar chart of memory, as SVG.

use std::fmt::Write;

use crate::size;

/// One memory: what lies in it, in order, and how much there is of it.
pub struct Bar {
    /// `flash`, `RAM`.
    pub name: &'static str,
    /// Label and bytes.
    pub parts: Vec<(String, u64)>,
    /// The size of the memory, if it is known.
    pub limit: Option<u64>,
}

const WIDTH: f64 = 760.0;
const MARGIN: f64 = 20.0;
const ROW: usize = 20;
/// Okabe and Ito's colours, which people with any colour vision can tell apart.
const COLOURS: [&str; 7] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442",
];

/// The chart: a bar for each memory, its parts to scale (each bar to its own), a legend under it
/// with every byte.
pub fn chart(title: &str, bars: &[Bar]) -> String {
    let height = 50
        + bars
            .iter()
            .map(|bar| 90 + ROW * bar.parts.len())
            .sum::<usize>();
    let mut svg = String::new();
    // Writing to a String does not fail.
    _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" width=\"{}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"28\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
        WIDTH + 2.0 * MARGIN,
        WIDTH + 2.0 * MARGIN,
        escape(title),
    );
    let mut y = 50;
    for bar in bars {
        draw(&mut svg, bar, y);
        y += 90 + ROW * bar.parts.len();
    }
    svg + "</svg>\n"
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
    for ((label, bytes), colour) in bar.parts.iter().zip(COLOURS.iter().cycle()) {
        let width = *bytes as f64 * scale;
        _ = writeln!(
            svg,
            "<rect x=\"{x:.2}\" y=\"{}\" width=\"{width:.2}\" height=\"28\" fill=\"{colour}\"><title>{}: {bytes} bytes</title></rect>",
            top + 24,
            escape(label),
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
    for (row, ((label, bytes), colour)) in bar.parts.iter().zip(COLOURS.iter().cycle()).enumerate()
    {
        let y = top + 72 + ROW * row;
        let right = MARGIN + WIDTH;
        _ = writeln!(
            svg,
            "<rect x=\"{MARGIN}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{y}\">{}</text><text x=\"{right}\" y=\"{y}\" text-anchor=\"end\">{bytes}</text>",
            y - 11,
            MARGIN + 20.0,
            escape(label),
        );
    }
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
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
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
