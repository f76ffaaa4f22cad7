//! Lives: weir-probe, SYNs from addresses that nobody has.
//! Called by: main, after the move into the namespace.
//! May touch: one packet socket.
//! Never: sends faster or longer than it is told to; names more than sixteen sources, each of which takes a place in the kernel's one
//! table of neighbours.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use weir_tests::report::{Report, Sent, error_name};

use crate::crafted::{link, packet_socket, unhex};
use crate::tcp::tally;
use crate::{Bound, End, milliseconds};

/// Networks for measurements (RFC 2544, RFC 5180).
const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0);
const SOURCES: u32 = 16;
/// A station of our own making (locally administered).
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 99];

#[derive(Args)]
pub struct SynFlood {
    /// Whom to ask for connections
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Its hardware address, as hexadecimal digits
    #[arg(long, value_name = "HEX")]
    station: String,
    /// By which interface frames leave
    #[arg(long, default_value = "eth0")]
    interface: String,
    /// SYNs a second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    #[command(flatten)]
    bound: Bound,
}

impl SynFlood {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let station = unhex(&self.station)?;
        ensure!(station.len() == 6, "a hardware address has six bytes");
        let (socket, to) = (packet_socket().context("opening a socket")?, link(&self.interface)?);
        let (start, mut number, mut sent) = (Instant::now(), 0u32, Sent::default());
        while !end.reached() {
            // What a pause held back is not caught up with in one burst of more than a tenth of a second's worth.
            let due = (start.elapsed().as_secs_f64() * f64::from(self.rate)) as u32;
            number = number.max(due.saturating_sub(self.rate / 10));
            while number < due {
                let frame = [&station[..], &STATION, &syn(self.to, number)].concat();
                let result = socket.send_to(&frame, &to).map_or_else(|error| error_name(&error), |_| "ok".to_owned());
                tally(&mut sent, result);
                number += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        sent.elapsed_ms = milliseconds(start.elapsed());
        Ok(Report::Sent(sent).print()?)
    }
}

/// Ethertype and packet of one SYN, its checksums right: the kernel looks at them.
fn syn(to: SocketAddr, number: u32) -> Vec<u8> {
    let (host, port) = (number % SOURCES + 1, 1024 + (number / SOURCES % 60_000) as u16);
    match to {
        SocketAddr::V4(to) => {
            let src = (u32::from(SOURCE_V4) + host).to_be_bytes();
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
            header.extend(src.iter().chain(&to.ip().octets()));
            let sum = checksum(&[&header]).to_be_bytes();
            header.splice(10..12, sum);
            [&[8, 0][..], &header, &segment(&src, &to.ip().octets(), port, to.port(), number)].concat()
        }
        SocketAddr::V6(to) => {
            let src = (u128::from(SOURCE_V6) + u128::from(host)).to_be_bytes();
            let header = [&[0x60, 0, 0, 0, 0, 20, 6, 64][..], &src, &to.ip().octets()].concat();
            [&[0x86, 0xdd][..], &header, &segment(&src, &to.ip().octets(), port, to.port(), number)].concat()
        }
    }
}

fn segment(src: &[u8], dst: &[u8], from: u16, to: u16, sequence: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = [from, to].into_iter().flat_map(u16::to_be_bytes).collect();
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0]);
    // The pseudo header: addresses, protocol, length.
    let sum = checksum(&[src, dst, &[0, 6, 0, 20], &bytes]).to_be_bytes();
    bytes.splice(16..18, sum);
    bytes
}

/// RFC 1071; every part has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let sum: u32 = words.map(|word| u32::from(word.iter().fold(0u16, |high, low| high << 8 | u16::from(*low)))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
