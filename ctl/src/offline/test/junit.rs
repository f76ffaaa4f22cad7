//! Lives: ctl.
//! Called by: `policy test`, for `--junit`.
//! May touch: the writer it is given.
//! Never: writes what XML has no place for: control characters are shown, not written. Our own few elements rather than
//! quick-junit's, which brings the banned chrono.

use std::io::{self, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::Suite;
use super::judge::{Failed, Result as Judged};
use crate::offline::explained;
use crate::render::style::clean;

/// Writes the report: a suite for each document, a case for each expectation.
pub fn write(out: &mut dyn Write, suites: &[Suite]) -> io::Result<()> {
    let mut writer = Writer::new_with_indent(out, b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let [tests, failures] = totals(suites.iter().flat_map(|suite| &suite.results));
    let counts = [("name", "weirctl policy test"), ("tests", &tests), ("failures", &failures), ("errors", "0")];
    writer
        .create_element("testsuites")
        .with_attributes(counts)
        .write_inner_content(|writer| suites.iter().try_for_each(|suite| self::suite(writer, suite)))?;
    writeln!(writer.into_inner())
}

fn totals<'r>(results: impl Iterator<Item = &'r Judged>) -> [String; 2] {
    let (mut tests, mut failures) = (0, 0);
    for result in results {
        tests += 1;
        failures += usize::from(!result.failed.is_empty());
    }
    [tests, failures].map(|number: usize| number.to_string())
}

fn suite(writer: &mut Writer<&mut dyn Write>, suite: &Suite) -> io::Result<()> {
    let [tests, failures] = totals(suite.results.iter());
    let (name, file) = (clean(&suite.test.name), clean(&suite.test.origin.source));
    let attributes =
        [("name", name.as_ref()), ("file", file.as_ref()), ("tests", &tests), ("failures", &failures), ("errors", "0")];
    let element = writer.create_element("testsuite").with_attributes(attributes);
    element
        .write_inner_content(|writer| suite.results.iter().try_for_each(|result| case(writer, &name, &file, result)))?;
    Ok(())
}

fn case(writer: &mut Writer<&mut dyn Write>, suite: &str, file: &str, result: &Judged) -> io::Result<()> {
    let (name, line) = (clean(&result.name), result.place.line.to_string());
    let attributes = [("classname", suite), ("name", name.as_ref()), ("file", file), ("line", &line)];
    let element = writer.create_element("testcase").with_attributes(attributes);
    if result.failed.is_empty() {
        element.write_empty()?;
        return Ok(());
    }
    element.write_inner_content(|writer| result.failed.iter().try_for_each(|failed| failure(writer, failed)))?;
    Ok(())
}

fn failure(writer: &mut Writer<&mut dyn Write>, failed: &Failed) -> io::Result<()> {
    let message = format!("{}: {}", failed.question, failed.problem);
    let mut text = Vec::new();
    if let Some(explanation) = &failed.explanation {
        explained::text(&mut text, explanation)?;
    }
    let plain = anstream::adapter::strip_bytes(&text).into_vec();
    let plain = String::from_utf8_lossy(&plain);
    writer
        .create_element("failure")
        .with_attributes([("message", clean(&message).as_ref()), ("type", "policy")])
        .write_text_content(BytesText::new(&plain))?;
    Ok(())
}
