//! Lives: agent, user space.
//! Called by: `Kernel`, when a generation is installed, about once a second, and for status.
//! May touch: the state and counts of SYN protection; the table of this network namespace's addresses; one sysctl, reading.
//! Never: turns protection on or off: the kernel programs do, by what they count.

use std::{collections::BTreeSet, fs};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use weir_common::{addr::Addr, event::SynStats, maps};
use weir_policy::{Compiled, LimitInfo, SynProtection};

use super::{
    InterfaceState,
    error::{self, KernelError},
    interfaces::matches,
};

/// What one limit's SYN protection does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shield {
    /// The limit, as "RateLimit/shop/api".
    pub limit: String,
    /// auto or always.
    pub protection: SynProtection,
    /// Of auto: new connections a second.
    pub threshold: u64,
    /// on, off, cannot.
    pub state: &'static str,
    /// Why it cannot, or what to know of it.
    pub detail: String,
    /// What became of SYNs.
    pub stats: SynStats,
}

/// What is protected, and what was told of it.
#[derive(Default)]
pub(super) struct Shields {
    protected: Vec<(u32, LimitInfo)>,
    /// Those that were on when they were looked at last.
    on: BTreeSet<u32>,
    interfaces: Vec<InterfaceState>,
    here: BTreeSet<Addr>,
}

/// The limits that protect, by number.
fn protected(compiled: &Compiled) -> impl Iterator<Item = (u32, &LimitInfo)> {
    (0u32..).zip(compiled.limits.iter()).filter(|(_, limit)| limit.syn_protection.is_some())
}

/// The addresses that may be protected. Who protects nothing has no use for any; one that finds no room is not answered for, and its
/// SYNs are left to the stack.
fn protected_here(compiled: &Compiled) -> BTreeSet<Addr> {
    let protects = protected(compiled).next().is_some();
    let here = compiled.host_addresses.iter().filter(|_| protects);
    // In order, so that the same ones find room each time.
    here.copied().collect::<BTreeSet<_>>().into_iter().take(maps::MAX_HERE as usize).collect()
}

fn table(ebpf: &mut Ebpf) -> Result<Here<'_>, KernelError> {
    let map = ebpf.map_mut(maps::HERE).ok_or(KernelError::NoMap(maps::HERE))?;
    HashMap::try_from(map).map_err(error::map(maps::HERE))
}

/// [`SynStats`] as words.
type Words = [u64; 7];
type Here<'m> = HashMap<&'m mut MapData, [u8; 16], u32>;

impl Shields {
    /// Makes known the addresses that a generation protects, before it is in force.
    pub(super) fn prepare(&mut self, ebpf: &mut Ebpf, compiled: &Compiled) -> Result<(), KernelError> {
        let mut map = table(ebpf)?;
        for address in protected_here(compiled) {
            // Beside those that go there may be no room, until the next generation.
            if self.here.contains(&address) || self.here.len() >= maps::MAX_HERE as usize {
                continue;
            }
            map.insert(address.0, 1, 0).map_err(error::map(maps::HERE))?;
            self.here.insert(address);
        }
        Ok(())
    }

    /// Takes over what the generation in force protects.
    pub(super) fn take_over(&mut self, ebpf: &mut Ebpf, compiled: &Compiled) {
        self.protected = protected(compiled).map(|(number, limit)| (number, limit.clone())).collect();
        let here = protected_here(compiled);
        // There it is already, or else nobody could have been protected.
        if let Ok(mut map) = table(ebpf) {
            for gone in self.here.difference(&here) {
                // Already gone is what we want.
                let _ = map.remove(&gone.0);
            }
        }
        self.here.retain(|address| here.contains(address));
    }

    /// Whether SYNs that come in by this interface may be answered.
    pub(super) fn act_on(&self, interface: &str) -> bool {
        self.protected.iter().any(|(_, limit)| fits(limit, interface))
    }

    /// Tells what went on or off.
    pub(super) fn watch(&mut self, ebpf: &Ebpf, interfaces: &[InterfaceState]) {
        self.interfaces = interfaces.to_vec();
        if self.protected.is_empty() {
            self.on.clear();
            return;
        }
        let shown = match self.status(ebpf) {
            Ok(shown) => shown,
            Err(error) => return tracing::error!(%error, "the state of SYN protection could not be read"),
        };
        let numbers = self.protected.iter().map(|(number, _)| *number);
        let before = std::mem::take(&mut self.on);
        for (number, shield) in numbers.zip(shown) {
            let Shield { limit, threshold, state, stats, .. } = shield;
            if state == ON {
                self.on.insert(number);
            }
            let answered = stats.answered;
            match (before.contains(&number), state == ON) {
                (false, true) => tracing::warn!(
                    limit,
                    threshold,
                    answered,
                    "SYN protection is on: new connections are opened by SYN cookies"
                ),
                (true, false) => tracing::warn!(limit, threshold, answered, "SYN protection is off"),
                (false, false) | (true, true) => {}
            }
        }
    }

