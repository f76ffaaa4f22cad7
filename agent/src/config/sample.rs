//! Lives: weir-agent, configuration.
//! Called by: `--print-sample-config`.
//! May touch: the table of options.
//! Never: contains an option or a default that the table does not.

use super::options::{OPTIONS, OptionDoc};

const INTRO: &str = "# weir-agent configuration. Values shown are the defaults; options that are commented out are absent by\n\
                     # default. Unknown keys are refused. `weir-agent --config FILE --check` reports every fault at once.\n";

/// The commented sample file.
#[must_use]
pub fn sample() -> String {
    let mut out = INTRO.to_owned();
    let mut before: Vec<&str> = Vec::new();
    for option in OPTIONS {
        let mut path: Vec<&str> = option.path.split('.').collect();
        let key = path.pop().unwrap_or_default();
        let shared = path.iter().zip(&before).take_while(|(a, b)| a == b).count();
        if path.is_empty() || shared < path.len() {
            out.push('\n');
        }
        for (depth, section) in path.iter().enumerate().skip(shared) {
            let hash = if holds_only_absent(&path, depth) { "# " } else { "" };
            out.push_str(&format!("{}{hash}{section}:\n", indent(depth)));
        }
        out.push_str(&lines(option, key, path.len()));
        before = path;
    }
    out
}

fn lines(option: &OptionDoc, key: &str, depth: usize) -> String {
    let (indent, hash) = (indent(depth), if option.absent { "# " } else { "" });
    format!("{indent}# {}\n{indent}{hash}{key}: {}\n", option.doc, option.sample)
}

/// Whether nothing below the section `path[..=depth]` is present by default, so that its key must be commented out too.
fn holds_only_absent(path: &[&str], depth: usize) -> bool {
    let section = path.iter().take(depth + 1).copied().collect::<Vec<_>>().join(".") + ".";
    OPTIONS.iter().filter(|option| option.path.starts_with(&section)).all(|option| option.absent)
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_configuration_without_faults() {
        let config = crate::config::read("sample.yaml", &sample()).unwrap();
        assert_eq!(config.queue_records, 65_536);
        assert!(config.grpc.tcp.is_none() && config.policy_dir.is_none());
    }

    #[test]
    fn every_option_stands_in_the_sample_with_its_documentation() {
        let text = sample();
        for option in OPTIONS {
            assert!(text.contains(option.doc), "{}", option.path);
        }
    }

    #[test]
    fn with_every_comment_sign_taken_off_all_options_are_known_keys() {
        let all: String = sample()
            .lines()
            .filter_map(|line| {
                let bare = line.trim_start().trim_start_matches("# ");
                let is_option = OPTIONS.iter().any(|o| {
                    let key = o.path.rsplit('.').next().unwrap_or_default();
                    bare == format!("{key}: {}", o.sample)
                });
                let is_section = bare.ends_with(':') && !bare.contains(' ');
                (is_option || is_section).then(|| line.replacen("# ", "", 1) + "\n")
            })
            .collect();
        let faults = crate::config::read("sample.yaml", &all).err().unwrap_or_default();
        assert!(faults.iter().all(|fault| !fault.problem.contains("unknown")), "{faults:?}\n{all}");
        assert!(all.contains("    tls:\n      certificate:") || all.contains("tls:\n"), "{all}");
    }
}
