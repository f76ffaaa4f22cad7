//! Lives: weir-agent, tests of the configuration.
//! Called by: `cargo test`.
//! May touch: temporary files.
//! Never: reads the host's own configuration.

use super::*;

fn lines(text: &str) -> Vec<String> {
    read("a.yaml", text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn every_fault_is_reported_at_its_place_with_a_remedy() {
    // Text, then the beginning of each expected line and a word of its remedy.
    let rows: &[(&str, &[(&str, &str)])] = &[
        ("", &[("a.yaml: cgroupRoot: is missing", "--cgroup-root")]),
        (
            "cgroupRoot: relative\n",
            &[("a.yaml:1:13: cgroupRoot: must be an absolute path (relative)", "begin it with /")],
        ),
        (
            "cgroupRoot: /w\ncgruopRoot: /x\n",
            &[("a.yaml:2:1: cgruopRoot: unknown key", "known here: node, cgroupRoot")],
        ),
        ("cgroupRoot: /w\ncgroupRoot: /x\n", &[("a.yaml:2:1: cgroupRoot: the key stands here twice", "keep one")]),
        (
            "cgroupRoot: /w\nlog: {level: loud, format: xml}\nxdpMode: fast\n",
            &[
                ("a.yaml:2:14: log.level: is none of the choices (loud)", "error, warn"),
                ("a.yaml:2:28: log.format: is none of the choices (xml)", "text, json"),
                ("a.yaml:3:10: xdpMode: is none of the choices (fast)", "auto, native, generic"),
            ],
        ),
        (
            "cgroupRoot: /w\ninterfaces: [{name: eth0, refuse: [martian, bogus]}]\n",
            &[("a.yaml:2:45: interfaces[0].refuse[1]: is not usable (bogus)", "write martian or spoofed or ethertype")],
        ),
        (
            "cgroupRoot: /w\ninterfaces: [{refuse: [martian], mode: native}]\n",
            &[
                ("a.yaml:2:14: interfaces[0].name: is missing", "name the interface"),
                ("a.yaml:2:34: interfaces[0].mode: unknown key", "known here: name, refuse"),
            ],
        ),
        ("cgroupRoot: /w\ninterfaces: eth0\n", &[("a.yaml:2:13: interfaces: must be a list (eth0)", "[eth0, ...]")]),
        (
            "cgroupRoot: /w\ngrpc:\n  socket: {allowedUids: [0, root]}\n",
            &[("a.yaml:3:29: grpc.socket.allowedUids[1]: is not usable (root)", "user id")],
        ),
        (
            "cgroupRoot: /w\ngrpc:\n  tcp: {listen: here}\n",
            &[
                ("a.yaml:3:17: grpc.tcp.listen: is no address and port (here)", "ADDRESS:PORT"),
                ("a.yaml: grpc.tcp: has neither tls nor insecure: true", "tls files"),
            ],
        ),
        (
            "cgroupRoot: /w\ngrpc:\n  tcp: {listen: '0.0.0.0:1', tls: {certificate: /c}}\n",
            &[
                ("a.yaml: grpc.tcp.tls.key: is missing", "mutual"),
                ("a.yaml: grpc.tcp.tls.clientCa: is missing", "mutual"),
            ],
        ),
        (
            "cgroupRoot: /w\ncollector: {address: 'http://c:1'}\n",
            &[("a.yaml:2:22: collector.address: http is not protected", "https")],
        ),
        (
            "cgroupRoot: /w\ncollector: {address: 'https://c:1'}\n",
            &[("a.yaml:2:22: collector.tls: is missing", "certificate")],
        ),
        (
            "cgroupRoot: /w\ncollector: {address: there}\n",
            &[("a.yaml:2:22: collector.address: is no address", "unix:/PATH")],
        ),
        ("cgroupRoot: /w\nqueue: {records: 7}\n", &[("a.yaml:2:18: queue.records: is out of range (7)", "1024")]),
        ("cgroupRoot: /w\nqueue: many\n", &[("a.yaml:2:8: queue: must be a mapping (many)", "--print-sample-config")]),
        (
            "cgroupRoot: /w\nmetrics: {perPolicy: true}\n",
            &[("a.yaml:2:22: metrics.listen: is missing (true)", "127.0.0.1:9477")],
        ),
        (
            "cgroupRoot: /w\nmetrics: {listen: '[::1]:9', programStats: 1}\n",
            &[("a.yaml:2:44: metrics.programStats: is none of the choices (1)", "true, false")],
        ),
        ("cgroupRoot: [unclosed\n", &[("a.yaml:1:13: not readable as YAML", "correct the line")]),
        ("cgroupRoot: /w\n---\nnode: b\n", &[("a.yaml:2:1: not readable as YAML: a second document", "")]),
    ];
    for (text, expected) in rows {
        let found = lines(text);
        assert_eq!(found.len(), expected.len(), "{text}\n{found:#?}");
        for (line, (start, remedy)) in found.iter().zip(*expected) {
            assert!(line.starts_with(start), "expected {start}\n   found {line}");
            assert!(line.rsplit("; ").next().is_some_and(|end| end.contains(remedy)), "remedy {remedy} in {line}");
        }
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = read("a.yaml", "cgroupRoot: /w\n").unwrap();
    assert_eq!(config.grpc.socket, PathBuf::from("/run/weir/agent.sock"));
    assert_eq!((config.grpc.allowed_uids.as_slice(), config.queue_records), ([0].as_slice(), 65_536));
    assert_eq!(config.collector.map(|c| c.address).as_deref(), Some("unix:/run/weir/collector.sock"));
    assert_eq!((config.xdp_mode, config.unknown), (XdpMode::Auto, Verdict::Allow));
    assert!(!config.neighbours.chain);
    assert!(!config.node.is_empty());
}

#[test]
fn flags_win_over_the_file_and_their_faults_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    std::fs::write(&file, "node: a\ncgroupRoot: /w\ninterfaces: [eth0]\nlog: {level: debug}\n").unwrap();
    let args = Args {
        config: Some(file.clone()),
        node: Some("b".to_owned()),
        interfaces: vec!["veth*".to_owned()],
        xdp_neighbour: Some("chain".to_owned()),
        ..Args::default()
    };
    let config = load(&args).unwrap();
    let flagged = InterfaceOption { name: "veth*".to_owned(), refuses: 0 };
    assert_eq!((config.node.as_str(), config.interfaces.as_slice()), ("b", [flagged].as_slice()));
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.neighbours, Neighbours { chain: true, bpffs: PathBuf::from("/sys/fs/bpf") });

    let args = Args {
        config: Some(file),
        xdp_mode: Some("fast".to_owned()),
        collector: Some("none".to_owned()),
        ..Args::default()
    };
    let faults = load(&args).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].to_string().starts_with("command line: xdpMode: is none of the choices (fast)"), "{}", faults[0]);
}

#[test]
fn a_file_that_is_not_there_is_a_fault_only_if_it_was_named() {
    let args = Args { config: Some(PathBuf::from("/nonexistent/a.yaml")), ..Args::default() };
    let faults = load(&args).unwrap_err();
    assert!(faults[0].problem.contains("cannot be read"), "{faults:?}");
}
