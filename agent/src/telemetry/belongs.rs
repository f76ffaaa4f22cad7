//! Lives: weir-agent, telemetry. What a cgroup belongs to: a container, a unit of systemd.
//! Called by: `rpc`, once for each cgroup of a batch.
//! May touch: nothing; a path is all it sees.
//! Never: believes a name that the container or the unit may have given itself.
//!
//! Below a container's cgroup, and below a service's, whoever runs there may make cgroups and call them what they like: like
//! somebody else's container. So the outermost name counts: the one that this node's runtime or service manager gave.

/// What a cgroup belongs to; "" for what the path does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner<'p> {
    /// The container's id, 64 hexadecimal digits.
    pub container: &'p str,
    /// The unit: of a container, the one its runtime was started by, where its cgroup is below that.
    pub unit: &'p str,
}

/// What runtimes put before a container's id. Their monitors (`crio-conmon-`, `libpod-conmon-`) are no containers.
const RUNTIMES: [&str; 5] = ["cri-containerd", "crio", "docker", "libpod", "nerdctl"];
/// Kinds of units that processes run in. A slice only holds others.
const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
/// Where podman keeps containers without systemd. The first level below may be a pod, whose id looks like a container's.
const PODMAN: &str = "libpod_parent";

/// Who the cgroup at `path`, below the managed tree, belongs to.
pub fn owner(path: &str) -> Owner<'_> {
    let (mut above, mut slice) = ("", "");
    let mut owner = Owner::default();
    for part in path.split('/') {
        if let Some(id) = container(part, above) {
            owner.container = id;
            return owner;
        }
        if owner.unit.is_empty() {
            match unit(part) {
                Some((name, ".slice")) => slice = name,
                Some((name, _)) => owner.unit = name,
                None => {}
            }
        }
        above = part;
    }
    if owner.unit.is_empty() {
        owner.unit = slice;
    }
    owner
}

