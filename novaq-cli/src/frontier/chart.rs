//! The drawing of a frontier: two panels over the size, with logarithmic axes.

use anyhow::{Context, anyhow};
use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    BitMapBackend, Cartesian2d, ChartBuilder, ChartContext, Circle, DrawingArea, DrawingBackend, FontStyle,
    IntoDrawingArea, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, TextStyle, register_font};

use super::Point;

/// In pixels of the SVG; the PNG has twice as many.
const SIZE: (u32, u32) = (1000, 440);

/// Dark text, light lines, and the points.
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 234);
const LINE: RGBColor = RGBColor(31, 97, 180);

/// What a panel shows over the size.
struct Panel {
    title: &'static str,
    axis: &'static str,
    value: fn(&Point) -> f64,
}

const PANELS: [Panel; 2] = [
    Panel { title: "Divergence from the original", axis: "KL divergence, nats per token", value: |p| p.kl },
    Panel {
        title: "Perplexity, relative to the original's",
        axis: "perplexity ratio",
        value: |p| p.perplexity_ratio,
    },
];

/// The drawing as SVG.
pub(super) fn svg(title: &str, points: &[Point]) -> anyhow::Result<String> {
    let mut text = String::new();
    draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), 1, title, points)?;
    Ok(text)
}

/// The drawing as PNG.
pub(super) fn png(title: &str, points: &[Point]) -> anyhow::Result<Vec<u8>> {
    let (width, height) = (2 * SIZE.0, 2 * SIZE.1);
    let mut pixels = vec![0; (width * height * 3) as usize];
    let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    draw(&area, 2, title, points)?;
    drop(area);
    let mut file = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut file, width, height);
    encoder.set_color(::png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(file)
}

/// Positions of lines and labels on a logarithmic axis from `low` to `high`: as many as are readable.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    const STEPS: [&[f64]; 4] = [&[1.0], &[1.0, 3.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]];
    let within = |steps: &[f64]| -> Vec<f64> {
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        all.filter(|tick| (low..=high).contains(tick)).collect()
    };
    let found = STEPS.iter().map(|steps| within(steps)).find(|ticks| ticks.len() >= 4);
    // Less than a factor of about two: even steps are as good.
    found.unwrap_or_else(|| {
        let step = 10f64.powf(((high - low) / 4.0).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * step).find(|step| (high - low) / step <= 5.0);
        let step = step.unwrap_or(high - low);
        let first = (low / step).ceil() as i64;
        (first..=(high / step).floor() as i64).map(|i| i as f64 * step).collect()
    })
}

/// `value` in as few digits as tell it from its neighbours.
fn number(value: f64) -> String {
    let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `bytes` with a decimal unit: the lines stand at round numbers.
fn size(bytes: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = UNITS.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(|| format!("{bytes:.0} B"), |(unit, name)| format!("{} {name}", number(bytes / unit)))
}

/// Lowest and highest of `values`, with room around them, as an axis from `least` on needs them.
fn range(values: impl Iterator<Item = f64>, least: f64) -> (f64, f64) {
    let (low, high) = values
        .map(|value| value.max(least))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let room = (high / low).powf(0.12).max(1.05);
    (low / room, high * room)
}

fn draw<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    scale: i32,
    title: &str,
    points: &[Point],
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    // Its metrics are needed, and with it the bitmap looks alike everywhere. It is the same each time, so that one that is
    // there already does no harm.
    register_font("sans-serif", FontStyle::Normal, UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the font can't be used"))?;
    anyhow::ensure!(!points.is_empty(), "there are no points to draw");
    root.fill(&WHITE).map_err(|e| anyhow!("{e}"))?;
    let (head, body) = root.split_vertically(44 * scale);
    head.draw(&Text::new(
        format!("{title}: size and quality"),
        (24 * scale, 14 * scale),
        style(19 * scale, HPos::Left, VPos::Top),
    ))
    .map_err(|e| anyhow!("{e}"))?;
    for (panel, area) in PANELS.iter().zip(body.split_evenly((1, PANELS.len()))) {
        draw_panel(panel, &area, scale, points).map_err(|e| anyhow!("{e}"))?;
    }
    root.present().map_err(|e| anyhow!("{e}")).context("the drawing can't be finished")
}

fn style(size: i32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK).pos(Pos::new(horizontal, vertical))
}

