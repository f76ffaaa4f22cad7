//! Lives: xtask, the arrows as sources draw them.
//! Called by: layers, once per file.
//! May touch: the text it is handed.
//! Never: takes a name in a comment or a string for a use of it.

use std::path::Path;
use std::str::FromStr;

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

use super::{Finding, Layer, Scope};

/// Modules of `std` that are I/O or threads. `std::net` is not here: addresses are values; its sockets are below.
const IMPURE_MODULES: [&str; 5] = ["fs", "process", "thread", "os", "env"];
/// Names that mean I/O, a clock or async wherever they come from.
const IMPURE_NAMES: [&str; 8] =
    ["Instant", "SystemTime", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "tokio"];

/// Checks one source file; `file` is its path in the repository.
pub fn check(layer: &Layer, file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let opening = if layer.folder == "tests" { "//!" } else { "//! Lives:" };
    if !text.starts_with(opening) {
        let what = format!("the file does not open with `{opening}`");
        findings.push(Finding::new(
            file,
            1,
            what,
            "say where it lives, who calls it, what it may touch and what it never does",
        ));
    }
    let Ok(tokens) = TokenStream::from_str(text) else {
        findings.push(Finding::new(file, 1, "not readable as Rust", "make it compile first"));
        return findings;
    };
    let may_aya = allows(layer.kernel_api, file);
    let may_wire = allows(layer.wire, file);
    let mut reader = Reader { file, may_aya, may_wire, pure: layer.pure && !is_test(file), findings };
    reader.read(tokens);
    reader.findings
}

fn allows(scope: Scope, file: &Path) -> bool {
    let inside = |name: &str| file.iter().any(|part| part == name);
    match scope {
        Scope::Everywhere => true,
        Scope::Nowhere => false,
        Scope::Kernel => inside("src") && (inside("kernel") || inside("kernel.rs")),
        Scope::Rpc => inside("rpc") || inside("rpc.rs"),
    }
}

/// Whether a whole file is tests: in a `tests` folder, or one that a module declares as its tests.
fn is_test(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with("tests.rs") || file.iter().skip(1).any(|part| part == "tests")
}

struct Reader<'a> {
    file: &'a Path,
    may_aya: bool,
    may_wire: bool,
    pure: bool,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    /// Follows the tokens of one level. Recursion is as deep as the file nests, which its author bounds.
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut testing = false;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(name) => {
                    self.name(name);
                    self.module_of_std(name, tokens.get(at + 1..).unwrap_or_default());
                }
                TokenTree::Group(group) if is_test_mark(group.delimiter(), &group.stream()) => testing = true,
                // Tests are no part of the crate's promise to be pure; its other promises still hold there.
                TokenTree::Group(group) if testing && group.delimiter() == Delimiter::Brace => {
                    let pure = std::mem::replace(&mut self.pure, false);
                    self.read(group.stream());
                    self.pure = pure;
                    testing = false;
                }
                TokenTree::Group(group) => self.read(group.stream()),
                TokenTree::Punct(mark) => testing &= mark.as_char() != ';',
                TokenTree::Literal(_) => {}
            }
        }
    }

    fn name(&mut self, name: &Ident) {
        let text = name.to_string();
        match text.as_str() {
            "aya" | "aya_log" | "aya_obj" if !self.may_aya => {
                self.note(name, format!("{text} is named outside agent/src/kernel"), "ask the kernel module for it");
            }
            "tonic" | "tonic_prost" | "tonic_types" | "weir_proto" | "opentelemetry_proto" if !self.may_wire => {
                self.note(name, format!("{text} is named outside rpc"), "convert to our own type in an rpc module");
            }
            impure if self.pure && IMPURE_NAMES.contains(&impure) => {
                self.note(
                    name,
                    format!("{text} in a crate without I/O or clock"),
                    "take it, or its result, as an argument",
                );
            }
            "async" if self.pure => self.note(name, "async in a pure crate".to_owned(), "do it in the caller"),
            _ => {}
        }
    }

    /// `std::fs` and `use std::{fs, io}`; `rest` is what follows the name.
    fn module_of_std(&mut self, name: &Ident, rest: &[TokenTree]) {
        let [TokenTree::Punct(first), TokenTree::Punct(second), next, ..] = rest else { return };
        let path = first.as_char() == ':' && second.as_char() == ':';
        if !self.pure || !path || *name != "std" {
            return;
        }
        match next {
            TokenTree::Ident(module) => self.impure_module(module),
            TokenTree::Group(group) => firsts(group.stream()).iter().for_each(|module| self.impure_module(module)),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }

    fn impure_module(&mut self, module: &Ident) {
        if IMPURE_MODULES.iter().any(|impure| module == impure) {
            self.note(module, format!("std::{module} in a crate without I/O or clock"), "do it in the caller");
        }
    }

    fn note(&mut self, at: &Ident, what: String, remedy: &str) {
        self.findings.push(Finding::new(self.file, at.span().start().line, what, remedy));
    }
}

