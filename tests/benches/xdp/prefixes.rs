//! Lives: weir-tests, the benchmark of XDP: block lists of any size.
//! Called by: plan; rounds gives them to everybody.
//! May touch: nothing; a trie that it is handed.
//! Never: a list that is good for one contestant: hits and innocent addresses lie side by side, spread over all of the list.
//!
//! ```text
//!   /24s from 16.0.0.0 on:   0  innocent | 1  listed, as /24 | 2  innocent | 3  listed, as /25 | 4 ... | 5  /28 | 6 ... | 7  /32 | ...
//! ```

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use weir_policy::Compiled;

use crate::frame::FIRST;
use crate::generator::Clients;
use crate::programs::LISTED;
use crate::weir;

/// Lengths, in turn.
const LENGTHS: [u32; 4] = [24, 25, 28, 32];

/// So many prefixes.
#[derive(Clone, Copy, Debug)]
pub struct Prefixes {
    /// How many.
    pub number: u32,
}

impl Prefixes {
    fn each(self) -> impl Iterator<Item = (Ipv4Addr, u32)> {
        let first = u32::from(FIRST);
        (0..self.number)
            .zip(LENGTHS.into_iter().cycle())
            .map(move |(n, length)| (Ipv4Addr::from(first + (n << 9) + 0x100), length))
    }

    /// As they are written.
    pub fn texts(self) -> Vec<String> {
        self.each().map(|(address, length)| format!("{address}/{length}")).collect()
    }

    /// The first address of each: those that come as hits.
    pub fn first_addresses(self) -> Vec<String> {
        self.each().map(|(address, _)| address.to_string()).collect()
    }

    /// Weir's tables of them; an error where a list cannot have as many.
    pub fn compile(self, generation: u64) -> Result<Compiled> {
        let list = self.texts().join(", ");
        let text = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: AddressSet\nmetadata: {{name: listed}}\n\
             spec: {{action: block, addresses: [{list}]}}\n"
        );
        weir::compiled(&text, generation)
    }

    /// Puts them into the trie of the benchmark's own program.
    pub fn enter(self, programs: &mut Ebpf) -> Result<()> {
        let mut trie = LpmTrie::<_, u32, u32>::try_from(programs.map_mut(LISTED).context("no trie")?)?;
        for (address, length) in self.each() {
            trie.insert(&Key::new(length, u32::from(address).to_be()), 1, 0)?;
        }
        Ok(())
    }

    /// Addresses of every kind of prefix, spread over the list.
    pub fn hits(self) -> Clients {
        Clients::Spread { networks: self.spread(), odd: true }
    }

    /// Addresses between them.
    pub fn innocent(self) -> Clients {
        Clients::Spread { networks: self.spread(), odd: false }
    }

    /// The largest power of two that is no more.
    fn spread(self) -> u32 {
        1 << self.number.max(1).ilog2()
    }
}
