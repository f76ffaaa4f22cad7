//! Lives: weir-tests, in-kernel test of real packets on loopback, which needs no other program than this one.
//! Called by: cargo test; `cargo xtask vm`, on kernels whose test runs do not show packets to programs at sockets.
//! May touch: the bench, one cgroup below it, ports of 127.0.0.1 and ::1 that the kernel picks; this program started once more.
//! Never: leaves a process or a cgroup behind; takes silence of a server that never ran for a refusal.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use weir_common::verdict::{Hook, Reason, Verdict};

use crate::bench::Bench;

/// Set for the server: the cgroup it is to live in.
const CHILD: &str = "WEIR_REAL_CHILD";
const HERE: &str = "real::real_packets_are_judged_at_sockets_as_the_policy_says";
/// How long a client waits for what never comes.
const GIVE_UP: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(20);

const HOSTS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Who asks whom, over what, to the port that is open or the one that is not, and what comes of it.
const ROWS: [(Call, bool, &str); 8] = [
    (Call::Tcp, true, "ok"),
    (Call::Tcp, false, "silence"),
    (Call::Udp, true, "ok"),
    (Call::Udp, false, "silence"),
    (Call::TcpOut, true, "ok"),
    (Call::TcpOut, false, "eperm"),
    (Call::UdpOut, true, "ok"),
    (Call::UdpOut, false, "eperm"),
];

#[derive(Clone, Copy, Debug)]
enum Call {
    /// To the workload.
    Tcp,
    Udp,
    /// From it.
    TcpOut,
    UdpOut,
}

/// Rules for the first two ports; the others are closed. The answers of the workload's servers pass as such.
fn documents(inside: [u16; 4], outside: [u16; 4]) -> String {
    format!(
        r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {{name: web, labels: {{app: web}}}}
spec: {{cgroup: web}}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {{name: web}}
spec:
  workloadSelector: {{matchLabels: {{app: web}}}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  ingress:
  - {{ports: [{{port: {}}}, {{port: {}, protocol: UDP}}]}}
  egress:
  - {{ports: [{{port: {}}}, {{port: {}, protocol: UDP}}]}}
"#,
        inside[0], inside[1], outside[0], outside[1]
    )
}

/// Servers of one family: TCP and UDP that are to be open, TCP and UDP that are not.
struct Servers {
    tcp: [TcpListener; 2],
    udp: [UdpSocket; 2],
}

impl Servers {
    fn bind(host: IpAddr) -> Servers {
        let tcp = [0, 1].map(|_| TcpListener::bind((host, 0)).unwrap());
        let udp = [0, 1].map(|_| UdpSocket::bind((host, 0)).unwrap());
        Servers { tcp, udp }
    }

    fn ports(&self) -> [u16; 4] {
        let tcp = |at: usize| self.tcp[at].local_addr().unwrap().port();
        let udp = |at: usize| self.udp[at].local_addr().unwrap().port();
        [tcp(0), udp(0), tcp(1), udp(1)]
    }

    /// Answers a byte with a byte, until the process ends.
    fn serve(self) {
        for listener in self.tcp {
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let mut byte = [0];
                    let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
                }
            });
        }
        for socket in self.udp {
            thread::spawn(move || {
                let mut bytes = [0; 16];
                while let Ok((_, from)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(b"!", from);
                }
            });
        }
    }
}

fn word(result: std::io::Result<()>) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(error) if error.kind() == ErrorKind::PermissionDenied => "eperm",
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => "silence",
        Err(error) => panic!("{error}"),
    }
}

/// A byte there and back.
fn call(tcp: bool, to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let mut byte = [1];
    if tcp {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&byte)?;
        return stream.read_exact(&mut byte);
    }
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(patience))?;
    socket.send_to(&byte, to)?;
    socket.recv_from(&mut byte).map(drop)
}

/// The workload: says its ports, then calls whom it is told to, and says how that went.
fn live_in(cgroup: &str) {
    fs::write(format!("{cgroup}/cgroup.procs"), std::process::id().to_string()).unwrap();
    for host in HOSTS {
        let servers = Servers::bind(host);
        let ports = servers.ports().map(|port| port.to_string());
        println!("ports {}", ports.join(" "));
        servers.serve();
    }
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let patience = if words[2] == "true" { PATIENCE } else { GIVE_UP };
        println!("went {}", word(call(words[0] == "tcp", words[1].parse().unwrap(), patience)));
    }
}

struct Workload {
    child: Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Workload {
    fn start(cgroup: &str) -> Workload {
        let this = std::env::current_exe().unwrap();
        let mut command = Command::new(this);
        command.args(["--exact", HERE, "--nocapture"]).env(CHILD, cgroup);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        Workload { child, says }
    }

    /// The next line that starts so; the test program says something of its own in between.
    fn said(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.says.read_line(&mut line).unwrap() > 0, "the workload ended");
            if let Some((_, rest)) = line.split_once(start) {
                return rest.trim().to_owned();
            }
        }
    }

    fn ports(&mut self) -> [u16; 4] {
        let ports: Vec<u16> = self.said("ports ").split(' ').map(|port| port.parse().unwrap()).collect();
        ports.try_into().unwrap()
    }

    fn calls(&mut self, tcp: bool, to: SocketAddr, open: bool) -> String {
        let protocol = if tcp { "tcp" } else { "udp" };
        writeln!(self.child.stdin.as_mut().unwrap(), "{protocol} {to} {open}").unwrap();
        self.said("went ")
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn real_packets_are_judged_at_sockets_as_the_policy_says() {
    if let Ok(cgroup) = std::env::var(CHILD) {
        return live_in(&cgroup);
    }
    for host in 0..HOSTS.len() {
        in_family(host);
    }
}

fn in_family(family: usize) {
    let host = HOSTS[family];
    // No rule is known before the ports are, so the bench begins without any.
    let mut bench = Bench::new("real", "", Verdict::Allow);
    let cgroup = bench.cgroup.join("web");
    fs::create_dir_all(&cgroup).unwrap();
    let mut workload = Workload::start(&cgroup.display().to_string());
    let inside = [workload.ports(), workload.ports()][family];
    let others = Servers::bind(host);
    let outside = others.ports();
    others.serve();
    bench.policy(&documents(inside, outside), Verdict::Allow);
    let observed = bench.kernel.reconcile(&bench.compiled.local());
    assert!(observed.enforcing, "{observed:?}");
    for (kind, open, expected) in ROWS {
        let at = if open { 0 } else { 2 };
        let patience = if open { PATIENCE } else { GIVE_UP };
        let seen = match kind {
            Call::Tcp => word(call(true, (host, inside[at]).into(), patience)).to_owned(),
            Call::Udp => word(call(false, (host, inside[at + 1]).into(), patience)).to_owned(),
            Call::TcpOut => workload.calls(true, (host, outside[at]).into(), open),
            Call::UdpOut => workload.calls(false, (host, outside[at + 1]).into(), open),
        };
        assert_eq!(seen, expected, "{host} {kind:?}, open: {open}");
    }
    drop(workload);
    for (hook, verdict, reason) in [
        (Hook::Ingress, Verdict::Allow, Reason::Rule),
        (Hook::Ingress, Verdict::Deny, Reason::Default),
        (Hook::Ingress, Verdict::Allow, Reason::Reply),
        (Hook::Connect, Verdict::Deny, Reason::Default),
        (Hook::Sendmsg, Verdict::Deny, Reason::Default),
    ] {
        assert!(bench.decided(hook, verdict, reason) > 0, "{host}: {hook:?} {verdict:?} {reason:?}");
    }
    fs::remove_dir(&cgroup).unwrap();
}