/// Whether a group is the bracket of `#[cfg(test)]`.
fn is_test_mark(delimiter: Delimiter, inside: &TokenStream) -> bool {
    delimiter == Delimiter::Bracket && inside.to_string().replace(' ', "") == "cfg(test)"
}

/// The first name of each item in `{fs, net::{IpAddr}, io}`.
fn firsts(items: TokenStream) -> Vec<Ident> {
    let mut names = Vec::new();
    let mut fresh = true;
    for token in items {
        match token {
            TokenTree::Ident(name) if fresh => {
                names.push(name);
                fresh = false;
            }
            TokenTree::Punct(mark) => fresh = mark.as_char() == ',',
            TokenTree::Ident(_) | TokenTree::Group(_) | TokenTree::Literal(_) => fresh = false,
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::{COMMON, POLICY};
    use super::*;

    /// A table of sources: where, text, and the lines that are wrong.
    #[test]
    fn names_are_found_where_they_do_not_belong() {
        let rows: [(&str, &str, &[usize]); 15] = [
            ("policy", "use std::fs;", &[2]),
            ("policy", "use std::{\n  net::IpAddr,\n  fs,\n};", &[4]),
            ("policy", "use std::net::{IpAddr, TcpStream};", &[2]),
            ("policy", "use std::time::{Duration, Instant};", &[2]),
            ("policy", "fn f() -> std::time::Duration { x() }", &[]),
            ("policy", "// std::fs\nconst A: &str = \"std::fs\";", &[]),
            ("policy", "async fn f() {}", &[2]),
            ("policy", "#[cfg(test)]\nmod tests { use std::fs; }\nuse std::fs;", &[4]),
            ("policy", "#[cfg(test)]\nuse x;\nmod real { use std::fs; }", &[4]),
            ("policy", "#[cfg(test)]\nmod tests { use aya::Ebpf; }", &[3]),
            ("agent", "fn f() { m!(aya::maps::HashMap) }", &[2]),
            ("agent", "use weir_proto::v1; use tonic::Code;", &[2, 2]),
            ("collector", "use opentelemetry_proto::tonic::logs;", &[2, 2]),
            ("agent", "use std::fs; use std::time::Instant;", &[]),
            ("agent", "}", &[1]),
        ];
        for (folder, text, lines) in rows {
            let layer = super::super::LAYERS.iter().find(|layer| layer.folder == folder).unwrap();
            let findings = check(layer, &Path::new(folder).join("src/x.rs"), &format!("//! Lives: here\n{text}\n"));
            let found: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
            assert_eq!(found, lines, "{folder}: {text}");
        }
    }

    #[test]
    fn tests_may_read_files_wherever_they_live() {
        let rows = [
            ("policy/src/x.rs", false),
            ("policy/src/testsuite.rs", false),
            ("policy/src/x_tests.rs", true),
            ("policy/src/x/tests.rs", true),
            ("policy/tests/refused.rs", true),
            ("tests/src/world.rs", false),
        ];
        for (file, tests) in rows {
            assert_eq!(is_test(Path::new(file)), tests, "{file}");
        }
    }

    #[test]
    fn rpc_and_kernel_are_places_not_prefixes() {
        let rows = [
            (Scope::Rpc, "agent/src/rpc.rs", true),
            (Scope::Rpc, "agent/src/rpc/policy.rs", true),
            (Scope::Rpc, "agent/src/rpcs.rs", false),
            (Scope::Kernel, "agent/src/kernel/load.rs", true),
            (Scope::Kernel, "agent/src/kernel.rs", true),
            (Scope::Kernel, "agent/src/kernel_tables.rs", false),
        ];
        for (scope, file, good) in rows {
            assert_eq!(allows(scope, Path::new(file)), good, "{file}");
        }
    }

    #[test]
    fn the_table_names_each_crate_once() {
        let mut packages: Vec<&str> = super::super::LAYERS.iter().map(|layer| layer.package).collect();
        packages.sort_unstable();
        packages.dedup();
        assert_eq!(packages.len(), super::super::LAYERS.len());
        assert!(packages.contains(&COMMON) && packages.contains(&POLICY));
    }
}
