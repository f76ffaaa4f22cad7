//! Lives: ctl's tests of the verb policy.
//! Called by: cargo test.
//! May touch: folders of its own.
//! Never: believes that a picture is right because something was written.

use std::collections::BTreeMap;

use quick_xml::events::Event;

use crate::asked::{folder, run, shop};

/// Elements by name with their attributes, in order.
fn elements(svg: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut reader = quick_xml::Reader::from_str(svg);
    let mut found = Vec::new();
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) | Event::Empty(tag) => {
                let attributes = tag.attributes().map(|attribute| attribute.unwrap());
                let attributes = attributes.map(|it| (it.key.as_ref().to_owned(), it.value.into_owned())).collect();
                found.push((tag.name().as_ref().to_owned(), attributes));
            }
            Event::Eof => return found,
            _ => {}
        }
    }
}

fn number(attributes: &BTreeMap<String, String>, name: &str) -> usize {
    attributes[name].parse().unwrap()
}

/// Everything stands inside the picture, and no cell on another.
fn check_layout(svg: &str) -> usize {
    let elements = elements(svg);
    let (name, root) = &elements[0];
    assert_eq!(name, "svg");
    let (width, height) = (number(root, "width"), number(root, "height"));
    assert!(width <= 1600, "wider than a page: {width}");
    let mut cells = std::collections::BTreeSet::new();
    for (name, attributes) in &elements {
        if name == "rect" {
            let (right, bottom) = (
                number(attributes, "x") + number(attributes, "width"),
                number(attributes, "y") + number(attributes, "height"),
            );
            assert!(right <= width && bottom <= height, "{attributes:?} outside of {width}x{height}");
            if attributes["class"].starts_with("cell ") {
                assert!(cells.insert((number(attributes, "x"), number(attributes, "y"))), "two cells at one place");
            }
        } else if name == "text" {
            assert!(number(attributes, "x") <= width && number(attributes, "y") <= height, "{attributes:?}");
        }
        assert!(
            !attributes.keys().any(|name| name.ends_with("href") || name.starts_with("on")),
            "needs something else"
        );
    }
    assert!(!elements.iter().any(|(name, _)| ["script", "image", "foreignObject"].contains(&name.as_str())));
    cells.len()
}

#[test]
fn the_picture_has_a_cell_for_every_two_groups_and_says_what_each_means() {
    let seen = run(&shop(), "matrix -f policies -f cluster.yaml -o svg");
    assert_eq!((seen.code, seen.err.as_str()), (Some(0), ""));
    let table = run(&shop(), "matrix -f policies -f cluster.yaml");
    let rows = table.out.lines().count() - 1;
    assert_eq!(check_layout(&seen.out), rows * rows);
    for text in [
        "12 pods of shop with app=web \u{2192} 4 pods of shop with app=api: tcp/9000",
        ">shop/web (12)</text>",
        "rows open connections to columns; all protocols and ports",
        ">nothing passes</text>",
        ">audit: passes, would be denied</text>",
    ] {
        let escaped = text.replace("->", "-&gt;");
        assert!(seen.out.contains(&escaped) || seen.out.contains(text.trim_start_matches('>')), "{text}\n{}", seen.out);
    }
}

#[test]
fn many_rows_stay_on_the_page_and_too_many_are_refused() {
    for (pods, code) in [(60, 0), (170, 0), (400, 2)] {
        let text: String = (0..pods)
            .map(|n| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: pod-with-a-long-name-{n}, namespace: a-long-namespace-name}}\n---\n"))
            .collect();
        let folder = folder(&[("pods.yaml", &text)]);
        let seen = run(folder.path(), "matrix -f . --expand -o svg");
        assert_eq!(seen.code, Some(code), "{pods}: {}", seen.err);
        match code {
            // The world has two regions, IPv4 and IPv6, each an end of its own.
            0 => assert_eq!(check_layout(&seen.out), (pods + 2) * (pods + 2)),
            _ => assert!(
                seen.err.contains("402 rows do not fit a picture") && seen.err.contains("--group-by"),
                "{}",
                seen.err
            ),
        }
    }
}
