//! Lives: ctl.
//! Called by: `policy matrix`, for a picture.
//! May touch: the writer it is given.
//! Never: grows wider than a page, or needs anything but itself: no script, no font, no address.

mod layout;

use std::io::{self, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use self::layout::{Fill, LABEL, LEGEND, Layout, MARGIN, SMALL, shortened};
use super::{Matrix, words};
use crate::failure::Failure;

/// Most rows: below this size of cells nothing can be told apart.
const MAX_ROWS: usize = 180;

const FONT: &str = "font-family:'DejaVu Sans',Verdana,'Segoe UI',Helvetica,Arial,sans-serif";

/// Writes the picture.
pub fn write(out: &mut dyn Write, matrix: &Matrix) -> Result<(), Failure> {
    let rows = matrix.groups.len();
    if rows > MAX_ROWS {
        return Err(Failure::Usage(format!(
            "{rows} rows do not fit a picture, which has room for {MAX_ROWS}; use --group-by namespace or labels KEY, or -o csv"
        )));
    }
    let layout = Layout::of(matrix);
    let mut writer = Writer::new_with_indent(out, b' ', 1);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let (width, height) = (layout.width.to_string(), layout.height.to_string());
    let view = format!("0 0 {width} {height}");
    writer
        .create_element("svg")
        .with_attributes([
            ("xmlns", "http://www.w3.org/2000/svg"),
            ("width", width.as_str()),
            ("height", height.as_str()),
            ("viewBox", view.as_str()),
            ("role", "img"),
        ])
        .write_inner_content(|writer| {
            text_element(writer, "title", "Who can reach whom")?;
            text_element(writer, "style", &style())?;
            patterns(writer)?;
            rect(writer, "page", (0, 0), (layout.width, layout.height), None)?;
            headings(writer, matrix, &layout)?;
            cells(writer, matrix, &layout)?;
            legend(writer, &layout)
        })?;
    Ok(writeln!(writer.into_inner())?)
}

fn style() -> String {
    let rules = [
        &format!("text{{{FONT};fill:#1f2933}}"),
        ".title{font-size:19px;font-weight:bold}",
        ".note,.key{font-size:12px;fill:#3e4c59}",
        ".label{font-size:13px}",
        ".word{font-size:11px;text-anchor:middle}",
        ".page{fill:#ffffff}",
        ".cell{stroke:#ffffff;stroke-width:1}",
        ".swatch{stroke:#9aa5b1}",
        ".no{fill:#eef1f4}",
        ".few{fill:#cfe3f5}",
        ".many{fill:#8fc1e8}",
        ".all{fill:#8ed1a5}",
        ".some-few{fill:url(#few)} .some-many{fill:url(#many)} .some-all{fill:url(#all)}",
        ".audit{fill:#f7d08a}",
        ".silent{fill:#ffffff}",
        ".frame{fill:none;stroke:#9aa5b1}",
    ];
    rules.join(" ")
}

/// Stripes: what holds for a part.
fn patterns(writer: &mut Writer<&mut dyn Write>) -> io::Result<()> {
    writer
        .create_element("defs")
        .write_inner_content(|writer| ["few", "many", "all"].into_iter().try_for_each(|name| pattern(writer, name)))?;
    Ok(())
}

fn pattern(writer: &mut Writer<&mut dyn Write>, name: &str) -> io::Result<()> {
    let attributes = [
        ("id", name),
        ("width", "8"),
        ("height", "8"),
        ("patternUnits", "userSpaceOnUse"),
        ("patternTransform", "rotate(45)"),
    ];
    writer.create_element("pattern").with_attributes(attributes).write_inner_content(|writer| {
        rect(writer, "no", (0, 0), (8, 8), None)?;
        rect(writer, name, (0, 0), (4, 8), None)
    })?;
    Ok(())
}

fn headings(writer: &mut Writer<&mut dyn Write>, matrix: &Matrix, layout: &Layout) -> io::Result<()> {
    text(writer, "title", (MARGIN, MARGIN + 18), "Who can reach whom", None)?;
    text(writer, "note", (MARGIN, MARGIN + 40), &subtitle(matrix), None)?;
    for (index, group) in matrix.groups.iter().enumerate() {
        let label = shortened(&group.name.short, LABEL);
        let (x, y) = (layout.left() + index * layout.cell.0, layout.top() + index * layout.cell.1);
        if layout.cell.1 >= 11 || index % 2 == 0 {
            let middle = y + layout.cell.1 / 2 + 5;
            let anchored = Some(("text-anchor", "end".to_owned()));
            labelled(writer, (layout.left() - 8, middle), &label, &group.name.long, anchored)?;
            let (x, y) = (x + layout.cell.0 / 2 + 5, layout.top() - 8);
            let upwards = Some(("transform", format!("rotate(-90 {x} {y})")));
            labelled(writer, (x, y), &label, &group.name.long, upwards)?;
        }
    }
    Ok(())
}

fn subtitle(matrix: &Matrix) -> String {
    let ports = match &matrix.ports {
        None => "all protocols and ports".to_owned(),
        Some(ports) => format!("only {}", ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let staged = if matrix.staged { "; as if staged policies were enforced" } else { "" };
    let (ends, groups) = (matrix.ends, matrix.groups.len());
    format!("{ends} ends in {groups} groups; rows open connections to columns; {ports}{staged}")
}

fn cells(writer: &mut Writer<&mut dyn Write>, matrix: &Matrix, layout: &Layout) -> io::Result<()> {
    let asked = matrix.ports.as_ref().map_or_else(weir_policy::reach::PortSet::everything, |ports| {
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        distinct.len()
    });
    for (row, (from, cells)) in matrix.groups.iter().zip(&matrix.rows).enumerate() {
        for (column, (to, cell)) in matrix.groups.iter().zip(cells).enumerate() {
            let at = (layout.left() + column * layout.cell.0, layout.top() + row * layout.cell.1);
            let said = words(cell);
            let tip = format!("{} \u{2192} {}: {said}", from.name.long, to.name.long);
            let class = format!("cell {}", Fill::of(cell, asked).class());
            rect(writer, &class, at, layout.cell, Some(&tip))?;
            if layout.worded {
                let middle = (at.0 + layout.cell.0 / 2, at.1 + layout.cell.1 / 2 + 4);
                text(writer, "word", middle, &shortened(&said, (layout.cell.0 - 6) / SMALL), Some(&tip))?;
            }
        }
    }
    let size = (layout.cell.0 * matrix.groups.len(), layout.cell.1 * matrix.groups.len());
    rect(writer, "frame", (layout.left(), layout.top()), size, None)
}

fn legend(writer: &mut Writer<&mut dyn Write>, layout: &Layout) -> io::Result<()> {
    let (mut x, mut y) = (MARGIN, layout.height - MARGIN - LEGEND + 24);
    for (fill, meaning) in Fill::LEGEND {
        let width = 22 + meaning.chars().count() * SMALL + 16;
        if x + width > layout.width - MARGIN {
            (x, y) = (MARGIN, y + 22);
        }
        rect(writer, &format!("swatch {}", fill.class()), (x, y - 11), (14, 14), None)?;
        text(writer, "key", (x + 20, y), meaning, None)?;
        x += width;
    }
    Ok(())
}

/// A rectangle, with a tooltip if there is one.
fn rect(
    writer: &mut Writer<&mut dyn Write>,
    class: &str,
    (x, y): (usize, usize),
    (width, height): (usize, usize),
    tip: Option<&str>,
) -> io::Result<()> {
    let [x, y, width, height] = [x, y, width, height].map(|number| number.to_string());
    let element = writer.create_element("rect").with_attributes([
        ("class", class),
        ("x", &x),
        ("y", &y),
        ("width", &width),
        ("height", &height),
    ]);
    match tip {
        None => element.write_empty()?,
        Some(tip) => element.write_inner_content(|writer| text_element(writer, "title", tip))?,
    };
    Ok(())
}

fn text(
    writer: &mut Writer<&mut dyn Write>,
    class: &str,
    (x, y): (usize, usize),
    content: &str,
    tip: Option<&str>,
) -> io::Result<()> {
    let [x, y] = [x, y].map(|number| number.to_string());
    let element = writer.create_element("text").with_attributes([("class", class), ("x", &x), ("y", &y)]);
    with_tip(element, content, tip)
}

/// A label beside rows or above columns, with the long name as its tooltip.
fn labelled(
    writer: &mut Writer<&mut dyn Write>,
    (x, y): (usize, usize),
    content: &str,
    tip: &str,
    turned: Option<(&str, String)>,
) -> io::Result<()> {
    let [x, y] = [x, y].map(|number| number.to_string());
    let element = writer.create_element("text").with_attributes([("class", "label"), ("x", &x), ("y", &y)]);
    let turned = turned.iter().map(|(name, value)| (*name, value.as_str()));
    with_tip(element.with_attributes(turned), content, Some(tip))
}

fn with_tip(
    element: quick_xml::writer::ElementWriter<'_, &mut dyn Write>,
    content: &str,
    tip: Option<&str>,
) -> io::Result<()> {
    // A tooltip must be the first thing inside, and then the text may not be indented around it.
    match tip {
        None => element.write_text_content(BytesText::new(content))?,
        Some(tip) => element.write_inner_content(|writer| {
            text_element(writer, "title", tip)?;
            writer.write_event(Event::Text(BytesText::new(content)))
        })?,
    };
    Ok(())
}

fn text_element(writer: &mut Writer<&mut dyn Write>, name: &str, content: &str) -> io::Result<()> {
    writer.create_element(name).write_text_content(BytesText::new(content))?;
    Ok(())
}
