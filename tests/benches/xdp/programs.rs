//! Lives: weir-tests, the benchmark of XDP: kernel programs that Weir is measured against, and the generator's.
//! Called by: the benchmark; loaded once for each load of Weir's.
//! May touch: nothing but object files in memory.
//! Never: slower than it must be: who makes rivals slow measures nothing.

use anyhow::{Context, Result};
use aya::{Ebpf, EbpfLoader, programs::Xdp};
use object::write::SymbolId;
use weir_common::gcra::Limit;
use weir_tests::assembled::{Assembled, MapKind};
use weir_tests::code::{Code, Do, Helper, If, Register, Size, With};

use crate::frame::PORT;

/// `enum xdp_action`.
pub const XDP_DROP: i32 = 1;
/// The same: on to the stack.
pub const XDP_PASS: i32 = 2;
/// The same: out of the interface that the frame came in by.
pub const XDP_TX: i32 = 3;

/// Clients that the limiter with an LRU map remembers: as many as Weir has slots for, two each.
pub const CLIENTS: u32 = weir_common::maps::LIMIT_SLOTS / 2;
/// Prefixes that the trie can hold.
const PREFIXES: u32 = 1 << 20;

/// Names of programs and maps.
pub const GENERATE: &str = "generate";
/// What the generator is told: six words (see `generator`).
pub const ORDERS: &str = "orders";
/// Does nothing.
pub const DROP: &str = "drops";
/// Does nothing.
pub const PASS: &str = "passes";
/// Limits, a packet a minute.
pub const TIGHT: &str = "lru_tight";
/// Limits, more than ever comes.
pub const WIDE: &str = "lru_wide";
/// Limits, as the honesty run does.
pub const HONEST: &str = "lru_honest";
/// Drops whom a trie of prefixes lists.
pub const TRIE: &str = "trie";
/// That trie.
pub const LISTED: &str = "listed";

/// Loads all of them; `honest` is the limit of the honesty run.
pub fn load(tick_ns: u64, honest: Limit) -> Result<Ebpf> {
    let mut object = Assembled::default();
    let orders = object.map(ORDERS, MapKind::Array, [4, 48], 1);
    generator(orders).assemble(&mut object, GENERATE, "xdp")?;
    for (name, answer) in [(DROP, XDP_DROP), (PASS, XDP_PASS)] {
        let mut code = Code::default();
        code.set(0, With::Number(answer)).exit();
        code.assemble(&mut object, name, "xdp")?;
    }
    // A packet a minute: none of 65,536 clients passes twice while it is measured. And a tenth of a second at 10^8.
    let minute = Limit { interval_q16: 60_000_000_000 << 16, tolerance_ns: 60_000_000_000 };
    for (name, limit) in [(TIGHT, minute), (WIDE, Limit::new(100_000_000, 10_000_000)), (HONEST, honest)] {
        let clients = object.map(&format!("{name}_m"), MapKind::LruHash, [4, 8], CLIENTS);
        limiter(clients, tick_ns, limit).assemble(&mut object, name, "xdp")?;
    }
    let listed = object.map(LISTED, MapKind::Trie, [8, 4], PREFIXES);
    listing(listed).assemble(&mut object, TRIE, "xdp")?;
    let mut ebpf = EbpfLoader::new().load(&object.finish()?).context("loading the benchmark's own programs")?;
    for (name, program) in ebpf.programs_mut() {
        let program: &mut Xdp = program.try_into()?;
        program.load().with_context(|| format!("loading {name}"))?;
    }
    Ok(ebpf)
}

const KEY: i16 = -8;
const VALUE: i16 = -16;

/// Gives each frame the next client's address and its header the checksum, and sends it.
fn generator(orders: SymbolId) -> Code {
    use With::{Number, Register as R};
    let mut code = Code::default();
    headers(&mut code, "refuse");
    code.set(1, Number(0)).store(Size::Double, 10, KEY, 1);
    lookup(&mut code, orders, "refuse");
    // Which one is next; an odd factor visits each once, out of order.
    code.load(Size::Double, 1, 0, 0).set(2, R(1)).operate(Do::Add, 1, Number(1)).store(Size::Double, 0, 0, 1);
    code.load(Size::Double, 3, 0, 40).operate(Do::Shift, 2, R(3));
    code.operate(Do::Multiply, 2, Number(0x1e37_79b1)).load(Size::Double, 3, 0, 8).operate(Do::And, 2, R(3));
    code.load(Size::Double, 3, 0, 16).operate(Do::Add, 2, R(3));
    // The sum of the header's other halves, and of the two of the address (RFC 1071).
    code.set(3, R(2)).operate(Do::Shift, 3, Number(16)).set(4, R(2)).operate(Do::And, 4, Number(0xffff));
    code.operate(Do::Add, 3, R(4)).load(Size::Double, 4, 0, 24).operate(Do::Add, 3, R(4));
    for _ in 0..2 {
        code.set(4, R(3)).operate(Do::Shift, 4, Number(16)).operate(Do::And, 3, Number(0xffff));
        code.operate(Do::Add, 3, R(4));
    }
    code.operate(Do::Flip, 3, Number(0xffff)).to_network(3, 16).store(Size::Half, 7, 24, 3);
    code.to_network(2, 32).store(Size::Word, 7, 26, 2);
    code.load(Size::Double, 0, 0, 32).exit();
    code.label("refuse").set(0, Number(XDP_DROP)).exit();
    code
}

