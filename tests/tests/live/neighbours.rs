//! Lives: weir-tests, live tests of sharing an XDP slot with somebody else's program (`xdpNeighbour: chain`).
//! Called by: main.
//! May touch: worlds of its own, each with a BPF file system; interfaces in their nodes' namespaces.
//! Never: believes status alone; the kernel says what is attached, and the neighbour's own counters what it saw.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aya::maps::Array;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use libtest_mimic::Trial;
use nix::net::if_::if_nametoindex;
use serde_json::json;
use weir_tests::assembled::Assembled;
use weir_tests::code::{Code, Do, Helper, If, Size, With};
use weir_tests::documents::{document, workloads};
use weir_tests::harness::status::Interface;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::Running;
use weir_tests::world::Who::{Api, Client, Node};
use weir_tests::world::links::XdpAttached;
use weir_tests::world::{World, links, netns};

use crate::test;
use crate::upgrades::{exchange, versions};

pub fn trials() -> Vec<Trial> {
    let native = XdpAttached::Driver;
    let generic = XdpAttached::SocketBuffer;
    vec![
        test("a_neighbour_in_native_mode_judges_what_weir_passes", move || shared(native, "xdp.frags")),
        test("a_neighbour_that_takes_one_buffer_judges_what_weir_passes", move || shared(native, "xdp")),
        test("a_neighbour_in_generic_mode_judges_what_weir_passes", move || shared(generic, "xdp")),
        test("no_frame_gets_past_a_neighbour_while_weir_comes_crashes_and_goes_natively", move || unbroken(native)),
        test("no_frame_gets_past_a_neighbour_while_weir_comes_crashes_and_goes_generically", move || unbroken(generic)),
        test("a_neighbour_keeps_the_slot_where_sharing_it_is_not_asked_for_any_more", no_longer_asked),
        test("a_neighbour_that_cannot_be_shared_with_is_named_with_the_reason", obstacles),
        test("a_program_that_takes_the_slot_from_weir_keeps_it_and_is_shared_with", put_out),
        test("an_agent_leaves_a_slot_alone_that_another_one_shares", two_agents),
    ]
}

/// What is attached to.
const HERE: &str = "v-client";
/// Dropped by the neighbour.
const THEIRS: u16 = 7000;
/// Passed by both.
const FREE: u16 = 7001;
/// Dropped by Weir.
const OURS: u16 = 7002;

/// Somebody else's program: counts datagrams to each of the three ports, and drops those to the first.
pub struct Neighbour {
    ebpf: Ebpf,
    id: u32,
}

impl Neighbour {
    pub fn load(section: &str) -> Result<Neighbour> {
        use With::{Number, Register as R};
        let mut object = Assembled::default();
        let counts = object.array("counts", 8, 3);
        let mut code = Code::default();
        code.load(Size::Word, 7, 1, 0).load(Size::Word, 3, 1, 4);
        code.set(4, R(7)).operate(Do::Add, 4, Number(14 + 20 + 8)).jump(If::Above, 4, R(3), "pass");
        code.load(Size::Half, 5, 7, 12).to_network(5, 16).jump(If::Differs, 5, Number(0x0800), "pass");
        code.load(Size::Byte, 5, 7, 14 + 9).jump(If::Differs, 5, Number(17), "pass");
        code.load(Size::Half, 5, 7, 14 + 20 + 2).to_network(5, 16).operate(Do::Subtract, 5, Number(THEIRS.into()));
        code.jump(If::Above, 5, Number(2), "pass").set(6, R(5)).store(Size::Word, 10, -4, 5);
        code.set_map(1, counts).set(2, R(10)).operate(Do::Add, 2, Number(-4)).call(Helper::Lookup);
        code.jump(If::Equal, 0, Number(0), "pass");
        code.load(Size::Double, 1, 0, 0).operate(Do::Add, 1, Number(1)).store(Size::Double, 0, 0, 1);
        code.jump(If::Equal, 6, Number(0), "drop");
        code.label("pass").set(0, Number(2)).exit();
        code.label("drop").set(0, Number(1)).exit();
        code.assemble(&mut object, "neighbour", section)?;
        let mut ebpf = EbpfLoader::new().load(&object.finish()?)?;
        let program = program(&mut ebpf)?;
        program.load()?;
        let id = program.info()?.id();
        Ok(Neighbour { ebpf, id })
    }

    /// As `ip link set dev v-client xdp` does.
    pub fn attach(&mut self, world: &World, mode: XdpAttached) -> Result<()> {
        let fd = program(&mut self.ebpf)?.fd()?;
        Ok(links::set_xdp(&world.netns(Node), HERE, Some(fd.as_fd()), mode)?)
    }

