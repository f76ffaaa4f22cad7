//! Lives: weir-agent, configuration.
//! Called by: `config::load`.
//! May touch: reads the configuration file, and `*.yaml` in the folder beside it that has its name (`agent.yaml`: `agent.d`).
//! Never: knows what is in them; leaves one out that cannot be read.

use std::{
    fs,
    io::{Error, ErrorKind},
    path::{Path, PathBuf},
};

use super::{Args, Fault};

/// Names and texts, in the order in which they are laid over each other.
///
/// # Errors
/// Every one that cannot be read. The default file may be absent, and so may the folder.
pub fn read(args: &Args) -> Result<Vec<(String, String)>, Vec<Fault>> {
    let path = args.config_path();
    let (mut texts, mut faults) = (Vec::new(), Vec::new());
    match fs::read_to_string(&path) {
        Ok(text) => texts.push((name(&path), text)),
        Err(error) if error.kind() == ErrorKind::NotFound && args.config.is_none() => {
            texts.push((name(&path), String::new()));
        }
        Err(error) => faults.push(unreadable(
            &path,
            &format!("the configuration file cannot be read: {error}"),
            "name another with --config, or write one: weir-agent --print-sample-config",
        )),
    }
    let remedy = "correct it or its permissions, or take it away";
    match drop_ins(&path.with_extension("d")) {
        Ok(paths) => {
            for path in paths {
                match fs::read_to_string(&path) {
                    Ok(text) => texts.push((name(&path), text)),
                    Err(error) => faults.push(unreadable(&path, &format!("cannot be read: {error}"), remedy)),
                }
            }
        }
        Err((folder, error)) => faults.push(unreadable(&folder, &format!("cannot be read: {error}"), remedy)),
    }
    if faults.is_empty() { Ok(texts) } else { Err(faults) }
}

/// By name, as `ls` shows them; what begins with a dot is somebody's unfinished work (an editor's, kubelet's).
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, (PathBuf, Error)> {
    let bad = |error| (folder.to_path_buf(), error);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(bad(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(bad)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|end| end == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn unreadable(path: &Path, problem: &str, remedy: &str) -> Fault {
    Fault {
        source: name(path),
        line: 0,
        column: 0,
        field: String::new(),
        value: String::new(),
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Args, load};

    /// A folder with `agent.yaml` and its drop-ins, and the flags that name it.
    fn world(base: &str, drop_ins: &[(&str, &str)]) -> (tempfile::TempDir, Args) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("agent.yaml"), base).unwrap();
        std::fs::create_dir(dir.path().join("agent.d")).unwrap();
        for (name, text) in drop_ins {
            std::fs::write(dir.path().join("agent.d").join(name), text).unwrap();
        }
        let args = Args { config: Some(dir.path().join("agent.yaml")), ..Args::default() };
        (dir, args)
    }

    #[test]
    fn drop_ins_are_laid_over_the_file_by_name_and_flags_over_them() {
        let (_dir, args) = world(
            "node: base\ncgroupRoot: /w\ninterfaces: [eth0, eth1]\nlog: {level: warn, format: json}\nspool: {hours: 2}\n",
            &[
                ("20-site.yaml", "node: second\ninterfaces: [eth2]\nlog:\n  level: debug\n"),
                ("10-site.yaml", "node: first\nstateDir: /s\nspool:\n"),
                ("30-empty.yaml", "# nothing yet\n"),
                ("40-other.yml", "bogus: 1\n"),
                (".50-hidden.yaml", "bogus: 1\n"),
            ],
        );
        let config = load(&args).unwrap();
        assert_eq!((config.node.as_str(), config.log.level, config.log.json), ("second", "debug", true));
        let interfaces: Vec<&str> = config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!((interfaces.as_slice(), config.state_dir), (["eth2"].as_slice(), PathBuf::from("/s")));
        assert_eq!(config.spool.age, std::time::Duration::from_hours(2), "a section without keys says nothing");
        assert_eq!(load(&Args { node: Some("flag".to_owned()), ..args }).unwrap().node, "flag");
    }

    #[test]
    fn faults_name_the_drop_in_and_the_line_they_stand_in() {
        let (dir, args) = world(
            "cgroupRoot: /w\nxdpMode: fast\n",
            &[("a.yaml", "log:\n  levle: info\n"), ("b.yaml", "node: x\nnode: y\n")],
        );
        let found: Vec<String> = load(&args).unwrap_err().iter().map(ToString::to_string).collect();
        let expected = [
            "agent.yaml:2:10: xdpMode: is none of the choices",
            "agent.d/a.yaml:2:3: log.levle: unknown key",
            "agent.d/b.yaml:2:1: node: the key stands here twice",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (line, start) in found.iter().zip(expected) {
            assert!(
                line.starts_with(&format!("{}/{start}", dir.path().display())),
                "expected {start}\n   found {line}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_fault_each() {
        let (dir, args) = world("cgroupRoot: /w\n", &[("a.yaml", "cgroupRoot: [\n"), ("b.yaml", "---\na: 1\n---\n")]);
        let faults = load(&args).unwrap_err();
        assert_eq!(
            faults.iter().filter(|fault| fault.problem.contains("not readable as YAML")).count(),
            2,
            "{faults:?}"
        );
        std::fs::create_dir(dir.path().join("agent.d/c.yaml")).unwrap();
        let faults = load(&args).unwrap_err();
        assert!(faults.len() == 1 && faults[0].source.ends_with("agent.d/c.yaml"), "{faults:?}");
    }
}
