//! Lives: weir-tests, the benchmark of the socket hooks: both ends of the traffic, in one thread of a process of its own.
//! Called by: the benchmark, which starts itself once more for each place; talks in lines of JSON.
//! May touch: two namespaces and two cgroups it is given, sockets of its own.
//! Never: sleeps or waits for another process between two measured moments.
//!
//! A socket belongs to the namespace and cgroup its thread was in when it was made. So one thread can be client and server: every
//! packet is handled to its end in the call that sends it, softirq included, and the thread's CPU time is all the CPU time there
//! is. No wake-up, no second thread, no scheduler: what a program adds is not hidden behind those.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _, stdin};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::site::{PORT, SERVER};

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// `connect()` of a UDP socket: the hook, and nothing else that Weir has a part in.
    Verdict,
    /// The same, to thousands of peers in turn: each is asked about as if for the first time.
    Fresh,
    /// `connect()` of a TCP socket: the whole handshake, seen by the caller.
    Connect,
    /// A connection from `socket()` to both ends' `close()`.
    Connection,
    /// 64 bytes there and back over an open connection.
    RoundTrip,
}

/// A request to the process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// What to do.
    pub job: Job,
    /// For how much CPU time.
    pub milliseconds: u64,
    /// For [`Job::Verdict`] and [`Job::Fresh`]: whom to call, in turn.
    pub to: Vec<Ipv4Addr>,
}

/// Where a process's sockets are.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    #[arg(long)]
    client_netns: PathBuf,
    #[arg(long)]
    client_cgroup: PathBuf,
    #[arg(long)]
    server_netns: PathBuf,
    #[arg(long)]
    server_cgroup: PathBuf,
    #[arg(long)]
    port: u16,
}

impl Place {
    /// Client and server in these namespaces, and in the cgroups web and api of this tree.
    pub fn new(namespaces: [PathBuf; 2], tree: &Path, port: u16) -> Place {
        let [client_netns, server_netns] = namespaces;
        Place { client_netns, server_netns, client_cgroup: tree.join("web"), server_cgroup: tree.join("api"), port }
    }
}

/// The process, seen from the benchmark. Dropping it ends it.
pub struct Ends {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Ends {
    /// Starts this program once more.
    pub fn start(place: &Place) -> Result<Ends> {
        let mut command = Command::new(std::env::current_exe().context("who am I")?);
        command.arg("ends").arg("--client-netns").arg(&place.client_netns);
        command.arg("--client-cgroup").arg(&place.client_cgroup);
        command.arg("--server-netns").arg(&place.server_netns).arg("--server-cgroup").arg(&place.server_cgroup);
        command.arg("--port").arg(place.port.to_string());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the two ends")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Ends { child, input, output })
    }

    fn command(place: &Place, what: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("who am I")?);
        command.arg(what).arg("--client-netns").arg(&place.client_netns);
        command.arg("--client-cgroup").arg(&place.client_cgroup);
        command.arg("--server-netns").arg(&place.server_netns).arg("--server-cgroup").arg(&place.server_cgroup);
        command.arg("--port").arg(place.port.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command)
    }

    /// Nanoseconds of CPU time that one of these takes: the median of many.
    pub fn measure(&mut self, job: Job, milliseconds: u64, to: &[Ipv4Addr]) -> Result<f64> {
        let task = Task { job, milliseconds, to: to.to_vec() };
        writeln!(self.input, "{}", serde_json::to_string(&task)?).context("the two ends are gone")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the two ends failed at {job:?}; see above"))
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // It is gone or it is going; its world would end it too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that is at the server's place and does nothing. Dropping it ends it.
pub struct Resident(Child);

impl Resident {
    /// Starts this program once more.
    pub fn start(place: &Place) -> Result<Resident> {
        let mut child = Ends::command(place, "resident")?.spawn().context("starting a resident")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        ensure!(!line.is_empty(), "a resident could not move in; see above");
        Ok(Resident(child))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // As for the two ends.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The resident itself: stays until it is ended, or its standard input is.
pub fn reside(place: &Place) -> Result<()> {
    enter(&place.server_netns, &place.server_cgroup)?;
    println!("here");
    stdin().lock().read_to_end(&mut Vec::new()).context("waiting for the end").map(drop)
}

/// The process itself.
pub fn serve(place: &Place) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("staying on one CPU")?;
    enter(&place.server_netns, &place.server_cgroup)?;
    let listener = TcpListener::bind((SERVER, place.port)).context("listening")?;
    enter(&place.client_netns, &place.client_cgroup)?;
    for line in stdin().lock().lines() {
        let task: Task = serde_json::from_str(&line?)?;
        let spent = Duration::from_millis(task.milliseconds);
        let nanoseconds = match task.job {
            Job::Verdict | Job::Fresh => verdicts(spent, &task.to),
            Job::Connect => connects(spent, &listener),
            Job::Connection => connections(spent, &listener),
            Job::RoundTrip => round_trips(spent, &listener),
        };
        println!("{}", serde_json::to_string(&nanoseconds?)?);
    }
    Ok(())
}

fn enter(netns: &Path, cgroup: &Path) -> Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("entering {}", cgroup.display()))?;
    let namespace = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", netns.display()))
}

/// CPU time of this thread.
fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Does `work` in batches until the time is spent; the median batch, for one.
fn batches(spent: Duration, batch: u32, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (start, mut figures) = (now()?, Vec::new());
    loop {
        let before = now()?;
        for _ in 0..batch {
            work()?;
        }
        let after = now()?;
        figures.push(after - before);
        if after - start >= spent {
            return Ok(median(figures) / f64::from(batch));
        }
    }
}

/// In nanoseconds.
fn median(mut figures: Vec<Duration>) -> f64 {
    figures.sort_unstable();
    figures.get(figures.len() / 2).map_or(f64::NAN, |middle| middle.as_secs_f64() * 1e9)
}

fn verdicts(spent: Duration, to: &[Ipv4Addr]) -> Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut called = to.iter().cycle();
    batches(spent, 64, || {
        let address = called.next().context("nobody to call")?;
        Ok(socket.connect(SocketAddrV4::new(*address, PORT))?)
    })
}

fn connects(spent: Duration, listener: &TcpListener) -> Result<f64> {
    let (start, mut figures) = (now()?, Vec::new());
    loop {
        let before = now()?;
        let client = call(listener)?;
        let after = now()?;
        figures.push(after - before);
        close(client, listener.accept().context("accepting")?.0)?;
        if after - start >= spent {
            return Ok(median(figures));
        }
    }
}

fn connections(spent: Duration, listener: &TcpListener) -> Result<f64> {
    batches(spent, 8, || {
        let client = call(listener)?;
        close(client, listener.accept().context("accepting")?.0)
    })
}

fn call(listener: &TcpListener) -> Result<TcpStream> {
    TcpStream::connect(listener.local_addr()?).context("connecting")
}

/// The server closes as servers do, the client with a reset: without it, every connection would leave a socket in TIME_WAIT, and
/// soon the search for a free port would be what is measured.
fn close(client: TcpStream, server: TcpStream) -> Result<()> {
    drop(server);
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    Ok(())
}

fn round_trips(spent: Duration, listener: &TcpListener) -> Result<f64> {
    let mut client = call(listener)?;
    let (mut server, _) = listener.accept().context("accepting")?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut bytes = [0u8; 64];
    let took = batches(spent, 16, || {
        client.write_all(&bytes)?;
        server.read_exact(&mut bytes)?;
        server.write_all(&bytes)?;
        Ok(client.read_exact(&mut bytes)?)
    })?;
    close(client, server)?;
    Ok(took)
}