    fn seen(&self, port: u16) -> Result<u64> {
        let counts = Array::<_, u64>::try_from(self.ebpf.map("counts").context("no counts")?)?;
        Ok(counts.get(&u32::from(port - THEIRS), 0)?)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut("neighbour").context("no program")?.try_into()?)
}

pub fn world(label: &str) -> Result<World> {
    Ok(World::new(label)?)
}

pub fn sharing() -> Options {
    Options { xdp_neighbour: "chain", interfaces: vec![HERE.to_owned()], ..Options::default() }
}

fn shown(harness: &Harness) -> Option<Interface> {
    harness.status().ok()?.agent.interfaces.into_iter().find(|interface| interface.name == HERE)
}

fn slot(world: &World) -> Result<Option<u32>> {
    Ok(links::xdp_program(&world.netns(Node), HERE)?)
}

/// The pins of all agents of the world.
pub fn pins(world: &World) -> Vec<String> {
    below(&tree(world)).into_iter().filter(|name| name.starts_with("xdp-")).collect()
}

/// Where the agent of the world pins.
fn tree(world: &World) -> PathBuf {
    let weir = world.bpffs().join("weir");
    let own = below(&weir).into_iter().find(|tree| tree.ends_with(":managed"));
    own.map_or(weir.clone(), |tree| weir.join(tree))
}

