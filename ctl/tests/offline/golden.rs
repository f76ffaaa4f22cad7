//! Lives: ctl's tests of the verb policy.
//! Called by: cargo test.
//! May touch: the folder golden, with `WEIR_BLESS=1`.
//! Never: compares output without the exit code above it.

use crate::asked::{here, run, shop};

/// Every way to ask, each with the name of the file that holds the whole answer.
const ASKED: [(&str, &str); 19] = [
    ("check", "check policies cluster.yaml"),
    ("check-json", "check policies cluster.yaml -o json"),
    ("eval-allowed", "eval -f policies -f cluster.yaml --from shop/app=api --to svc:data/db --port 5432"),
    ("eval-denied", "eval -f policies -f cluster.yaml --from shop/app=web --to data/app=db --port 5432/tcp"),
    ("eval-audit", "eval -f . --from data/app=db --to data/app=cache --port 6379"),
    ("eval-staged", "eval -f . --from data/app=db --to monitoring/app=prometheus --port 22"),
    ("eval-outside", "eval -f . --from 203.0.113.9 --to 198.51.100.1 --port icmp"),
    ("eval-json", "eval -f . --from data/app=db --to monitoring/app=prometheus --port 22 -o json"),
    ("matrix", "matrix -f policies -f cluster.yaml"),
    ("matrix-port", "matrix -f . --port 5432 --port 53/udp"),
    ("matrix-namespace", "matrix -f . --group-by namespace"),
    ("matrix-labels", "matrix -f . --group-by labels team"),
    ("matrix-staged", "matrix -f . --staged --group-by namespace"),
    ("matrix-csv", "matrix -f . -o csv"),
    ("matrix-json", "matrix -f . --port 9090 --group-by namespace -o json"),
    ("diff", "diff policies changed -f cluster.yaml"),
    ("diff-json", "diff policies changed -f cluster.yaml -o json"),
    ("diff-same", "diff policies policies -f cluster.yaml"),
    ("test", "test expectations.yaml --verbose"),
];

#[test]
fn every_answer_is_as_it_was_read_and_found_right() {
    let bless = std::env::var_os("WEIR_BLESS").is_some();
    let mut differ = Vec::new();
    for (name, line) in ASKED {
        // The folder holds the changed policies too, which describe the same names.
        let line = line.replace("-f . ", "-f policies -f cluster.yaml ");
        let seen = run(&shop(), &line);
        let found = format!("$ weirctl policy {line}\n[{}]\n{}{}", seen.code.unwrap(), seen.out, seen.err);
        let path = here().join("golden").join(format!("{name}.txt"));
        if bless {
            std::fs::write(&path, &found).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != found {
            differ.push(format!("{}\n{found}", path.display()));
        }
    }
    assert!(differ.is_empty(), "other answers than expected:\n{}", differ.join("\n"));
}
