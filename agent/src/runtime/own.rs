//! Lives: weir-agent, runtime.
//! Called by: `runtime`, before it seals the process.
//! May touch: the folder of the API's socket, which it makes; the configuration.
//! Never: takes a folder for the agent's own that the configuration does not name, beside what every agent reads.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, TlsFiles},
    kernel::fence::Fence,
};

/// What every agent reads: processes (whom Landlock hides but for what all may see), and how many processors there are.
const ALWAYS: [&str; 2] = ["/proc", "/sys/devices/system/cpu"];
/// What finding a host by its name reads. `/etc` as a whole, for `resolv.conf` is replaced, not changed.
const NAMES: [&str; 7] =
    ["/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/lib", "/lib64", "/usr/lib"];
/// Of name servers.
const DNS: u16 = 53;

/// What the agent may open.
pub(super) fn fence(config: &Config) -> Fence {
    let mut fence = Fence { read: ALWAYS.map(PathBuf::from).to_vec(), ..Fence::default() };
    fence.read.push(mount(&config.cgroup_root));
    fence.read.extend(config.policy_dir.clone());
    fence.write.push(config.state_dir.clone());
    fence.pin.push(config.neighbours.bpffs.clone());
    // One that is unmounted and mounted again is another one, at the same place. Usually that is below /sys/fs, as are cgroups, into whose
    // files nothing is to be written.
    fence.pin.extend(config.neighbours.bpffs.parent().filter(|parent| *parent != Path::new("/")).map(PathBuf::from));
    if let Some(folder) = config.grpc.socket.parent() {
        // Whoever opens the socket says why that fails.
        let _ = fs::create_dir_all(folder);
        fence.write.push(folder.to_owned());
    }
    if let Some(tcp) = &config.grpc.tcp {
        fence.bind.push(tcp.listen.port());
        certificates(&mut fence, tcp.tls.as_ref());
    }
    fence.bind.extend(config.metrics.map(|metrics| metrics.listen.port()));
    if let Some(collector) = &config.collector {
        certificates(&mut fence, collector.tls.as_ref());
        towards(&mut fence, &collector.address);
    }
    faults(&mut fence);
    fence
}

/// The folders that they lie in, by name and in truth: they are exchanged while the agent runs.
fn certificates(fence: &mut Fence, tls: Option<&TlsFiles>) {
    for file in tls.iter().flat_map(|tls| [&tls.certificate, &tls.key, &tls.ca]) {
        let real = fs::canonicalize(file).ok();
        for folder in [Some(file.as_path()), real.as_deref()].into_iter().flatten().filter_map(Path::parent) {
            let root = folder == Path::new("/");
            fence.read.push(if root { file.clone() } else { folder.to_owned() });
        }
    }
}

/// The way to `address`.
fn towards(fence: &mut Fence, address: &str) {
    let Some((scheme, rest)) = address.split_once("://") else { return };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        Some(_) | None => (authority, None),
    };
    fence.connect.push(port.unwrap_or(if scheme == "https" { 443 } else { 80 }));
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_err() {
        fence.read.extend(NAMES.map(PathBuf::from));
        fence.connect.push(DNS);
    }
}

/// The root of the file system that a folder is in: the folder itself may be made anew.
fn mount(folder: &Path) -> PathBuf {
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let here = device(folder);
    folder.ancestors().take_while(|above| device(above) == here).last().unwrap_or(folder).to_owned()
}

/// Builds with debug assertions look into a file of faults.
#[cfg(debug_assertions)]
fn faults(fence: &mut Fence) {
    let file = std::env::var_os("WEIR_FAULTS").map(PathBuf::from);
    fence.write.extend(file.as_deref().and_then(Path::parent).map(Path::to_owned));
}

#[cfg(not(debug_assertions))]
const fn faults(_fence: &mut Fence) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_collectors_port_is_connected_to_and_names_take_more() {
        let rows: [(&str, &[u16], bool); 6] = [
            ("unix:/run/weir/collector.sock", &[], false),
            ("https://10.0.0.1:4317", &[4317], false),
            ("https://[fd00::1]:4317", &[4317], false),
            ("https://[fd00::1]", &[443], false),
            ("http://10.0.0.1", &[80], false),
            ("https://collector.weir.svc:4317", &[4317, DNS], true),
        ];
        for (address, ports, names) in rows {
            let mut fence = Fence::default();
            towards(&mut fence, address);
            assert_eq!((fence.connect.as_slice(), !fence.read.is_empty()), (ports, names), "{address}");
        }
    }

    #[test]
    fn certificates_may_be_exchanged_where_they_lie_and_where_they_are_linked_to() {
        let dir = tempfile::tempdir().unwrap();
        let (named, real) = (dir.path().join("named"), fs::canonicalize(dir.path()).unwrap().join("real"));
        fs::create_dir(&named).unwrap();
        fs::create_dir(&real).unwrap();
        fs::write(real.join("a.pem"), "").unwrap();
        std::os::unix::fs::symlink(real.join("a.pem"), named.join("a.pem")).unwrap();
        let file = named.join("a.pem");
        let mut fence = Fence::default();
        certificates(&mut fence, Some(&TlsFiles { certificate: file.clone(), key: file.clone(), ca: file }));
        assert!(fence.read.contains(&named) && fence.read.contains(&real), "{fence:?}");
        assert_eq!(mount(Path::new("/proc/self")), Path::new("/proc"));
    }
}
