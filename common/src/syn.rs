//! Lives: kernel and host.
//! Called by: the XDP program, to answer a SYN in the place of its listener.
//! May touch: nothing but its arguments.
//! Never: promises more than a cookie can hold: the only option of the answer is the segment size.

/// What a SYN says that its answer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Both ports, as they lie in the packet.
    pub ports: u32,
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

/// Words of the answer's TCP header: with one option, the segment size.
const TCP_WORDS: usize = 6;
/// The whole answer over IPv4, in words of four bytes.
pub const V4_WORDS: usize = 5 + TCP_WORDS;
/// Over IPv6.
pub const V6_WORDS: usize = 10 + TCP_WORDS;

/// Window of the answer. It holds a first flight of ten segments (RFC 6928), and is less than what a listener has room for unless told
/// otherwise; the first segment of the connection itself names the true one. Larger ones cannot be scaled: that option has no room in
/// a cookie.
const WINDOW: u32 = 16_384;
/// What comes before a TCP header when its checksum is made, beside the addresses: its number and length.
const PSEUDO: u32 = 0x0006_0018;

/// The answer over IPv4 (RFC 791, RFC 9293), from the addresses as they came. Words as they lie in the packet, here and below: bytes
/// that the compiler keeps apart are as many slots of a kernel program's stack.
#[inline(always)]
#[must_use]
pub const fn answer_v4(src: u32, dst: u32, syn: Syn, cookie: Cookie) -> [u32; V4_WORDS] {
    // 44 bytes, in one piece, 64 hops.
    let (first, second, third) = (0x4500_002c_u32.to_be(), 0x0000_4000_u32.to_be(), 0x4006_0000_u32.to_be());
    let [_, _, sum] = halves(checksum(add(0, [first, second, third, dst, src])));
    let [t0, t1, t2, t3, t4, t5] = tcp(syn, cookie, add(0, [src, dst]));
    [first, second, third | sum, dst, src, t0, t1, t2, t3, t4, t5]
}

/// The same over IPv6 (RFC 8200).
#[inline(always)]
#[must_use]
pub const fn answer_v6(src: [u32; 4], dst: [u32; 4], syn: Syn, cookie: Cookie) -> [u32; V6_WORDS] {
    // 24 bytes of TCP, 64 hops.
    let (first, second) = (0x6000_0000_u32.to_be(), 0x0018_0640_u32.to_be());
    let [t0, t1, t2, t3, t4, t5] = tcp(syn, cookie, add(add(0, src), dst));
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (src, dst);
    [first, second, d0, d1, d2, d3, s0, s1, s2, s3, t0, t1, t2, t3, t4, t5]
}

/// The TCP header; `addresses` is the sum of both.
#[inline(always)]
const fn tcp(syn: Syn, cookie: Cookie, addresses: u64) -> [u32; TCP_WORDS] {
    let ports = syn.ports.rotate_left(16);
    let (sequence, answers) = (cookie.sequence.to_be(), syn.sequence.wrapping_add(1).to_be());
    // Six words, SYN and ACK; and the maximum segment size: kind 2, four bytes in all.
    let (flags, option) = ((0x6012_0000 | WINDOW).to_be(), (0x0204_0000 | cookie.mss as u32).to_be());
    let sum = checksum(add(addresses, [PSEUDO.to_be(), ports, sequence, answers, flags, option]));
    let [_, sum, _] = halves(sum);
    [ports, sequence, answers, flags, sum, option]
}

#[inline(always)]
const fn add<const N: usize>(mut sum: u64, words: [u32; N]) -> u64 {
    let mut rest = words.as_slice();
    while let [word, others @ ..] = rest {
        sum += *word as u64;
        rest = others;
    }
    sum
}

/// RFC 1071, which sums in whatever order the machine has: the answer is in the same.
#[inline(always)]
const fn checksum(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A half word as it lies in memory: alone, in front of a word, at the end of one.
#[inline(always)]
const fn halves(half: u16) -> [u32; 3] {
    let [first, second] = half.to_ne_bytes();
    [half as u32, u32::from_ne_bytes([first, second, 0, 0]), u32::from_ne_bytes([0, 0, first, second])]
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    const SYN: Syn = Syn { ports: u32::from_ne_bytes([0x9c, 0x40, 0x1f, 0x90]), sequence: u32::MAX };
    const COOKIE: Cookie = Cookie { sequence: 0xdead_beef, mss: 1460 };

    /// Header and checksum sum to all ones.
    fn is_whole(words: &[u32], pseudo: u32) -> bool {
        checksum(words.iter().map(|word| u64::from(*word)).sum::<u64>() + u64::from(pseudo.to_be())) == 0
    }

    #[test]
    fn what_the_helper_gives_back_is_taken_apart() {
        assert_eq!(Cookie::of(1460 << 32 | 0xdead_beef), COOKIE);
    }

    #[test]
    fn the_answer_goes_back_where_the_syn_came_from_and_its_checksums_hold() {
        let (src, dst) = (u32::from_ne_bytes([192, 0, 2, 1]), u32::from_ne_bytes([10, 0, 0, 2]));
        let v4 = answer_v4(src, dst, SYN, COOKIE);
        assert_eq!((v4[3], v4[4]), (dst, src));
        assert!(is_whole(&v4[..5], 0));
        assert!(is_whole(&v4[3..], PSEUDO));
        let (src, dst) = ([0xfdfd_fdfd; 4], [0x0102_0304; 4]);
        let v6 = answer_v6(src, dst, SYN, COOKIE);
        assert_eq!((&v6[2..6], &v6[6..10]), (&dst[..], &src[..]));
        assert!(is_whole(&v6[2..], PSEUDO));
        for header in [&v4.as_bytes()[20..], &v6.as_bytes()[40..]] {
            assert_eq!(header[..4], [0x1f, 0x90, 0x9c, 0x40], "ports");
            assert_eq!(header[4..12], [0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0], "sequence numbers, one of which wraps");
            assert_eq!(header[12..16], [0x60, 0x12, 0x40, 0]);
            assert_eq!(header[18..], [0, 0, 2, 4, 5, 180], "1460 bytes");
        }
    }
}
