//! Lives: weir-tests, a flooding client and a polite one at the same time.
//! Called by: live tests and the demo.
//! May touch: the world it is given.
//! Never: measures anywhere but at the server, where only what passed arrives.

use std::net::SocketAddr;

use crate::report::Sent;
use crate::world::{Who, World, WorldError};

/// What is sent, and the limit it is sent against.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// A port of api.
    pub to: SocketAddr,
    /// Payload bytes of each datagram.
    pub size: u32,
    /// Datagrams a second of the flooding client.
    pub flood: u32,
    /// Datagrams a second of the polite client.
    pub polite: u32,
    /// For how long.
    pub seconds: f64,
    /// What one datagram counts against the limit.
    pub weight: f64,
    /// The limit, a second.
    pub rate: f64,
    /// Its burst.
    pub burst: f64,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of the flood: sent, counted as the limit counts.
    pub sent: f64,
    /// Of the flood: arrived, counted as the limit counts.
    pub arrived: f64,
    /// What the limit lets pass in that time.
    pub due: f64,
    /// How long the flood ran.
    pub seconds: f64,
    /// The polite client's own count.
    pub polite: Sent,
    /// Of those arrived.
    pub polite_arrived: u64,
}

impl Flood {
    /// Runs both clients to their end.
    ///
    /// # Errors
    /// When one of the processes fails.
    pub fn run(&self, world: &World) -> Result<Measured, WorldError> {
        let Flood { to, size, flood, polite, seconds, .. } = *self;
        let any = if to.is_ipv4() { "0.0.0.0" } else { "[::]" };
        let server = world.serve(Who::Api, &format!("udp-serve --silent --listen {any}:{}", to.port()))?;
        let client = |name, who, verb, rate| {
            let line = format!("{verb} --to {to} --size {size} --rate {rate} --seconds {seconds}");
            world.start(name, world.probe_line(who, &line))
        };
        let paced = client("polite", Who::Polite, "udp-paced", polite)?;
        let flood = client("flood", Who::Client, "udp-flood", flood)?.sent()?;
        let polite = paced.sent()?;
        let served = server.served()?;
        let address = |who: Who| if to.is_ipv4() { who.v4() } else { who.v6() };
        let seconds = flood.elapsed_ms / 1000.0;
        Ok(Measured {
            sent: flood.ok as f64 * self.weight,
            arrived: served.from(address(Who::Client)).packets as f64 * self.weight,
            due: self.rate * seconds + self.burst,
            seconds,
            polite,
            polite_arrived: served.from(address(Who::Polite)).packets,
        })
    }
}

impl Measured {
    /// How far from the limit, as a fraction. A limiter that starves is as wrong as one that leaks.
    #[must_use]
    pub fn off(&self) -> f64 {
        (self.arrived - self.due) / self.due
    }

    /// Whether the polite client lost nothing.
    #[must_use]
    pub fn polite_is_whole(&self) -> bool {
        self.polite.ok > 0 && self.polite.refused.is_empty() && self.polite_arrived == self.polite.ok
    }
}
