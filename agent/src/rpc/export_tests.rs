//! Lives: weir-agent, tests of the stream to a collector.
//! Called by: `cargo test`.
//! May touch: Unix sockets in a temporary directory.
//! Never: sleeps to wait for something; conditions are polled with a deadline.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Mutex,
};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Streaming};
use weir_common::verdict::{Hook, Reason, Verdict};
use weir_proto::packed::unpack;
use weir_proto::v1::flow_collector_server::{FlowCollector, FlowCollectorServer};

use super::*;
use crate::{
    exporter::spooler,
    rpc::pack,
    spool::{Limits, Spool},
    telemetry::record::{About, Record, RecordKind},
};

/// How a collector treats a stream.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Acknowledges each batch.
    Prompt,
    /// Acknowledges every third batch only, and all when the stream is idle.
    Late,
    /// Takes this many batches, acknowledges the first, and drops the stream.
    Drops(usize),
    /// Acknowledges what was never sent.
    Lies,
}

/// What collectors of one test took, over all their lives.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<TakenInner>>);

#[derive(Default)]
struct TakenInner {
    /// Of each batch the cookies of its records, or what its losses count.
    batches: BTreeMap<u64, Vec<(u64, u64)>>,
    arrivals: u64,
    streams: u64,
    boot_ids: Vec<String>,
}

struct Collector {
    taken: Taken,
    manner: Manner,
}

type AckStream = Pin<Box<dyn Stream<Item = Result<v1::Ack, Status>> + Send>>;

#[tonic::async_trait]
impl FlowCollector for Collector {
    type ExportStream = AckStream;

