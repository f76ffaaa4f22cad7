//! Lives: weir-agent, tests of the dashboard and the alert rules in `deploy`, without Prometheus: do they name what there is?
//! Called by: `cargo test`.
//! May touch: those files.
//! Never: judges an expression; a real Prometheus does (`tests/tests/live/alerts.rs`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::families::{FAMILIES, Type};

/// Labels that every series has from its scrape.
const OF_A_SCRAPE: [&str; 2] = ["job", "instance"];
/// Words of the language that stand where a name could.
const WORDS: [&str; 10] =
    ["by", "without", "on", "ignoring", "group_left", "group_right", "bool", "or", "and", "unless"];
/// Those whose parentheses hold labels.
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Labels by the names that Prometheus gives our metrics, and those it gives its own.
fn series() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut series = BTreeMap::from([
        ("up".to_owned(), BTreeSet::new()),
        ("ALERTS".to_owned(), BTreeSet::from(["alertname", "alertstate"])),
    ]);
    for family in FAMILIES {
        let labels: BTreeSet<&str> = family.labels.iter().copied().collect();
        let names: &[&str] = match family.kind {
            Type::Counter => &["_total"],
            Type::Gauge => &[""],
            Type::Histogram => &["_bucket", "_sum", "_count"],
        };
        for end in names {
            let le = (*end == "_bucket").then_some("le");
            series.insert(format!("{}{end}", family.name), labels.iter().copied().chain(le).collect());
        }
    }
    series
}

/// What an expression names that does not exist, and the labels that it may have.
fn judge(expression: &str) -> (Vec<String>, BTreeSet<String>) {
    let series = series();
    let (mut faults, mut labels) = (Vec::new(), BTreeSet::from(OF_A_SCRAPE.map(str::to_owned)));
    let (mut grouped, mut metrics) = (Vec::new(), 0);
    let tokens = tokens(expression);
    let mut rest = tokens.iter().map(String::as_str).peekable();
    while let Some(token) = rest.next() {
        if GROUPINGS.contains(&token) && rest.peek() == Some(&"(") {
            grouped.extend(rest.by_ref().take_while(|token| *token != ")").filter(|token| is_name(token)));
        } else if is_name(token)
            && !WORDS.contains(&token)
            && !rest.peek().is_some_and(|next| ["(", "by", "without"].contains(next))
        {
            metrics += 1;
            let Some(own) = series.get(token) else {
                faults.push(format!("no metric {token}"));
                continue;
            };
            labels.extend(own.iter().map(|label| (*label).to_owned()));
            if rest.peek() == Some(&"{") {
                let selected = rest.by_ref().take_while(|token| *token != "}").filter(|token| is_name(token));
                let known = |label: &&str| own.contains(label) || OF_A_SCRAPE.contains(label);
                faults.extend(selected.filter(|label| !known(label)).map(|label| format!("{token} has no {label}")));
            }
        }
    }
    faults.extend(grouped.iter().filter(|label| !labels.contains(**label)).map(|label| format!("nothing has {label}")));
    if metrics == 0 {
        faults.push("names no metric".to_owned());
    }
    (faults, labels)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Names, and the signs around them; strings, numbers and ranges are left out.
fn tokens(expression: &str) -> Vec<String> {
    let (mut tokens, mut chars) = (Vec::new(), expression.chars().peekable());
    while let Some(first) = chars.next() {
        match first {
            '"' => drop(chars.by_ref().find(|c| *c == '"')),
            '[' => drop(chars.by_ref().find(|c| *c == ']')),
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || "_:.".contains(*c)) {
                    word.push(c);
                }
                if is_name(&word) {
                    tokens.push(word);
                }
            }
            c if "(){}".contains(c) => tokens.push(c.to_string()),
            _ => {}
        }
    }
    tokens
}

/// `{{ $labels.name }}` and `{{name}}`.
fn shown(text: &str) -> Vec<String> {
    let inside = text.split("{{").skip(1).filter_map(|part| part.split("}}").next());
    let names = inside.map(|inside| inside.trim().trim_start_matches("$labels."));
    names.filter(|name| is_name(name)).map(str::to_owned).collect()
}

