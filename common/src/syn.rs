//! Lives: kernel and host.
//! Called by: the XDP program, to answer a SYN in the place of its listener.
//! May touch: nothing but its arguments.
//! Never: promises more than a cookie can hold: the only option of the answer is the segment size.

/// What a SYN says that its answer needs, as it lies in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Ports as they came: source, destination.
    pub ports: [u8; 4],
    /// Its sequence number.
    pub sequence: u32,
}

/// What the kernel makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Sequence number of the answer.
    pub sequence: u32,
    /// Segment size that it stands for.
    pub mss: u16,
}

impl Cookie {
    /// From what `bpf_tcp_gen_syncookie` gives back, which is not negative.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u64) -> Self {
        Self { sequence: number as u32, mss: (number >> 32) as u16 }
    }
}

/// Bytes of the answer's TCP header: with one option, the segment size.
pub const TCP_BYTES: usize = 24;
/// The whole answer over IPv4.
pub const V4_BYTES: usize = 20 + TCP_BYTES;
/// Over IPv6.
pub const V6_BYTES: usize = 40 + TCP_BYTES;

/// Window of the answer. It holds a first flight of ten segments (RFC 6928), and is less than what a listener has room for unless told
/// otherwise; the first segment of the connection itself names the true one. Larger ones cannot be scaled: that option has no room in
/// a cookie.
const WINDOW: u16 = 16_384;
const TCP: u8 = 6;
const SYN_ACK: u8 = 0x12;
const HOPS: u8 = 64;

/// The answer over IPv4 (RFC 791, RFC 9293), from the addresses as they came.
#[inline(always)]
#[must_use]
pub fn answer_v4(src: [u8; 4], dst: [u8; 4], syn: Syn, cookie: Cookie) -> [u8; V4_BYTES] {
    let mut bytes = [0; V4_BYTES];
    let ip = [0x45, 0, 0, V4_BYTES as u8, 0, 0, 0x40, 0, HOPS, TCP, 0, 0];
    put(&mut bytes, 0, ip);
    put(&mut bytes, 12, dst);
    put(&mut bytes, 16, src);
    let sum = checksum(sum_of(&bytes, 0, 20));
    put(&mut bytes, 10, sum.to_be_bytes());
    put(&mut bytes, 20, tcp(syn, cookie));
    let pseudo = sum_of(&bytes, 12, 20) + TCP as u32 + TCP_BYTES as u32;
    let sum = checksum(pseudo + sum_of(&bytes, 20, V4_BYTES));
    put(&mut bytes, 36, sum.to_be_bytes());
    bytes
}

/// The same over IPv6 (RFC 8200).
#[inline(always)]
#[must_use]
pub fn answer_v6(src: [u8; 16], dst: [u8; 16], syn: Syn, cookie: Cookie) -> [u8; V6_BYTES] {
    let mut bytes = [0; V6_BYTES];
    put(&mut bytes, 0, [0x60, 0, 0, 0, 0, TCP_BYTES as u8, TCP, HOPS]);
    put(&mut bytes, 8, dst);
    put(&mut bytes, 24, src);
    put(&mut bytes, 40, tcp(syn, cookie));
    let pseudo = sum_of(&bytes, 8, 40) + TCP as u32 + TCP_BYTES as u32;
    let sum = checksum(pseudo + sum_of(&bytes, 40, V6_BYTES));
    put(&mut bytes, 56, sum.to_be_bytes());
    bytes
}

/// The TCP header, without its checksum.
#[inline(always)]
fn tcp(syn: Syn, cookie: Cookie) -> [u8; TCP_BYTES] {
    let mut bytes = [0; TCP_BYTES];
    let [from_high, from_low, to_high, to_low] = syn.ports;
    put(&mut bytes, 0, [to_high, to_low, from_high, from_low]);
    put(&mut bytes, 4, cookie.sequence.to_be_bytes());
    put(&mut bytes, 8, syn.sequence.wrapping_add(1).to_be_bytes());
    put(&mut bytes, 12, [(TCP_BYTES as u8 / 4) << 4, SYN_ACK]);
    put(&mut bytes, 14, WINDOW.to_be_bytes());
    // The maximum segment size: kind 2, four bytes in all.
    let [high, low] = cookie.mss.to_be_bytes();
    put(&mut bytes, 20, [2, 4, high, low]);
    bytes
}

/// Copies a part to its place; every place is known when this is compiled, and lies inside.
#[inline(always)]
fn put<const N: usize, const P: usize>(bytes: &mut [u8; N], at: usize, part: [u8; P]) {
    let mut index = 0;
    while index < P {
        if let Some(byte) = bytes.get_mut(at + index)
            && let Some(from) = part.get(index)
        {
            *byte = *from;
        }
        index += 1;
    }
}

/// The sum of 16-bit words (RFC 1071) of an even range.
#[inline(always)]
fn sum_of<const N: usize>(bytes: &[u8; N], from: usize, to: usize) -> u32 {
    let (mut sum, mut at) = (0, from);
    while at < to {
        if let (Some(high), Some(low)) = (bytes.get(at), bytes.get(at + 1)) {
            sum += u16::from_be_bytes([*high, *low]) as u32;
        }
        at += 2;
    }
    sum
}

/// Folds a sum of few enough words; none of ours is 0, as the ports and addresses are not.
#[inline(always)]
const fn checksum(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Syn = Syn { ports: [0x9c, 0x40, 0x1f, 0x90], sequence: u32::MAX };
    const COOKIE: Cookie = Cookie { sequence: 0xdead_beef, mss: 1460 };

    /// A header with its checksum, and the pseudo header before it, sums to all ones.
    fn is_whole(words: u32) -> bool {
        checksum(words) == 0
    }

    #[test]
    fn what_the_helper_gives_back_is_taken_apart() {
        assert_eq!(Cookie::of(1460 << 32 | 0xdead_beef), COOKIE);
    }

    #[test]
    fn the_answer_goes_back_where_the_syn_came_from_and_its_checksums_hold() {
        let (src, dst) = ([192, 0, 2, 1], [10, 0, 0, 2]);
        let v4 = answer_v4(src, dst, SYN, COOKIE);
        assert_eq!((&v4[12..16], &v4[16..20]), (&dst[..], &src[..]));
        assert!(is_whole(sum_of(&v4, 0, 20)));
        assert!(is_whole(sum_of(&v4, 12, V4_BYTES) + u32::from(TCP) + TCP_BYTES as u32));
        let (src, dst) = ([0xfd; 16], [0x20; 16]);
        let v6 = answer_v6(src, dst, SYN, COOKIE);
        assert_eq!((&v6[8..24], &v6[24..40]), (&dst[..], &src[..]));
        assert!(is_whole(sum_of(&v6, 8, V6_BYTES) + u32::from(TCP) + TCP_BYTES as u32));
        for header in [&v4[20..], &v6[40..]] {
            assert_eq!(header[..4], [0x1f, 0x90, 0x9c, 0x40], "ports");
            assert_eq!(header[4..12], [0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0], "sequence numbers, one of which wraps");
            assert_eq!(header[12..14], [0x60, SYN_ACK]);
            assert_eq!(header[20..], [2, 4, 5, 180], "1460 bytes");
        }
    }
}
