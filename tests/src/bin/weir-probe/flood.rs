//! Lives: weir-probe, streams of datagrams.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: one UDP socket.
//! Never: sends faster than 200,000 a second or longer than its bound.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use weir_tests::report::{Report, Sent, error_name};

use crate::tcp::tally;
use crate::{Bound, End, enter_cgroup, milliseconds, udp};

/// What happens after a pause that was not asked for (two cores, many processes).
#[derive(Clone, Copy)]
pub enum Pace {
    /// Send what is due at once: the average holds.
    CatchUp,
    /// Go on as if nothing was: the distance holds.
    Even,
}

#[derive(Args)]
pub struct Stream {
    /// Send to this
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Datagrams a second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    rate: u32,
    /// Bytes of each: a sequence number, then filling
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=65_000))]
    size: u32,
    /// Move into this cgroup once the socket is there
    #[arg(long, value_name = "DIR")]
    then: Option<PathBuf>,
    /// End after this many
    #[arg(long, default_value_t = u64::MAX)]
    count: u64,
    #[command(flatten)]
    bound: Bound,
}

impl Stream {
    pub fn run(self, pace: Pace) -> Result<()> {
        let end = End::new(&self.bound)?;
        let socket = UdpSocket::bind((udp::any(self.to), 0)).context("opening a socket")?;
        if let Some(cgroup) = &self.then {
            enter_cgroup(cgroup)?;
        }
        let mut datagram = vec![0; usize::try_from(self.size)?];
        let mut sent = Sent::default();
        let mut tried = 0;
        let interval = Duration::from_secs(1) / self.rate;
        let mut next = Instant::now();
        while tried < self.count && !end.reached() {
            let now = Instant::now();
            if now < next {
                sleep(next - now);
                continue;
            }
            number(&mut datagram, tried);
            let outcome = socket.send_to(&datagram, self.to);
            tally(&mut sent, outcome.map_or_else(|error| error_name(&error), |_| "ok".to_owned()));
            tried += 1;
            next = match pace {
                Pace::CatchUp => next + interval,
                Pace::Even => Instant::now() + interval,
            };
        }
        sent.elapsed_ms = milliseconds(end.start.elapsed());
        Ok(Report::Sent(sent).print()?)
    }
}

fn number(datagram: &mut [u8], number: u64) {
    if let Some(head) = datagram.first_chunk_mut() {
        *head = number.to_be_bytes();
    }
}