/// The id of the container whose cgroup is called that: `RUNTIME-ID.scope` with the systemd driver, `RUNTIME-ID` or `ID` with
/// the other.
fn container<'p>(part: &'p str, above: &str) -> Option<&'p str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    match name.rsplit_once('-') {
        Some((runtime, id)) => RUNTIMES.contains(&runtime).then_some(id),
        None => (name == part && above != PODMAN).then_some(name),
    }
    .filter(|id| id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// The unit a cgroup is called after, and its kind. systemd puts `_` before names that would mean something else to the kernel.
fn unit(part: &str) -> Option<(&str, &'static str)> {
    let name = part.strip_prefix('_').unwrap_or(part);
    let mut kinds = UNITS.into_iter().chain([".slice"]);
    let kind = kinds.find(|kind| name.strip_suffix(kind).is_some_and(|stem| !stem.is_empty()))?;
    Some((name, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "4c01db0b339c7f9ed0a5e1d6b8f1a3f0c2b4d6e8f0a1b2c3d4e5f60718293a4b";
    const B: &str = "8f2e6a7d0c1b3a495867f6e5d4c3b2a19081726354453627180901a2b3c4d5e6";
    const POD: &str = "pod3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77";
    const SLICE: &str =
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice";

    /// Path (A and B stand for ids, POD and SLICE for a pod's cgroup), container, unit.
    const ROWS: &[(&str, &str, &str)] = &[
        // Kubernetes, driver systemd: containerd, CRI-O, cri-dockerd; what a container makes below its own cgroup.
        ("SLICE/cri-containerd-A.scope", "A", ""),
        ("SLICE/crio-A.scope", "A", ""),
        ("SLICE/crio-A.scope/container", "A", ""),
        ("SLICE/docker-A.scope", "A", ""),
        ("SLICE/crio-conmon-A.scope", "", "crio-conmon-A.scope"),
        ("SLICE", "", "kubepods-burstable-pod3b1f0e2c_7d54_4c0f_9a51_0d6b8a1f6e77.slice"),
        // Kubernetes, driver cgroupfs: containerd, CRI-O; k3s and MicroK8s within their services.
        ("kubepods/burstable/POD/A", "A", ""),
        ("kubepods/besteffort/POD/crio-A", "A", ""),
        ("kubepods/POD/crio-conmon-A", "", ""),
        ("kubepods/POD", "", ""),
        ("system.slice/k3s.service/kubepods/burstable/POD/A", "A", "k3s.service"),
        // Docker, both drivers, a parent of one's own, ECS, rootless; nerdctl.
        ("system.slice/docker-A.scope", "A", ""),
        ("docker/A", "A", ""),
        ("batch.slice/docker-A.scope", "A", ""),
        ("ecs/0f9de17a6465404e8b1b2356dc13c2f8/A", "A", ""),
        ("user.slice/user-1000.slice/user@1000.service/app.slice/docker-A.scope", "A", "user@1000.service"),
        ("system.slice/nerdctl-A.scope", "A", ""),
        ("default/A", "A", ""),
        // podman, as root and not, in a pod, without systemd, from a unit of Quadlet.
        ("machine.slice/libpod-A.scope", "A", ""),
        ("machine.slice/libpod-A.scope/container", "A", ""),
        ("machine.slice/libpod-conmon-A.scope", "", "libpod-conmon-A.scope"),
        ("machine.slice/machine-libpod_pod_B.slice/libpod-A.scope", "A", ""),
        ("user.slice/user-1000.slice/user@1000.service/user.slice/libpod-A.scope/container", "A", "user@1000.service"),
        ("libpod_parent/libpod-A", "A", ""),
        ("libpod_parent/B/libpod-A", "A", ""),
        ("system.slice/web.service/libpod-payload-A", "", "web.service"),
        // Containers in containers, and systemd in one: the outermost is this node's.
        ("docker/A/docker/B", "A", ""),
        ("system.slice/docker-A.scope/kubelet.slice/kubelet-kubepods.slice/cri-containerd-B.scope", "A", ""),
        ("system.slice/docker-A.scope/system.slice/nginx.service", "A", ""),
        ("system.slice/docker-A.scope/init.scope", "A", ""),
        // A service that calls a cgroup of its own like a container is named beside what it claims.
        ("system.slice/evil.service/docker-A.scope", "A", "evil.service"),
        // Units; a delegated one may call what is below it as it likes.
        ("system.slice/nginx.service", "", "nginx.service"),
        ("system.slice/nginx.service/worker", "", "nginx.service"),
        ("system.slice/nginx.service/sshd.service", "", "nginx.service"),
        ("system.slice/system-getty.slice/getty@tty1.service", "", "getty@tty1.service"),
        (r"system.slice/system-systemd\x2dfsck.slice", "", r"system-systemd\x2dfsck.slice"),
        ("system.slice/_cgroup.service", "", "cgroup.service"),
        ("system.slice/cups.socket", "", "cups.socket"),
        ("system.slice/tmp.mount", "", "tmp.mount"),
        ("init.scope", "", "init.scope"),
        (r"machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator", "", r"machine-qemu\x2d1\x2dvm.scope"),
        (
            "machine.slice/systemd-nspawn@deb.service/payload/system.slice/cron.service",
            "",
            "systemd-nspawn@deb.service",
        ),
        // Sessions, and the units of a user's own manager, which that user names.
        ("user.slice/user-1000.slice/session-3.scope", "", "session-3.scope"),
        (
            "user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte.scope",
            "",
            "user@1000.service",
        ),
        ("user.slice/user-1000.slice/user@1000.service/init.scope", "", "user@1000.service"),
        ("user.slice/user-1000.slice", "", "user-1000.slice"),
        // Neither.
        ("", "", ""),
        ("web", "", ""),
        ("lxc.payload.web", "", ""),
        (".service", "", ""),
        ("system.slice/docker-0a1b.scope", "", "docker-0a1b.scope"),
        ("A.scope", "", "A.scope"),
        ("other-A.scope", "", "other-A.scope"),
    ];

    #[test]
    fn who_a_cgroup_belongs_to_is_read_from_its_path() {
        let whole = |text: &str| {
            let text = text.replace("SLICE", SLICE).replace("POD", POD);
            text.replace('A', A).replace('B', B)
        };
        for (path, container, unit) in ROWS {
            let (path, container, unit) = (whole(path), whole(container), whole(unit));
            assert_eq!(owner(&path), Owner { container: &container, unit: &unit }, "{path}");
        }
    }

    #[test]
    fn an_id_has_64_small_digits() {
        for id in [&A[1..], &A.to_uppercase(), &format!("{A}0"), &A.replace('4', "g")] {
            assert_eq!(owner(&format!("docker/{id}")).container, "", "{id}");
            assert_eq!(owner(&format!("docker-{id}.scope")).container, "", "{id}");
        }
    }
}