fn below(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Interfaces and neighbours that are pinned.
fn pins_below(world: &World) -> Vec<String> {
    pins(world).iter().flat_map(|name| below(&tree(world).join(name))).filter(|name| name != "judge").collect()
}

/// Whether a datagram to the port is answered.
fn answered(harness: &Harness, port: u16) -> Result<bool> {
    Ok(harness.world().attempt(Client, &format!("udp-exchange --to {}:{port}", Api.v4()))?.result == "ok")
}

/// What becomes of datagrams to the three ports; and that the neighbour sees what Weir passes, and nothing else.
pub fn judged(harness: &Harness, neighbour: &Neighbour, ours: bool) -> Result<()> {
    for (port, passes, is_shown) in [(THEIRS, false, true), (FREE, true, true), (OURS, ours, ours)] {
        let before = neighbour.seen(port)?;
        ensure!(answered(harness, port)? == passes, "port {port}");
        let more = neighbour.seen(port)? - before;
        ensure!((more > 0) == is_shown, "of port {port} the neighbour saw {more}");
    }
    Ok(())
}

pub fn serve(world: &World) -> Result<Running> {
    let listen: Vec<_> = [THEIRS, FREE, OURS].map(|port| format!("--listen {}:{port}", Api.v4())).into();
    Ok(world.serve(Api, &format!("udp-serve {}", listen.join(" ")))?)
}

pub fn limit() -> String {
    let ports = format!("ports: [{{protocol: UDP, port: {OURS}}}]");
    let spec = format!(
        "\n  workloadSelector: {{matchLabels: {{app: api}}}}\n  {ports}\n  packets: {{perSecond: 0, burst: 0}}"
    );
    workloads() + &document("RateLimit", "api", &spec)
}

fn shared(mode: XdpAttached, section: &str) -> Result<()> {
    let word = if mode == XdpAttached::Driver { "native" } else { "generic" };
    let world = world("shared")?;
    let mut neighbour = Neighbour::load(section)?;
    neighbour.attach(&world, mode)?;
    let mut harness = Harness::start(world, sharing())?;
    harness.apply(&limit())?;
    let server = serve(harness.world())?;
    let is_shared = |harness: &Harness| -> Result<u32> {
        let shown = shown(harness).context("not shown")?;
        let named = format!("shares the slot with neighbour (id {})", neighbour.id);
        ensure!(shown.mode == word && shown.detail.contains(&named), "{shown:?}");
        ensure!(shown.detail.contains("one buffer") == (section == "xdp"), "{shown:?}");
        let front = slot(harness.world())?.context("the slot is free")?;
        ensure!(front != neighbour.id, "Weir is not in the slot");
        Ok(front)
    };
    let front = is_shared(&harness)?;
    ensure!(links::xdp(&harness.world().netns(Node), HERE)? == Some(mode), "the mode has changed");
    judged(&harness, &neighbour, false).context("shared")?;
    ensure!(shown(&harness).context("not shown")?.packets_seen >= 3, "Weir counted nothing");
    // A crash: both go on judging.
    harness.kill_agent()?;
    ensure!(slot(harness.world())? == Some(front), "the front went with the agent");
    judged(&harness, &neighbour, false).context("crashed")?;
    // The next start finds what was left.
    harness.start_agent()?;
    ensure!(is_shared(&harness)? != front, "the front of the agent that crashed is still there");
    judged(&harness, &neighbour, false).context("started again")?;
    ensure!(pins(harness.world()).len() == 1, "left: {:?}", pins(harness.world()));
    // An upgrade across layouts, and back.
    let [usual, next] = versions()?;
    for (kill, agent) in [(false, &next), (true, &usual)] {
        exchange(&mut harness, agent, kill)?;
        is_shared(&harness)?;
        judged(&harness, &neighbour, false).context("another version")?;
        ensure!(pins(harness.world()).len() == 1, "left: {:?}", pins(harness.world()));
    }
    harness.stop_agent()?;
    judged(&harness, &neighbour, false).context("stopped")?;
    let said = harness.detach()?;
    ensure!(said.contains("1 XDP programs have their slots back"), "{said}");
    ensure!(slot(harness.world())? == Some(neighbour.id), "the neighbour was not put back");
    ensure!(links::xdp(&harness.world().netns(Node), HERE)? == Some(mode), "the mode has changed");
    ensure!(pins(harness.world()).is_empty(), "left: {:?}", pins(harness.world()));
    judged(&harness, &neighbour, true).context("detached")?;
    drop(server);
    Ok(())
}

/// A stream that the neighbour drops, through everything that changes the slot.
fn unbroken(mode: XdpAttached) -> Result<()> {
    const RATE: u64 = 20_000;
    let world = world("unbroken")?;
    let mut neighbour = Neighbour::load("xdp.frags")?;
    neighbour.attach(&world, mode)?;
    let server = world.serve(Api, &format!("udp-serve --silent --listen {}:{THEIRS}", Api.v4()))?;
    let line = format!("udp-flood --to {}:{THEIRS} --rate {RATE} --seconds 60", Api.v4());
    let mut flood = world.start("flood", world.probe_line(Client, &line))?;
    let mut harness = Harness::start(world, sharing())?;
    let [usual, next] = versions()?;
    for _ in 0..3 {
        harness.apply(&limit())?;
        exchange(&mut harness, &next, true)?;
        exchange(&mut harness, &usual, false)?;
        harness.detach()?;
        ensure!(slot(harness.world())? == Some(neighbour.id), "the neighbour was not put back");
        harness.start_agent()?;
    }
    ensure!(!flood.ended(), "the stream was over too soon to prove anything");
    drop(flood);
    ensure!(neighbour.seen(THEIRS)? > RATE, "the neighbour saw {}", neighbour.seen(THEIRS)?);
    let clients = server.served()?.clients;
    ensure!(clients.is_empty(), "past the neighbour: {clients:?}");
    // Without the neighbour the same datagrams arrive: the server would have heard them.
    harness.detach()?;
    links::set_xdp(&harness.world().netns(Node), HERE, None, mode)?;
    let server = harness.world().serve(Api, &format!("udp-serve --silent --listen {}:{THEIRS}", Api.v4()))?;
    let line = format!("udp-flood --to {}:{THEIRS} --rate 1000 --seconds 1", Api.v4());
    harness.world().start("control", harness.world().probe_line(Client, &line))?.sent()?;
    ensure!(!server.served()?.clients.is_empty(), "the server hears nobody: nothing was tested");
    Ok(())
}

fn no_longer_asked() -> Result<()> {
    let world = world("no-longer")?;
    let mut neighbour = Neighbour::load("xdp")?;
    neighbour.attach(&world, XdpAttached::Driver)?;
    let mut harness = Harness::start(world, sharing())?;
    harness.kill_agent()?;
    ensure!(slot(harness.world())? != Some(neighbour.id), "Weir was not in the slot");
    let mut command = harness.agent_command()?;
    command.args(["--xdp-neighbour", "refuse"]);
    let second = harness.world().start("second-agent", command)?;
    harness.wait("the slot to be refused", |harness| shown(harness).is_some_and(|shown| shown.mode == "failed"))?;
    let refused = shown(&harness).context("not shown")?;
    ensure!(refused.detail.contains("already has an XDP program, which is not Weir's and stays"), "{refused:?}");
    ensure!(slot(harness.world())? == Some(neighbour.id) && pins(harness.world()).is_empty(), "not put back");
    drop(second);
    Ok(())
}

fn obstacles() -> Result<()> {
    let world = world("obstacles")?;
    // Held by a link, and in another mode than is asked for.
    let mut neighbour = Neighbour::load("xdp")?;
    let link = netns::inside(&world.netns(Node), || {
        let mut attach = || {
            let program = program(&mut neighbour.ebpf)?;
            let id = program.attach_to_if_index(if_nametoindex(HERE)?, XdpMode::Driver)?;
            anyhow::Ok(program.take_link(id)?)
        };
        Ok(attach())
    })??;
    let id = neighbour.id;
    let mut harness = Harness::start_unready(world, Options { xdp_mode: "native", ..sharing() })?;
    let fails = |harness: &mut Harness, why: &str| -> Result<()> {
        let start =
            format!("interface {HERE} already has an XDP program, neighbour (id {id}), and Weir cannot go in front");
        harness.wait(why, |harness| {
            shown(harness).is_some_and(|shown| shown.detail.contains(&start) && shown.detail.contains(why))
        })?;
        ensure!(slot(harness.world())? == Some(id), "their program was touched");
        ensure!(!harness.status()?.agent.enforcing, "enforcing, with an interface that is not attached");
        Ok(())
    };
    fails(&mut harness, "a BPF link holds it")?;
    drop(link);
    harness.wait("the free slot", |harness| shown(harness).is_some_and(|shown| shown.mode == "native"))?;
    harness.detach()?;
    neighbour.attach(harness.world(), XdpAttached::SocketBuffer)?;
    harness.start_agent_unready()?;
    fails(&mut harness, "it is in generic mode")?;
    harness.stop_agent()?;
    // Nothing that could outlive a crash.
    harness.world().unmount_bpffs()?;
    let mut agent = harness.world().start("without", harness.agent_command()?)?;
    ensure!(!agent.wait(weir_tests::process::SOON)?.success(), "it runs");
    ensure!(agent.log_tail(20).contains("is no BPF file system"), "{}", agent.log_tail(20));
    Ok(())
}

fn put_out() -> Result<()> {
    let world = world("put-out")?;
    let (mut first, mut second) = (Neighbour::load("xdp")?, Neighbour::load("xdp.frags")?);
    first.attach(&world, XdpAttached::Driver)?;
    let mut harness = Harness::start(world, sharing())?;
    let server = serve(harness.world())?;
    let shares = |harness: &Harness, neighbour: &Neighbour| {
        let with = format!("shares the slot with neighbour (id {})", neighbour.id);
        shown(harness).is_some_and(|shown| shown.detail.contains(&with))
    };
    ensure!(shares(&harness, &first), "{:?}", shown(&harness));
    second.attach(harness.world(), XdpAttached::Driver)?;
    harness.wait("the other to be shared with", |harness| shares(harness, &second))?;
    ensure!(harness.logs().contains("somebody else has changed what is in the XDP slot"), "{}", harness.logs());
    judged(&harness, &second, true)?;
    // The interface goes, and comes again without anybody's program.
    harness.world().rewire(Client)?;
    harness
        .wait("the new interface", |harness| shown(harness).is_some_and(|shown| !shown.detail.contains("shares")))?;
    harness.wait("its pin to go", |harness| pins_below(harness.world()).is_empty())?;
    let front = slot(harness.world())?;
    harness.detach()?;
    second.attach(harness.world(), XdpAttached::Driver)?;
    harness.start_agent()?;
    ensure!(shares(&harness, &second) && slot(harness.world())? != front, "{:?}", shown(&harness));
    // Taken away altogether: the slot is Weir's alone.
    links::set_xdp(&harness.world().netns(Node), HERE, None, XdpAttached::Driver)?;
    harness.wait("the slot to be Weir's", |harness| {
        shown(harness).is_some_and(|shown| shown.mode == "generic" && !shown.detail.contains("shares"))
    })?;
    ensure!(answered(&harness, THEIRS)?, "a program that was taken away still judges");
    harness.detach()?;
    ensure!(slot(harness.world())?.is_none() && pins(harness.world()).is_empty(), "left: {:?}", pins(harness.world()));
    drop(server);
    Ok(())
}

fn two_agents() -> Result<()> {
    let world = world("two-agents")?;
    let mut neighbour = Neighbour::load("xdp")?;
    neighbour.attach(&world, XdpAttached::Driver)?;
    let mut harness = Harness::start(world, sharing())?;
    let front = slot(harness.world())?;
    let world = harness.world();
    let other = json!({
        "cgroupRoot": world.cgroup(Client),
        "interfaces": [HERE],
        "xdpNeighbour": "chain",
        "bpffs": world.bpffs(),
        "stateDir": world.folder().join("other"),
        "grpc": {"socket": {"path": world.folder().join("other.sock")}},
        "collector": {"address": "none"},
    });
    let file = world.write("other.yaml", &other.to_string())?;
    let mut command: Command = world.probe(Node);
    command.args(["exec", "--"]).arg(weir_tests::process::program("weir-agent")).arg("--config").arg(file);
    let second = Running::start_daemon("other", command, world.folder())?;
    harness.wait("the other to be refused", |_| {
        second.log_tail(50).contains("already has an XDP program, which is not")
    })?;
    ensure!(slot(harness.world())? == front && pins(harness.world()).len() == 1, "the first was disturbed");
    drop(second);
    harness.detach()?;
    ensure!(slot(harness.world())? == Some(neighbour.id), "the neighbour was not put back");
    Ok(())
}
