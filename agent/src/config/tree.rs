//! Lives: weir-agent, configuration.
//! Called by: `config::load`.
//! May touch: the text it is handed.
//! Never: loses the place of a value, which is what a fault needs; follows aliases (a configuration has no use for them).

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

/// A YAML value with the place it was written at (line and column 1-based).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Which of the files, by its number.
    pub file: usize,
    pub line: u32,
    pub column: u32,
    pub value: Value,
}

/// What a value is. Scalars stay text until a field says what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// A text that is not one YAML document.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub line: u32,
    pub column: u32,
    pub problem: String,
}

impl Node {
    /// How the value reads in a message.
    pub fn shown(&self) -> String {
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Scalar(text) => text.clone(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Reads one document, that of file `file`; `None` for an empty text.
pub fn parse(file: usize, text: &str) -> Result<Option<Node>, Unreadable> {
    let mut builder = Builder { file, ..Builder::default() };
    for item in Parser::new_from_str(text) {
        let (event, span) = item.map_err(|error| Unreadable {
            line: number(error.marker().line()),
            column: number(error.marker().col()).saturating_add(1),
            problem: error.info(),
        })?;
        builder.take(event, span)?;
    }
    Ok(builder.root)
}

/// Lays a later document over an earlier one: mappings merge key by key, anything else is replaced whole. A null says nothing, as
/// everywhere in a configuration.
pub fn lay(under: Option<Node>, over: Option<Node>) -> Option<Node> {
    let (Some(mut under), Some(over)) = (under.clone(), over.clone()) else { return over.or(under) };
    match (&mut under.value, over.value) {
        (_, Value::Null) => Some(under),
        (Value::Map(entries), Value::Map(later)) => {
            lay_entries(entries, later);
            Some(under)
        }
        (_, value) => Some(Node { value, ..over }),
    }
}

/// A key that stands twice in the later document stands twice afterwards, so that the reader still finds it.
fn lay_entries(entries: &mut Vec<(Node, Node)>, later: Vec<(Node, Node)>) {
    let mut seen: Vec<String> = Vec::new();
    for (key, value) in later {
        let name = key.shown();
        let earlier = entries.iter_mut().find(|(known, _)| known.shown() == name);
        match earlier.filter(|_| !seen.contains(&name)) {
            Some((known, under)) => {
                if let Some(laid) = lay(Some(under.clone()), Some(value)) {
                    *under = laid;
                }
                *known = key;
            }
            None => entries.push((key, value)),
        }
        seen.push(name);
    }
}

/// The collections that are open, and the document once it is complete.
#[derive(Default)]
struct Builder {
    file: usize,
    open: Vec<Open>,
    root: Option<Node>,
}

struct Open {
    line: u32,
    column: u32,
    is_map: bool,
    items: Vec<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Unreadable> {
        let (line, column) = place(&span);
        match event {
            Event::Scalar(text, style, _, _) => {
                self.add(scalar(self.file, line, column, &text, style));
                Ok(())
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                let is_map = matches!(event, Event::MappingStart(..));
                self.open.push(Open { line, column, is_map, items: Vec::new() });
                Ok(())
            }
            Event::MappingEnd | Event::SequenceEnd => {
                if let Some(done) = self.open.pop() {
                    self.add(done.close(self.file));
                }
                Ok(())
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                Err(Unreadable { line, column, problem: "aliases (*name) are not used here".to_owned() })
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Unreadable { line, column, problem: "a second document begins; a configuration is one".to_owned() })
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..)
            | Event::Comment(..) => Ok(()),
            // The parser's enum may grow; an event it adds is presentation, or the value it carries is then missing and named.
            _ => Ok(()),
        }
    }

    fn add(&mut self, node: Node) {
        match self.open.last_mut() {
            Some(open) => open.items.push(node),
            None => self.root = Some(node),
        }
    }
}

impl Open {
    fn close(self, file: usize) -> Node {
        let value = if self.is_map { Value::Map(pairs(self.items)) } else { Value::List(self.items) };
        Node { file, line: self.line, column: self.column, value }
    }
}

fn pairs(items: Vec<Node>) -> Vec<(Node, Node)> {
    let mut items = items.into_iter();
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        pairs.push((key, value));
    }
    pairs
}

fn scalar(file: usize, line: u32, column: u32, text: &str, style: ScalarStyle) -> Node {
    let plain = style == ScalarStyle::Plain;
    let is_null = plain && matches!(text, "" | "~" | "null" | "Null" | "NULL");
    let value = if is_null { Value::Null } else { Value::Scalar(text.to_owned()) };
    Node { file, line, column, value }
}

fn place(span: &Span) -> (u32, u32) {
    (number(span.start.line()), number(span.start.col()).saturating_add(1))
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