/// One arrival time for each client in an LRU hash: the same arithmetic and clock as Weir's, and no more care for two CPUs at once than
/// such limiters take.
fn limiter(clients: SymbolId, tick_ns: u64, limit: Limit) -> Code {
    use With::{Number, Register as R};
    let mut code = Code::default();
    client(&mut code);
    code.call(Helper::Jiffies).set_wide(1, tick_ns).operate(Do::Multiply, 0, R(1)).set(8, R(0));
    lookup(&mut code, clients, "new");
    code.load(Size::Double, 1, 0, 0).jump(If::Greater, 1, R(8), "busy").set(1, R(8)).label("busy");
    code.set_wide(2, limit.cost_ns(1)).operate(Do::Add, 1, R(2));
    code.set(2, R(1)).operate(Do::Subtract, 2, R(8)).set_wide(3, limit.tolerance_ns);
    code.jump(If::Above, 2, R(3), "refuse").store(Size::Double, 0, 0, 1).set(0, Number(XDP_PASS)).exit();
    code.label("refuse").set(0, Number(XDP_DROP)).exit();
    // BPF_ANY; where there is no room the client passes, as it does with everybody who counts in a map.
    code.label("new").set_wide(1, limit.cost_ns(1)).operate(Do::Add, 8, R(1)).store(Size::Double, 10, VALUE, 8);
    code.set_map(1, clients).set(2, R(10)).operate(Do::Add, 2, Number(KEY.into()));
    code.set(3, R(10)).operate(Do::Add, 3, Number(VALUE.into())).set(4, Number(0)).call(Helper::Update);
    code.label("pass").set(0, Number(XDP_PASS)).exit();
    code
}

/// Drops whom the kernel's trie lists.
fn listing(listed: SymbolId) -> Code {
    use With::Number;
    let mut code = Code::default();
    client(&mut code);
    code.load(Size::Word, 1, 10, KEY).store(Size::Word, 10, KEY + 4, 1);
    code.set(1, Number(32)).store(Size::Word, 10, KEY, 1);
    lookup(&mut code, listed, "pass");
    code.set(0, Number(XDP_DROP)).exit();
    code.label("pass").set(0, Number(XDP_PASS)).exit();
    code
}

/// 7 becomes the frame's begin, if all headers are there.
fn headers(code: &mut Code, otherwise: &'static str) {
    const HEADERS: i32 = 14 + 20 + 8;
    const END: Register = 3;
    code.load(Size::Word, 7, 1, 0).load(Size::Word, END, 1, 4);
    code.set(4, With::Register(7)).operate(Do::Add, 4, With::Number(HEADERS));
    code.jump(If::Above, 4, With::Register(END), otherwise);
}

/// The source address of a datagram to the limited port becomes the key; all else passes.
fn client(code: &mut Code) {
    headers(code, "pass");
    // As they are read: the other way round.
    let checks = [
        (Size::Half, 12, i32::from(0x0800u16.to_be())),
        (Size::Byte, 14, 0x45),
        (Size::Byte, 23, 17),
        (Size::Half, 36, i32::from(PORT.to_be())),
    ];
    for (size, offset, expected) in checks {
        code.load(size, 1, 7, offset).jump(If::Differs, 1, With::Number(expected), "pass");
    }
    code.load(Size::Word, 1, 7, 26).store(Size::Word, 10, KEY, 1);
}

/// 0 becomes the address of the key's value.
fn lookup(code: &mut Code, map: SymbolId, absent: &'static str) {
    code.set_map(1, map).set(2, With::Register(10)).operate(Do::Add, 2, With::Number(KEY.into())).call(Helper::Lookup);
    code.jump(If::Equal, 0, With::Number(0), absent);
}
