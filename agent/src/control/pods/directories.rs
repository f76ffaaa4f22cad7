//! Lives: weir-agent, control. How kubelet names the cgroups of pods.
//! Called by: `pods`, with the UIDs it wants.
//! May touch: directory names below the cgroup root.
//! Never: looks into a pod's own directory; follows a link; walks a tree without a bound.
//!
//! kubelet's driver `cgroupfs` makes `kubepods/[burstable/|besteffort/]podUID`; `systemd` makes
//! `kubepods.slice/[kubepods-burstable.slice/]kubepods-burstable-podUID.slice`, with the UID's dashes as underscores. Either
//! may be nested deeper (`--cgroup-root`, a node in a container). The containers' cgroups are below the pod's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// How deep pods are looked for: a node in a container has its tree four levels down, and kubelet's own has four.
const DEPTH: usize = 10;
/// Directories looked into at most, so that a strange tree does not hold up control.
const LOOKS: usize = 20_000;

/// The directory below `root` of each wanted UID that has one; and every directory that was looked into.
pub fn find(root: &Path, wanted: &BTreeSet<&str>) -> (BTreeMap<String, String>, Vec<PathBuf>) {
    let mut search = Search { wanted, found: BTreeMap::new(), looked_into: Vec::new() };
    if !wanted.is_empty() {
        search.walk(root, "", DEPTH);
    }
    (search.found, search.looked_into)
}

struct Search<'w> {
    wanted: &'w BTreeSet<&'w str>,
    found: BTreeMap<String, String>,
    looked_into: Vec<PathBuf>,
}

impl Search<'_> {
    fn walk(&mut self, directory: &Path, below: &str, depth: usize) {
        if depth == 0 || self.looked_into.len() >= LOOKS || self.found.len() == self.wanted.len() {
            return;
        }
        self.looked_into.push(directory.to_owned());
        // One that is gone again is one that is not there.
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            match uid(name) {
                Some(uid) if self.wanted.contains(uid.as_str()) => drop(self.found.insert(uid, path)),
                Some(uid) if is_whole(&uid) => {}
                Some(_) | None => self.walk(&entry.path(), &path, depth - 1),
            }
        }
    }
}

/// The UID a directory is named after, if it is named as a pod's.
fn uid(name: &str) -> Option<String> {
    match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid.replace('_', "-")),
        None => name.strip_prefix("pod").map(str::to_owned),
    }
    .filter(|uid| !uid.is_empty())
}

/// Whether this is surely a pod's UID: 32 hexadecimal digits, with or without dashes. Static pods' have none.
fn is_whole(uid: &str) -> bool {
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    digits == 32 && uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77";

    /// As found on nodes: kubeadm, kind, k3s, minikube, CRI-O and containerd, both drivers, all three classes of service.
    #[test]
    fn names_of_both_drivers_are_read() {
        let rows = [
            ("pod3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77", Some(UID)),
            ("kubepods-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice", Some(UID)),
            ("kubepods-burstable-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice", Some(UID)),
            ("kubepods-besteffort-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice", Some(UID)),
            ("kubelet-kubepods-burstable-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice", Some(UID)),
            ("pod58c9a3d6a9aef8ac1b8e7f0a4d8d9b2e", Some("58c9a3d6a9aef8ac1b8e7f0a4d8d9b2e")),
            ("kubepods-burstable-pod58c9a3d6a9aef8ac1b8e7f0a4d8d9b2e.slice", Some("58c9a3d6a9aef8ac1b8e7f0a4d8d9b2e")),
            ("kubepods.slice", None),
            ("kubepods-burstable.slice", None),
            ("kubepods", None),
            ("burstable", None),
            ("cri-containerd-0f3c4b1e.scope", None),
            ("crio-0f3c4b1e.scope", None),
            ("system.slice", None),
            ("pod", None),
            ("kubepods-pod.slice", None),
        ];
        for (name, expected) in rows {
            assert_eq!(uid(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn pods_are_found_wherever_they_are_nested_and_nothing_else_is() {
        let whole = [
            "kubepods/burstable/pod3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77",
            "kubepods/pod3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice",
            "kubepods.slice/kubepods-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice",
            "docker/0f3c4b1e/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice",
            "pod3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77",
            // A slice whose name only looks like a pod's is walked through.
            "lab-podium.slice/pod3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77",
        ];
        for path in whole {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join(path).join("cri-containerd-1.scope")).unwrap();
            fs::create_dir_all(root.path().join("system.slice/pod.service")).unwrap();
            let (found, _) = find(root.path(), &BTreeSet::from([UID, "another"]));
            assert_eq!(found, BTreeMap::from([(UID.to_owned(), path.to_owned())]), "{path}");
            assert_eq!(find(root.path(), &BTreeSet::from(["another"])).0, BTreeMap::new(), "{path}");
        }
    }

    #[test]
    fn a_pod_inside_of_another_pods_cgroup_is_not_this_nodes() {
        let root = tempfile::tempdir().unwrap();
        let outer = "kubepods/pod11111111-7d54-4c0f-9a51-0d6b8a1f6e77";
        fs::create_dir_all(root.path().join(outer).join(format!("kubepods/pod{UID}"))).unwrap();
        assert_eq!(find(root.path(), &BTreeSet::from([UID])).0, BTreeMap::new());
    }
}
