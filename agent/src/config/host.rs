//! Lives: weir-agent, configuration.
//! Called by: `main`, after the configuration itself was found good; with `--check` and before starting.
//! May touch: reads what the configuration points to.
//! Never: creates or changes anything.

use std::path::Path;

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::{Config, Fault, TlsFiles};

/// Checks what the configuration points to: the cgroup tree, the BPF file system, the policy directory, the certificates.
///
/// # Errors
/// Every fault found.
pub fn check_host(config: &Config) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    faults.extend(cgroup_root(&config.cgroup_root));
    if (config.pin || config.neighbours.chain) && !is_bpffs(&config.neighbours.bpffs) {
        let remedy = "mount one there (`mount -t bpf bpf DIR`), or name where it is; `pin: true` and `xdpNeighbour: chain` need it";
        faults.push(fault("bpffs", &config.neighbours.bpffs, "is no BPF file system", remedy));
    }
    if let Some(dir) = config.policy_dir.as_deref().filter(|dir| !dir.is_dir()) {
        faults.push(fault("policyDir", dir, "is no directory", "create it, or leave the key out"));
    }
    if let Some(tls) = config.grpc.tcp.as_ref().and_then(|tcp| tcp.tls.as_ref()) {
        faults.extend(unreadable_files("grpc.tcp.tls", tls));
    }
    if let Some(tls) = config.collector.as_ref().and_then(|collector| collector.tls.as_ref()) {
        faults.extend(unreadable_files("collector.tls", tls));
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Whether a BPF file system is mounted there.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn cgroup_root(dir: &Path) -> Option<Fault> {
    if !dir.is_dir() {
        let remedy = "create it (mkdir) below the mount of cgroup2, which `grep cgroup2 /proc/self/mountinfo` shows";
        return Some(fault("cgroupRoot", dir, "is no directory", remedy));
    }
    let is_cgroup2 = statfs(dir).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let remedy = "choose a directory below the mount of cgroup2, which `grep cgroup2 /proc/self/mountinfo` shows";
    (!is_cgroup2).then(|| fault("cgroupRoot", dir, "is not on a cgroup2 file system", remedy))
}

fn unreadable_files(section: &str, tls: &TlsFiles) -> Vec<Fault> {
    [("certificate", &tls.certificate), ("key", &tls.key), ("ca", &tls.ca)]
        .into_iter()
        .filter_map(|(key, path)| {
            let error = std::fs::read(path).err()?;
            Some(fault(
                &format!("{section}.{key}"),
                path,
                &format!("cannot be read: {error}"),
                "correct the path or its permissions",
            ))
        })
        .collect()
}

fn fault(field: &str, path: &Path, problem: &str, remedy: &str) -> Fault {
    Fault {
        source: "configuration".to_owned(),
        line: 0,
        column: 0,
        field: field.to_owned(),
        value: path.display().to_string(),
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_configuration_points_to_is_checked_and_every_fault_reported() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "cgroupRoot: {0}\nbpffs: {0}\nxdpNeighbour: chain\npolicyDir: {0}/absent\ncollector:\n  address: https://c:1\n  tls: {{certificate: {0}/a, key: {0}/b, ca: {0}/c}}\n",
            dir.path().display()
        );
        let config = crate::config::read("t.yaml", &text).unwrap();
        let fields: Vec<String> =
            super::check_host(&config).unwrap_err().into_iter().map(|fault| fault.field).collect();
        let expected =
            ["cgroupRoot", "bpffs", "policyDir", "collector.tls.certificate", "collector.tls.key", "collector.tls.ca"];
        assert_eq!(fields, expected);
    }
}