fn texts<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("{path} is missing in {value}"))
}

fn items<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(include_str!("../../../deploy/alerts/weir.rules.yaml")).unwrap();
    items(&file, "/groups").iter().flat_map(|group| items(group, "/rules")).cloned().collect()
}

#[test]
fn the_dashboard_shows_metrics_and_labels_that_exist() {
    let file: Value = serde_json::from_str(include_str!("../../../deploy/dashboards/weir.json")).unwrap();
    let (mut faults, mut expressions) = (Vec::new(), 0);
    for panel in items(&file, "/panels") {
        let title = texts(panel, "/title");
        for target in items(panel, "/targets") {
            let (found, labels) = judge(texts(target, "/expr"));
            let unknown = shown(texts(target, "/legendFormat")).into_iter().filter(|label| !labels.contains(label));
            let unknown = unknown.map(|label| format!("legend: nothing has {label}"));
            faults.extend(found.into_iter().chain(unknown).map(|fault| format!("{title}: {fault}")));
            expressions += 1;
            assert_eq!(texts(target, "/datasource/uid"), "${datasource}", "{title}");
        }
    }
    assert!(expressions > 30, "{expressions}");
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn alerts_name_metrics_that_exist_and_say_what_to_do() {
    let docs = include_str!("../../../docs/metrics.md");
    let (mut faults, rules) = (Vec::new(), rules());
    assert!(!rules.is_empty());
    for rule in &rules {
        let name = texts(rule, "/alert");
        let (found, labels) = judge(texts(rule, "/expr"));
        let summary = texts(rule, "/annotations/summary");
        let unknown = shown(summary).into_iter().filter(|label| !labels.contains(label));
        faults.extend(found.into_iter().chain(unknown).map(|fault| format!("{name}: {fault}")));
        let severity = texts(rule, "/labels/severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        assert!(texts(rule, "/annotations/description").contains("`weirctl "), "{name} names no command");
        let anchor = format!("docs/metrics.md#{}", name.to_lowercase());
        assert_eq!(texts(rule, "/annotations/runbook"), anchor);
        assert!(docs.lines().any(|line| line == format!("### {name}")), "docs/metrics.md has no section {name}");
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_alert_has_a_unit_test_that_fires_it_and_one_of_the_moment_before() {
    let file: Value = serde_saphyr::from_str(include_str!("../../../deploy/alerts/tests.yaml")).unwrap();
    let tests: Vec<&Value> = items(&file, "/tests").iter().flat_map(|test| items(test, "/promql_expr_test")).collect();
    for rule in rules() {
        let expression = format!("ALERTS{{alertname=\"{}\", alertstate=\"firing\"}}", texts(&rule, "/alert"));
        let of_it: Vec<usize> = tests
            .iter()
            .filter(|test| texts(test, "/expr") == expression)
            .map(|test| items(test, "/exp_samples").len())
            .collect();
        assert_eq!(of_it, [0, 1], "{expression}");
    }
    for series in items(&file, "/tests").iter().flat_map(|test| items(test, "/input_series")) {
        assert_eq!(judge(texts(series, "/series")).0, Vec::<String>::new());
    }
}

#[test]
fn what_does_not_exist_is_found() {
    let rows: [(&str, &[&str]); 6] = [
        ("sum by (verdict) (rate(weir_decisions_total{job=~\"$job\"}[5m])) > 0.5", &[]),
        ("weir_decisions", &["no metric weir_decisions"]),
        ("rate(weir_decisions_total{hok=\"xdp\"}[5m])", &["weir_decisions_total has no hok"]),
        ("sum by (limit) (weir_decisions_total)", &["nothing has limit"]),
        ("histogram_quantile(0.9, sum by (le, phase) (weir_policy_apply_seconds_bucket))", &[]),
        ("1 + 2", &["names no metric"]),
    ];
    for (expression, faults) in rows {
        assert_eq!(judge(expression).0, faults, "{expression}");
    }
}