    /// What each of them does, in order of their numbers.
    pub(super) fn status(&self, ebpf: &Ebpf) -> Result<Vec<Shield>, KernelError> {
        if self.protected.is_empty() {
            return Ok(Vec::new());
        }
        let cookies = fs::read_to_string(SYSCTL).ok().and_then(|text| text.trim().parse().ok());
        let shields = self.protected.iter().map(|(number, limit)| {
            let protection = limit.syn_protection.unwrap_or(SynProtection::Off);
            let (state, detail) = match self.hindrance(limit, protection, cookies) {
                Some(hindrance) => (CANNOT, hindrance),
                None => {
                    (if protection == SynProtection::Always || is_on(ebpf, *number)? { ON } else { OFF }, hint(cookies))
                }
            };
            Ok(Shield {
                limit: limit.policy.clone(),
                protection,
                threshold: limit.syn_threshold.unwrap_or(0),
                state,
                detail,
                stats: stats(ebpf, *number)?,
            })
        });
        shields.collect()
    }

    /// Why a limit's protection cannot act.
    fn hindrance(&self, limit: &LimitInfo, protection: SynProtection, cookies: Option<u32>) -> Option<String> {
        let attached = |state: &&InterfaceState| matches!(state.mode, "native" | "generic") && fits(limit, &state.name);
        if !self.interfaces.iter().any(|state| attached(&state)) {
            let which = if limit.interfaces.is_empty() {
                "the agent manages no interface"
            } else {
                "the agent manages none of its interfaces"
            };
            return Some(format!("{which}: SYNs are answered at XDP; name interfaces in the agent's configuration"));
        }
        let set = "sysctl -w net.ipv4.tcp_syncookies=2 in the agent's network namespace";
        match (cookies, protection) {
            (None, _) => Some(format!("{SYSCTL} cannot be read: the kernel has no SYN cookies")),
            (Some(0), _) => Some(format!("net.ipv4.tcp_syncookies is 0, so the kernel gives no cookies: {set}")),
            (Some(1), SynProtection::Always) => Some(format!(
                "net.ipv4.tcp_syncookies is 1, so the kernel gives cookies only while a listener's queue is full: {set}"
            )),
            (Some(_), _) => None,
        }
    }
}

const ON: &str = "on";
const OFF: &str = "off";
const CANNOT: &str = "cannot";

/// That of the reader's network namespace.
const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// What to know of protection that acts.
fn hint(cookies: Option<u32>) -> String {
    match cookies {
        Some(1) => "net.ipv4.tcp_syncookies is 1: beyond the threshold SYNs are answered only while a listener's queue is full; 2 answers all of them".to_owned(),
        Some(_) | None => String::new(),
    }
}

fn fits(limit: &LimitInfo, interface: &str) -> bool {
    limit.interfaces.is_empty() || limit.interfaces.iter().any(|pattern| matches(pattern, interface))
}

fn is_on(ebpf: &Ebpf, number: u32) -> Result<bool, KernelError> {
    let map = ebpf.map(maps::SYN_STATE).ok_or(KernelError::NoMap(maps::SYN_STATE))?;
    let map: Array<&MapData, u64> = Array::try_from(map).map_err(error::map(maps::SYN_STATE))?;
    let until = map.get(&number, 0).map_err(error::map(maps::SYN_STATE))?;
    Ok(until > super::monotonic_ns())
}

fn stats(ebpf: &Ebpf, number: u32) -> Result<SynStats, KernelError> {
    let map = ebpf.map(maps::SYN_STATS).ok_or(KernelError::NoMap(maps::SYN_STATS))?;
    let map: PerCpuArray<&MapData, Words> = PerCpuArray::try_from(map).map_err(error::map(maps::SYN_STATS))?;
    let values = map.get(&number, 0).map_err(error::map(maps::SYN_STATS))?;
    let mut total: Words = Words::default();
    for words in values.iter() {
        total.iter_mut().zip(words).for_each(|(total, word)| *total += word);
    }
    Ok(zerocopy::transmute!(total))
}

/// Forgets what was counted under a number that another limit has from now on.
pub(super) fn forget(ebpf: &mut Ebpf, number: u32) -> Result<(), KernelError> {
    let map = ebpf.map_mut(maps::SYN_STATE).ok_or(KernelError::NoMap(maps::SYN_STATE))?;
    let mut map: Array<&mut MapData, u64> = Array::try_from(map).map_err(error::map(maps::SYN_STATE))?;
    map.set(number, 0, 0).map_err(error::map(maps::SYN_STATE))?;
    let map = ebpf.map_mut(maps::SYN_STATS).ok_or(KernelError::NoMap(maps::SYN_STATS))?;
    let mut map: PerCpuArray<&mut MapData, Words> = PerCpuArray::try_from(map).map_err(error::map(maps::SYN_STATS))?;
    let none = PerCpuValues::try_from(vec![Words::default(); nr_cpus().map_or(1, |count| count)]);
    match none {
        Ok(none) => map.set(number, none, 0).map_err(error::map(maps::SYN_STATS)),
        Err(_) => Ok(()),
    }
}
