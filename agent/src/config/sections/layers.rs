//! Lives: weir-agent, configuration.
//! Called by: the sections.
//! May touch: the tree of the file, the flags.
//! Never: lets a fault hide behind the other source: both are always read.

use std::path::PathBuf;

use crate::config::{
    Args,
    reader::{Reader, Section},
    tree::{Node, Value},
};

/// Faults of the file and of the flags, apart, because they are corrected in different places.
pub struct Sources {
    pub file: Reader,
    pub flags: Reader,
}

/// The flags as the file they stand for, so that one set of readers checks both.
pub fn flags(args: &Args) -> Node {
    let paths = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let mut top: Vec<(Node, Node)> = Vec::new();
    let values = [
        ("node", args.node.clone()),
        ("cgroupRoot", paths(&args.cgroup_root)),
        ("xdpMode", args.xdp_mode.clone()),
        ("xdpNeighbour", args.xdp_neighbour.clone()),
        ("unknownWorkloads", args.unknown_workloads.clone()),
        ("stateDir", paths(&args.state_dir)),
        ("policyDir", paths(&args.policy_dir)),
    ];
    top.extend(values.into_iter().filter_map(|(key, value)| Some((text(key), text(&value?)))));
    if !args.interfaces.is_empty() {
        top.push((text("interfaces"), node(Value::List(args.interfaces.iter().map(|name| text(name)).collect()))));
    }
    let socket = map(vec![("path", paths(&args.socket))]);
    top.push((text("grpc"), node(Value::Map(vec![(text("socket"), socket)]))));
    top.push((text("collector"), map(vec![("address", args.collector.clone())])));
    top.push((text("log"), map(vec![("level", args.log_level.clone()), ("format", args.log_format.clone())])));
    node(Value::Map(top))
}

fn map(entries: Vec<(&str, Option<String>)>) -> Node {
    node(Value::Map(entries.into_iter().filter_map(|(key, value)| Some((text(key), text(&value?)))).collect()))
}

fn text(text: &str) -> Node {
    node(Value::Scalar(text.to_owned()))
}

fn node(value: Value) -> Node {
    Node { file: 0, line: 0, column: 0, value }
}

/// One section in the file and in the flags; the flags win.
pub struct Layers<'a> {
    path: String,
    pub file: Section<'a>,
    flags: Section<'a>,
}

impl<'a> Layers<'a> {
    pub fn new(reader: &mut Sources, path: &str, file: Option<&'a Node>, flags: Option<&'a Node>) -> Self {
        Self { path: path.to_owned(), file: reader.file.section(path, file), flags: reader.flags.section(path, flags) }
    }

    pub fn below(&self, reader: &mut Sources, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self::new(reader, &path, self.file.get(key), self.flags.get(key))
    }

    pub fn has(&self, key: &str) -> bool {
        self.file.get(key).is_some() || self.flags.get(key).is_some()
    }

    /// Reads a value from both, so that both are checked, and takes the flag's if there is one.
    pub fn read<T>(&self, reader: &mut Sources, read: impl Fn(&mut Reader, &Section<'a>) -> Option<T>) -> Option<T> {
        let file = read(&mut reader.file, &self.file);
        read(&mut reader.flags, &self.flags).or(file)
    }
}