    async fn export(&self, request: Request<Streaming<v1::Batch>>) -> Result<Response<AckStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let (taken, manner) = (self.taken.clone(), self.manner);
        taken.0.lock().unwrap().streams += 1;
        tokio::spawn(async move { receive(request.into_inner(), taken, manner, sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn receive(
    mut stream: Streaming<v1::Batch>,
    taken: Taken,
    manner: Manner,
    acks: mpsc::Sender<Result<v1::Ack, Status>>,
) {
    let (mut here, mut last, mut boot) = (0, 0, String::new());
    loop {
        let next = timeout(Duration::from_millis(100), stream.message()).await;
        let sequence = match next {
            Ok(Ok(Some(batch))) => {
                here += 1;
                last = batch.sequence;
                boot.clone_from(&batch.boot_id);
                taken.take(batch);
                match manner {
                    Manner::Prompt => Some(last),
                    Manner::Late => (here % 3 == 0).then_some(last),
                    Manner::Drops(_) => (here == 1).then_some(last),
                    Manner::Lies => Some(last + 1000),
                }
            }
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => (manner == Manner::Late && last > 0).then_some(last),
        };
        if let Some(sequence) = sequence
            && acks.send(Ok(v1::Ack { sequence, boot_id: boot.clone() })).await.is_err()
        {
            return;
        }
        if manner == Manner::Drops(here) {
            let _ = acks.send(Err(Status::unavailable("gone"))).await;
            return;
        }
    }
}

impl Taken {
    fn take(&self, batch: v1::Batch) {
        let mut taken = self.0.lock().unwrap();
        taken.arrivals += 1;
        taken.boot_ids.push(batch.boot_id);
        let records = unpack(&batch.packed).unwrap();
        let told =
            |record: &v1::FlowRecord| if record.loss_cause.is_empty() { (record.cookie, 0) } else { (0, record.count) };
        let told: Vec<(u64, u64)> = records.iter().map(told).collect();
        // A batch that comes again must be the same batch.
        assert_eq!(*taken.batches.entry(batch.sequence).or_insert_with(|| told.clone()), told);
    }

    /// Cookies in order of their batches, each batch once.
    fn cookies(&self) -> Vec<u64> {
        let taken = self.0.lock().unwrap();
        taken.batches.values().flatten().filter(|(_, lost)| *lost == 0).map(|(cookie, _)| *cookie).collect()
    }

    /// Decisions in losses.
    fn lost(&self) -> u64 {
        self.0.lock().unwrap().batches.values().flatten().map(|(_, lost)| lost).sum()
    }
}

/// A collector that can die, with every connection it has, and come back at the same socket.
struct Server(Runtime);

fn serve(path: &Path, taken: &Taken, manner: Manner) -> Server {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let incoming = {
        let _inside = runtime.enter();
        weir_transport::unix_listener(path, &[]).unwrap()
    };
    let service = FlowCollectorServer::new(Collector { taken: taken.clone(), manner });
    runtime.spawn(weir_transport::server().add_service(service).serve_with_incoming(incoming));
    Server(runtime)
}

impl Server {
    async fn die(self) {
        tokio::task::spawn_blocking(move || self.0.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
    }
}

struct World {
    _dir: tempfile::TempDir,
    path: PathBuf,
    queue: Arc<Queue>,
    link: Arc<Link>,
    taken: Taken,
    exporter: JoinHandle<()>,
    next: u64,
}

impl World {
    fn new(spool_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { bytes: spool_bytes, age: Duration::from_secs(3600) };
        let (spool, _) = Spool::open(&dir.path().join("spool"), limits, "boot-1", 1).unwrap();
        Self::within(dir, spool)
    }

    fn with(spool: Spool) -> Self {
        Self::within(tempfile::tempdir().unwrap(), spool)
    }

    fn within(dir: tempfile::TempDir, spool: Spool) -> Self {
        let path = dir.path().join("collector.sock");
        let address = format!("unix:{}", path.display());
        let channel = weir_transport::connect(&address.parse().unwrap(), None, false).unwrap();
        let queue = Arc::new(Queue::new(1 << 20, spool, true));
        let spooler = Arc::clone(&queue);
        std::thread::spawn(move || spooler::run(&spooler, pack::CODEC));
        let link = Arc::new(Link::new(Some(address)));
        let exporter = tokio::spawn(run(channel, Arc::clone(&queue), "node".into(), Arc::clone(&link)));
        Self { _dir: dir, path, queue, link, taken: Taken::default(), exporter, next: 1 }
    }

    /// Pushes `count` records in pushes of `size`, each record with its own cookie.
    fn push(&mut self, count: u64, size: u64) {
        let end = self.next + count;
        while self.next < end {
            let upto = (self.next + size).min(end);
            self.queue.push((self.next..upto).map(verdict).collect());
            self.next = upto;
        }
    }

    /// Records that were not acknowledged.
    fn queued(&self) -> u64 {
        let status = self.queue.status();
        self.next - 1 - status.spool.acknowledged.min(self.next - 1)
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let wait = async {
            while !done(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(20), wait).await;
        assert!(in_time.is_ok(), "{what}: {:?} {:?}", self.queue.status(), self.link.state());
    }

    async fn all_acknowledged(&self) {
        self.until("all acknowledged", |world| world.queued() == 0).await;
        assert_eq!(self.taken.cookies(), (1..self.next).collect::<Vec<_>>(), "each record once, in order");
    }
}

fn verdict(cookie: u64) -> Record {
    let (hook, verdict, reason) = (Some(Hook::Connect), Some(Verdict::Deny), Some(Reason::Default));
    let about = About { hook, verdict, reason, ..About::default() };
    Record { kind: RecordKind::Verdict, cookie, count: 1, time_ns: cookie, ..Record::of(Arc::new(about)) }
}

#[tokio::test]
async fn every_record_arrives_once_and_in_order_however_late_it_is_acknowledged() {
    for manner in [Manner::Prompt, Manner::Late] {
        let mut world = World::new(100 << 20);
        let server = serve(&world.path, &world.taken, manner);
        for _ in 0..20 {
            world.push(997, 300);
            tokio::task::yield_now().await;
        }
        world.all_acknowledged().await;
        assert_eq!(world.link.state().word, "connected");
        let status = world.queue.status();
        assert_eq!((status.spool.sent, status.spool.acknowledged, status.lost), (19_940, 19_940, 0));
        world.queue.close();
        timeout(Duration::from_secs(5), world.exporter).await.unwrap().unwrap();
        server.die().await;
    }
}

#[tokio::test]
async fn a_collector_that_drops_the_stream_and_dies_and_comes_back_misses_nothing() {
    let mut world = World::new(100 << 20);
    world.push(40_000, 100);
    let server = serve(&world.path, &world.taken, Manner::Drops(3));
    world.until("several streams", |world| world.taken.0.lock().unwrap().streams >= 3).await;
    server.die().await;
    world.push(2000, 100);
    world.until("the break is seen", |world| world.link.state().word == "connecting").await;
    assert!(!world.link.state().detail.is_empty());
    let server = serve(&world.path, &world.taken, Manner::Late);
    world.push(2000, 100);
    world.all_acknowledged().await;
    server.die().await;
    let taken = world.taken.0.lock().unwrap();
    assert!(taken.arrivals > taken.batches.len() as u64, "some batches came twice, or nothing was tested");
    assert!(taken.boot_ids.iter().all(|id| id == "boot-1"));
    let numbers: Vec<u64> = taken.batches.keys().copied().collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "no gaps");
}

#[tokio::test]
async fn a_collector_that_is_absent_costs_records_only_beyond_the_spool_and_the_loss_is_told_exactly() {
    let mut world = World::new(200_000);
    while world.queue.status().lost == 0 {
        world.push(50_000, 5_000);
        sleep(Duration::from_millis(10)).await;
    }
    let server = serve(&world.path, &world.taken, Manner::Prompt);
    let all = |world: &World| world.taken.cookies().len() as u64 + world.taken.lost();
    world.until("all told", |world| all(world) == world.next - 1).await;
    let cookies = world.taken.cookies();
    assert!(cookies.is_sorted() && cookies.last() == Some(&(world.next - 1)), "the newest are kept");
    assert_eq!(world.taken.lost(), world.queue.status().lost);
    server.die().await;
}

#[tokio::test]
async fn what_a_collector_did_not_take_waits_for_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 10 << 20, age: Duration::from_secs(3600) };
    let open = |boot| Spool::open(dir.path(), limits, boot, 1).unwrap().0;
    let queue = Queue::new(10_000, open("boot-0"), true);
    queue.push((1..=3000).map(verdict).collect());
    queue.close();
    spooler::run(&queue, pack::CODEC);
    drop(queue);
    let mut world = World::with(open("boot-1"));
    let server = serve(&world.path, &world.taken, Manner::Late);
    world.until("the earlier ones", |world| world.taken.cookies().len() == 3000).await;
    assert!(world.taken.0.lock().unwrap().boot_ids.iter().all(|id| id == "boot-0"));
    world.taken.0.lock().unwrap().batches.clear();
    world.push(10, 10);
    world.until("the new ones", |world| world.taken.cookies().len() == 10).await;
    assert_eq!(world.taken.0.lock().unwrap().boot_ids.last().map(String::as_str), Some("boot-1"));
    server.die().await;
}

#[tokio::test]
async fn an_acknowledgement_of_what_was_never_sent_breaks_the_stream_and_loses_nothing() {
    let mut world = World::new(100 << 20);
    let server = serve(&world.path, &world.taken, Manner::Lies);
    world.push(10, 10);
    world.until("the break is seen", |world| world.link.state().detail.contains("acknowledged batch 1001")).await;
    server.die().await;
    let server = serve(&world.path, &world.taken, Manner::Prompt);
    world.all_acknowledged().await;
    server.die().await;
}

#[tokio::test]
async fn closing_without_a_collector_ends_at_once() {
    let mut world = World::new(100 << 20);
    world.push(10, 10);
    world.queue.close();
    timeout(Duration::from_secs(2), world.exporter).await.unwrap().unwrap();
}
