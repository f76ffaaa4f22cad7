//! Lives: weir-tests, the code of kernel programs that are written here and not compiled.
//! Called by: the benchmark of XDP, for its generator of packets and for what Weir is measured against.
//! May touch: nothing but its own bytes.
//! Never: part of anything that ships; checks what it is told to write: the verifier does.
//!
//! Instructions as Documentation/bpf/standardization/instruction-set.rst encodes them: opcode, registers, offset, immediate.

use std::collections::BTreeMap;

use object::write::SymbolId;

use crate::assembled::Assembled;

/// A register: 0 for answers, 1 to 5 for arguments, 6 to 9 kept across calls, 10 for the stack.
pub type Register = u8;

/// Bytes that are loaded or stored.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Size {
    /// One.
    Byte = 0x10,
    /// Two.
    Half = 0x08,
    /// Four.
    Word = 0x00,
    /// Eight.
    Double = 0x18,
}

/// What is done with 64 bits.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Do {
    /// `+=`
    Add = 0x00,
    /// `-=`
    Subtract = 0x10,
    /// `*=`
    Multiply = 0x20,
    /// `&=`
    And = 0x50,
    /// `>>=`, zeroes from above
    Shift = 0x70,
    /// `^=`
    Flip = 0xa0,
    /// `=`
    Move = 0xb0,
}

/// When a jump is taken.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum If {
    /// `==`
    Equal = 0x10,
    /// `!=`
    Differs = 0x50,
    /// `>`, without signs
    Above = 0x20,
    /// `>`, with signs
    Greater = 0x60,
}

/// The other side of an operation.
#[derive(Clone, Copy, Debug)]
pub enum With {
    /// A register.
    Register(Register),
    /// A number; the processor extends its sign.
    Number(i32),
}

/// Functions of the kernel (enum `bpf_func_id`).
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub enum Helper {
    /// A value of a map by its key, or null.
    Lookup = 1,
    /// Puts a value into a map.
    Update = 2,
    /// The coarse clock, in ticks.
    Jiffies = 118,
}

/// A program in the making.
#[derive(Debug, Default)]
pub struct Code {
    instructions: Vec<[u8; 8]>,
    labels: BTreeMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
    maps: Vec<(usize, SymbolId)>,
}

impl Code {
    /// `to = to OP with`
    pub fn operate(&mut self, operation: Do, to: Register, with: With) -> &mut Code {
        let (source, from, number) = parts(with);
        self.put(0x07 | operation as u8 | source, to, from, 0, number)
    }

    /// `to = with`
    pub fn set(&mut self, to: Register, with: With) -> &mut Code {
        self.operate(Do::Move, to, with)
    }

    /// `to = number`, with all its bits.
    pub fn set_wide(&mut self, to: Register, number: u64) -> &mut Code {
        let (low, high) = (number as u32 as i32, (number >> 32) as u32 as i32);
        self.put(0x18, to, 0, 0, low).put(0, 0, 0, 0, high)
    }

    /// `to = address of map`
    pub fn set_map(&mut self, to: Register, map: SymbolId) -> &mut Code {
        self.maps.push((self.instructions.len(), map));
        self.set_wide(to, 0)
    }

    /// `to = *(base + offset)`
    pub fn load(&mut self, size: Size, to: Register, base: Register, offset: i16) -> &mut Code {
        self.put(0x61 | size as u8, to, base, offset, 0)
    }

    /// `*(base + offset) = from`
    pub fn store(&mut self, size: Size, base: Register, offset: i16, from: Register) -> &mut Code {
        self.put(0x63 | size as u8, base, from, offset, 0)
    }

    /// Turns the lowest `bits` from the host's order to the network's, and clears the others.
    pub fn to_network(&mut self, register: Register, bits: i32) -> &mut Code {
        self.put(0xdc, register, 0, 0, bits)
    }

    /// Goes to `label` if `one` compares so.
    pub fn jump(&mut self, when: If, one: Register, with: With, label: &'static str) -> &mut Code {
        let (source, from, number) = parts(with);
        self.jumps.push((self.instructions.len(), label));
        self.put(0x05 | when as u8 | source, one, from, 0, number)
    }

    /// Where jumps to `label` go.
    pub fn label(&mut self, label: &'static str) -> &mut Code {
        self.labels.insert(label, self.instructions.len());
        self
    }

    /// Calls; arguments in 1 to 5, the answer in 0.
    pub fn call(&mut self, helper: Helper) -> &mut Code {
        self.put(0x85, 0, 0, 0, helper as i32)
    }

    /// Returns what is in 0.
    pub fn exit(&mut self) -> &mut Code {
        self.put(0x95, 0, 0, 0, 0)
    }

    /// Adds the program to an object file.
    ///
    /// # Errors
    /// A jump to nowhere, or a map that the format cannot refer to.
    pub fn assemble(mut self, into: &mut Assembled, name: &str, section: &str) -> anyhow::Result<()> {
        for (from, label) in std::mem::take(&mut self.jumps) {
            let to = self.labels.get(label).ok_or_else(|| anyhow::anyhow!("{name}: nothing is called {label}"))?;
            // Counted from the next instruction.
            let distance = i16::try_from(*to as i64 - from as i64 - 1)?;
            let instruction = self.instructions.get_mut(from).and_then(|bytes| bytes.get_mut(2..4));
            instruction.into_iter().for_each(|bytes| bytes.copy_from_slice(&distance.to_le_bytes()));
        }
        let program = into.program(name, section, &self.instructions.concat());
        for (at, map) in &self.maps {
            into.refer(program, *at as u64 * 8, *map)?;
        }
        Ok(())
    }

    fn put(&mut self, opcode: u8, to: Register, from: Register, offset: i16, number: i32) -> &mut Code {
        let ([o0, o1], [n0, n1, n2, n3]) = (offset.to_le_bytes(), number.to_le_bytes());
        self.instructions.push([opcode, from << 4 | to, o0, o1, n0, n1, n2, n3]);
        self
    }
}

const fn parts(with: With) -> (u8, Register, i32) {
    match with {
        With::Register(register) => (0x08, register, 0),
        With::Number(number) => (0, 0, number),
    }
}
