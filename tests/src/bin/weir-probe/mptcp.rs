//! Lives: weir-probe, what its network namespace's kernel does about MPTCP by itself.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: the path manager of its own namespace, over generic netlink.
//! Never: an address that it is not told.
//!
//! Written by hand: three messages of include/uapi/linux/{genetlink,mptcp_pm}.h are all there is.

use std::io::{self, Read, Write};
use std::net::IpAddr;

use anyhow::Result;
use clap::Args;
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::attempt::report;

const CTRL_GETFAMILY: u8 = 3;
const CTRL_FAMILY_ID: u16 = 1;
const CTRL_FAMILY_NAME: u16 = 2;
const PM_ADD_ADDR: u8 = 1;
const PM_SET_LIMITS: u8 = 5;
const PM_ATTR_ADDR: u16 = 1;
const PM_ATTR_RCV_ADD_ADDRS: u16 = 2;
const PM_ATTR_SUBFLOWS: u16 = 3;
const ADDR_FAMILY: u16 = 1;
const ADDR_V4: u16 = 3;
const ADDR_V6: u16 = 4;
const ADDR_FLAGS: u16 = 6;
const FLAG_SIGNAL: u32 = 1;
const NESTED: u16 = 1 << 15;
const HEADER: usize = 16 + 4;

#[derive(Args)]
pub struct Paths {
    /// Tell peers of this address
    #[arg(long, value_name = "ADDRESS")]
    signal: Option<IpAddr>,
    /// Open so many further subflows, to addresses that peers tell of
    #[arg(long, value_name = "NUMBER")]
    accept: Option<u32>,
}

impl Paths {
    pub fn run(self) -> Result<()> {
        report(|_| {
            let mut socket =
                Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_GENERIC)))?;
            let family = family(&mut socket)?;
            if let Some(address) = self.signal {
                let (kind, name, bytes) = match address {
                    IpAddr::V4(address) => (libc::AF_INET, ADDR_V4, address.octets().to_vec()),
                    IpAddr::V6(address) => (libc::AF_INET6, ADDR_V6, address.octets().to_vec()),
                };
                let inner = [
                    attribute(ADDR_FAMILY, &(kind as u16).to_ne_bytes()),
                    attribute(name, &bytes),
                    attribute(ADDR_FLAGS, &FLAG_SIGNAL.to_ne_bytes()),
                ];
                ask(&mut socket, family, PM_ADD_ADDR, &attribute(PM_ATTR_ADDR | NESTED, &inner.concat()))?;
            }
            if let Some(most) = self.accept {
                let limits = [PM_ATTR_RCV_ADD_ADDRS, PM_ATTR_SUBFLOWS].map(|name| attribute(name, &most.to_ne_bytes()));
                ask(&mut socket, family, PM_SET_LIMITS, &limits.concat())?;
            }
            Ok(())
        })
    }
}

/// A netlink attribute, padded to four bytes.
fn attribute(name: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(name.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a request, and takes the answer after its headers; an acknowledgement of an error is that error.
fn ask(socket: &mut Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = ((HEADER + attributes.len()) as u32).to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([1, 0, 0, 0, 0, 0, 0, 0, command, 1, 0, 0]);
    message.extend(attributes);
    socket.write_all(&message)?;
    let mut answer = vec![0; 8192];
    let length = socket.read(&mut answer)?;
    answer.truncate(length);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(libc::NLMSG_ERROR as u16) {
        let error = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        return if error == 0 { Ok(Vec::new()) } else { Err(io::Error::from_raw_os_error(-error)) };
    }
    Ok(answer.get(HEADER..).unwrap_or_default().to_vec())
}

/// The number of the path manager's family in this kernel.
fn family(socket: &mut Socket) -> io::Result<u16> {
    let name = attribute(CTRL_FAMILY_NAME, b"mptcp_pm\0");
    let answer = ask(socket, libc::GENL_ID_CTRL as u16, CTRL_GETFAMILY, &name)?;
    // The acknowledgement that follows is not waited for; it must not be taken for the next answer.
    let mut acknowledgement = [0; 1024];
    let _ = socket.read(&mut acknowledgement)?;
    let mut rest = answer.as_slice();
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let [l0, l1, n0, n1] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        if u16::from_ne_bytes([n0, n1]) == CTRL_FAMILY_ID {
            let value = rest.get(4..6).and_then(|bytes| bytes.try_into().ok());
            return value.map(u16::from_ne_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Err(io::ErrorKind::NotFound.into())
}
