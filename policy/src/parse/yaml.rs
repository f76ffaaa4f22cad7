//! Lives: host.
//! Called by: `parse`, once per text.
//! May touch: the text it is handed.
//! Never: guesses a type (a scalar stays text, with a note whether it was quoted); expands aliases without a bound.
//!
//! Built on the event parser under serde-saphyr, because a typed deserializer stops at its first error and we want them all.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::fault::Place;

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// Text; `plain` when it stood there without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub struct Key {
    pub place: Place,
    pub text: String,
}

/// Why a document could not be read.
#[derive(Clone, Debug)]
pub struct Broken {
    pub place: Place,
    pub problem: String,
    pub remedy: &'static str,
}

/// Deepest nesting of lists and maps; the deepest resource needs 9.
const MAX_DEPTH: usize = 32;
/// Most values that the aliases of one document may stand for. What is written out is as long as it is; an alias is how a
/// short text becomes a large tree.
const MAX_ALIASED: usize = 1_000_000;

/// Every document of a text that is not empty, or why it could not be read. A broken one does not hide the next.
pub fn documents(text: &str) -> Vec<Result<Node, Broken>> {
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut documents = Vec::new();
    loop {
        match next_document(&mut parser) {
            Ok(Some(node)) if node.is_null() => {}
            Ok(Some(node)) => documents.push(Ok(node)),
            Ok(None) => return documents,
            Err(broken) => {
                documents.push(Err(broken));
                if !matches!(parser.proceed_next_document(), Ok(true)) {
                    return documents;
                }
            }
        }
    }
}

type Events<'t> = Parser<'t, granit_parser::StrInput<'t>>;

/// Reads on to the end of the next document; `None` at the end of the text.
fn next_document(parser: &mut Events<'_>) -> Result<Option<Node>, Broken> {
    let mut loader = Loader { open: Vec::new(), anchors: BTreeMap::new(), aliased: 0, root: None };
    for event in parser.by_ref() {
        let (event, span) = event.map_err(|error| broken(&error))?;
        if matches!(event, Event::DocumentEnd) {
            return Ok(loader.root);
        }
        loader.take(event, span)?;
    }
    Ok(None)
}

fn broken(error: &ScanError) -> Broken {
    let place = place(error.marker());
    Broken { place, problem: format!("not valid YAML: {}", error.info()), remedy: "correct the YAML at this place" }
}

fn place(marker: &granit_parser::Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(marker.line()), column: number(marker.col().saturating_add(1)) }
}

/// Builds one document's tree from events.
struct Loader {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    aliased: usize,
    root: Option<Node>,
}

/// A list or map that has not ended yet.
struct Open {
    place: Place,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map(Vec<(Key, Node)>, Option<Key>),
}

impl Loader {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum may grow, and has variants that features switch on")]
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Broken> {
        let place = place(&span.start);
        match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => {
                let problem = "tags are not supported".to_owned();
                Err(Broken { place, problem, remedy: "remove the word that starts with \"!\"" })
            }
            Event::Scalar(text, style, anchor, None) => {
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.close(Node { place, value }, anchor)
            }
            Event::SequenceStart(_, anchor, None) => self.open(place, anchor, OpenKind::List(Vec::new())),
            Event::MappingStart(_, anchor, None) => self.open(place, anchor, OpenKind::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { place, anchor, kind }) => {
                    let value = match kind {
                        OpenKind::List(items) => Value::List(items),
                        OpenKind::Map(entries, _) => Value::Map(entries),
                    };
                    self.close(Node { place, value }, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => self.alias(place, anchor),
            // The start and end of the stream and of documents; comments and anchor names are switched off.
            _ => Ok(()),
        }
    }

    fn open(&mut self, place: Place, anchor: usize, kind: OpenKind) -> Result<(), Broken> {
        self.open.push(Open { place, anchor, kind });
        if self.open.len() > MAX_DEPTH {
            return Err(too_much(place, format!("nested more than {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Broken> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map(entries, pending)) => match pending.take() {
                Some(key) => entries.push((key, node)),
                None => *pending = Some(key(node)?),
            },
        }
        Ok(())
    }

    fn alias(&mut self, place: Place, anchor: usize) -> Result<(), Broken> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(too_much(place, "an alias inside of what it stands for".to_owned()));
        };
        let (nodes, depth) = (size(node), depth(node));
        self.aliased = self.aliased.saturating_add(nodes);
        if self.aliased > MAX_ALIASED {
            return Err(too_much(place, format!("its aliases stand for more than {MAX_ALIASED} values")));
        }
        if self.open.len() + depth > MAX_DEPTH {
            return Err(too_much(place, format!("nested more than {MAX_DEPTH} deep")));
        }
        let node = Node { place, ..node.clone() };
        self.close(node, 0)
    }
}

fn too_much(place: Place, problem: String) -> Broken {
    Broken { place, problem, remedy: "write the values out, in smaller documents" }
}

fn key(node: Node) -> Result<Key, Broken> {
    match node.value {
        Value::Scalar { text, .. } => Ok(Key { place: node.place, text }),
        Value::List(_) | Value::Map(_) => Err(Broken {
            place: node.place,
            problem: "a key that is itself a list or a map".to_owned(),
            remedy: "use a word as the key; did you forget quotes around braces or brackets?",
        }),
    }
}

/// Values in a tree.
fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Scalar { .. } => 0,
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|(_, value)| size(value)).sum(),
    }
}

/// Levels of lists and maps in a tree.
fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 0,
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| depth(value)).max().unwrap_or(0),
    }
}

impl Node {
    /// Whether it is YAML's null: nothing at all, `~` or the word.
    pub fn is_null(&self) -> bool {
        let Value::Scalar { text, plain: true } = &self.value else { return false };
        matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}