type Chart<'a, B> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw_panel<B: DrawingBackend>(
    panel: &Panel,
    area: &DrawingArea<B, Shift>,
    scale: i32,
    points: &[Point],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    B::ErrorType: 'static,
{
    // Rounding can make a divergence of nothing negative.
    let least = 1e-6;
    let x = range(points.iter().map(|p| p.bytes as f64), 1.0);
    let y = range(points.iter().map(panel.value), least);
    let mut chart: Chart<B> = ChartBuilder::on(area)
        .margin(16 * scale)
        .x_label_area_size(46 * scale)
        .y_label_area_size(56 * scale)
        .margin_top(30 * scale)
        .build_cartesian_2d(x.0.ln()..x.1.ln(), y.0.ln()..y.1.ln())?;
    let plot = chart.plotting_area().clone();
    let outside = plot.strip_coord_spec();
    let (width, height) = outside.dim_in_pixel();
    let (left, top) = outside.get_base_pixel();
    let (base_left, base_top) = area.get_base_pixel();
    let (left, top) = (left - base_left, top - base_top);
    let (right, bottom) = (left + width as i32, top + height as i32);
    let pixel = |x: f64, y: f64| {
        let (px, py) = plot.map_coordinate(&(x, y));
        (px - base_left, py - base_top)
    };
    let line = |from, to| PathElement::new(vec![from, to], GRID.stroke_width(scale as u32));
    for tick in ticks(x.0, x.1) {
        let at = pixel(tick.ln(), y.0.ln()).0;
        area.draw(&line((at, top), (at, bottom)))?;
        let label = size(tick);
        area.draw(&Text::new(label, (at, bottom + 7 * scale), style(12 * scale, HPos::Center, VPos::Top)))?;
    }
    for tick in ticks(y.0, y.1) {
        let at = pixel(x.0.ln(), tick.ln()).1;
        area.draw(&line((left, at), (right, at)))?;
        area.draw(&Text::new(
            number(tick),
            (left - 7 * scale, at),
            style(12 * scale, HPos::Right, VPos::Center),
        ))?;
    }
    let frame = Rectangle::new([(left, top), (right, bottom)], INK.mix(0.4).stroke_width(scale as u32));
    area.draw(&frame)?;
    let centre = i32::midpoint(left, right);
    area.draw(&Text::new(panel.title, (left, top - 9 * scale), style(14 * scale, HPos::Left, VPos::Bottom)))?;
    let below = (centre, bottom + 26 * scale);
    area.draw(&Text::new("all files of the artifact", below, style(13 * scale, HPos::Center, VPos::Top)))?;
    let beside = (left - 46 * scale, i32::midpoint(top, bottom));
    let turned =
        style(13 * scale, HPos::Center, VPos::Bottom).transform(plotters::style::FontTransform::Rotate270);
    area.draw(&Text::new(panel.axis, beside, turned))?;

    let place = |point: &Point| ((point.bytes as f64).ln(), (panel.value)(point).max(least).ln());
    chart.draw_series([PathElement::new(
        points.iter().map(place).collect::<Vec<_>>(),
        LINE.stroke_width(2 * scale as u32),
    )])?;
    chart.draw_series(points.iter().map(|point| Circle::new(place(point), 4 * scale, LINE.filled())))?;
    for point in points {
        let (px, py) = place(point);
        let (px, py) = pixel(px, py);
        // The curve falls to the right: there is room above a point on its right, and below one on its left.
        let narrow = px + 60 * scale > right;
        let (horizontal, vertical, across, down) =
            if narrow { (HPos::Right, VPos::Top, -4, 7) } else { (HPos::Left, VPos::Bottom, 7, -6) };
        let at = (px + across * scale, py + down * scale);
        area.draw(&Text::new(point.label(), at, style(12 * scale, horizontal, vertical)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Budget;

    fn points() -> Vec<Point> {
        let point = |(bits, bytes, kl, ratio): (f64, u64, f64, f64)| Point {
            setting: Budget::Bits(bits),
            artifact: format!("bpw-{bits}").into(),
            bytes,
            bits_per_weight_body: bits,
            bits_per_weight_file: bits,
            ratio_fp32: 1.0,
            kl,
            perplexity: 4.0 * ratio,
            perplexity_original: 4.0,
            perplexity_ratio: ratio,
            top1_agreement: 0.5,
        };
        let all = [
            (1.0, 180_000, 1.55, 4.763),
            (1.5, 215_000, 0.77, 2.182),
            (2.0, 250_000, 0.363, 1.444),
            (3.0, 320_000, 0.111, 1.12),
        ];
        all.map(point).to_vec()
    }

    #[test]
    fn axes_have_readable_ticks() {
        let labels = |low, high| ticks(low, high).into_iter().map(number).collect::<Vec<_>>();
        assert_eq!(labels(0.05, 4.0), ["0.1", "0.3", "1", "3"]);
        assert_eq!(labels(0.9, 6.0), ["1", "1.5", "2", "3", "4", "5"]);
        assert_eq!(labels(1.01, 1.12), ["1.05", "1.1"]);
        for (low, high) in [(1e-6, 1e3), (170e3, 340e3), (1.0, 1.001), (2.9, 3.1)] {
            let ticks = ticks(low, high);
            assert!((2..=12).contains(&ticks.len()) && ticks.is_sorted(), "{low} {high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (low..=high).contains(tick)));
        }
        assert_eq!([0.1, 1.0, 2.5, 250.0].map(number), ["0.1", "1", "2.5", "250"]);
        assert_eq!([700.0, 1500.0, 2e6, 3e9].map(size), ["700 B", "1.5 kB", "2 MB", "3 GB"]);
    }

    #[test]
    fn drawings_hold_every_point_and_axis() {
        let svg = svg("tiny <model>", &points()).unwrap();
        for text in [
            "1 bit",
            "1.5 bits",
            "2 bits",
            "3 bits",
            "KL divergence, nats per token",
            "perplexity ratio",
            "all files of the artifact",
            "200 kB",
        ] {
            assert!(svg.contains(text), "`{text}` is missing");
        }
        assert!(svg.contains("tiny &lt;model&gt;: size and quality"));
        assert_eq!(svg.matches("<circle").count(), 8);

        let image = png("tiny", &points()).unwrap();
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(&image)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((frame.width, frame.height), (2 * SIZE.0, 2 * SIZE.1));
        // Text is drawn: with a font that was not found there would be none of its grey edges.
        let colours: std::collections::BTreeSet<&[u8]> = pixels.chunks_exact(3).collect();
        assert!(colours.len() > 50, "{} colours", colours.len());
        assert!(colours.contains(&[LINE.0, LINE.1, LINE.2][..]));
    }

    #[test]
    fn a_single_point_is_drawn_too() {
        svg("one", &points()[..1]).unwrap();
        png("one", &points()[..1]).unwrap();
        assert!(svg("none", &[]).is_err());
    }
}
