//! Lives: weir-tests, in-kernel test runs: frames, sound and broken.
//! Called by: `differential`.
//! May touch: nothing.
//! Never: a byte that does not follow from the seed.

use crate::{
    edge::next,
    frames::{Piece, datagram, ethernet, extension, segment, v4, v6},
};

/// Draws from a seed.
pub struct Draw(pub u64);

const ADDRESSES: [[u8; 4]; 8] = [
    [10, 0, 0, 2],
    [10, 0, 0, 2],
    [10, 0, 0, 3],
    [203, 0, 113, 9],
    [192, 0, 2, 1],
    [127, 0, 0, 1],
    [0, 0, 0, 0],
    [224, 0, 0, 251],
];
const ADDRESSES6: [&str; 9] =
    ["fd00::2", "fd00::2", "fd00::3", "2001:db8:bad::7", "2001:db8::1", "::1", "::", "ff02::fb", "::ffff:10.0.0.2"];
const PORTS: [u16; 7] = [9000, 9005, 9010, 9011, 443, 53, 68];
const PROTOCOLS: [u8; 12] = [6, 6, 6, 17, 17, 17, 1, 58, 132, 50, 2, 59];

impl Draw {
    pub fn below(&mut self, end: usize) -> usize {
        (next(&mut self.0) >> 11) as usize % end
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A frame, and then now and then not quite it. `round` picks the identifications of fragments.
    pub fn frame(&mut self, round: u32) -> Vec<u8> {
        let mut frame = if self.chance(50) { self.four(round) } else { self.six(round) };
        if self.chance(20) {
            frame = self.fronted(&frame);
        }
        if self.chance(70) {
            self.mutate(&mut frame);
        }
        // The kernel runs nothing below an Ethernet header.
        frame.resize(frame.len().max(14), 0);
        frame
    }

    fn transport(&mut self, protocol: u8) -> Vec<u8> {
        let (from, to) = (self.one(&PORTS), self.one(&PORTS));
        match protocol {
            6 => {
                let flags = if self.chance(80) { self.one(&[2, 16, 18, 17, 4, 24]) } else { self.below(256) as u8 };
                segment(from, to, flags)
            }
            17 => {
                let payload = self.below(40);
                datagram(from, to, payload)
            }
            1 | 58 => {
                vec![self.one(&[0, 3, 8, 128, 129, 133, 134, 135, 136, 143]), 0, 0, 0, 0, self.below(4) as u8, 0, 1]
            }
            132 => [&datagram(from, to, 0)[..4], &[0; 8], &[1, 0, 0, 4 + self.below(30) as u8]].concat(),
            _ => vec![0x23; self.below(40)],
        }
    }

    fn four(&mut self, round: u32) -> Vec<u8> {
        let protocol = self.one(&PROTOCOLS);
        let options = if self.chance(25) { self.options() } else { vec![] };
        let mut piece = Piece { ident: (round * 16) as u16 + self.below(16) as u16, ..Piece::default() };
        if self.chance(30) {
            piece.place = self.one(&[0, 0, 0, 8, 16, 24, 64, 1400, 65_528]);
            piece.more = self.chance(50);
        }
        let (src, dst, payload) = (self.one(&ADDRESSES), self.one(&ADDRESSES), self.transport(protocol));
        v4(src, dst, protocol, &options, piece, &payload)
    }

    fn options(&mut self) -> Vec<u8> {
        let mut options = Vec::new();
        for _ in 0..self.below(4) {
            let more: &[u8] =
                self.one(&[&[1][..], &[7, 3, 4], &[131, 3, 4], &[137, 7, 4, 10, 0, 0, 9], &[68, 4, 5, 0], &[0]]);
            options.extend(more);
        }
        if self.chance(20) {
            options.resize(40, 1);
        }
        options.resize(options.len().next_multiple_of(4).min(40), if self.chance(50) { 1 } else { 0 });
        options
    }

    fn six(&mut self, round: u32) -> Vec<u8> {
        let protocol = self.one(&PROTOCOLS);
        let depth = if self.chance(40) { self.below(9) } else { 0 };
        let ident = round * 16 + self.below(16) as u32;
        let chain: Vec<(u8, Vec<u8>)> = (0..depth).map(|_| self.header(ident)).collect();
        let (src, dst, payload) = (self.one(&ADDRESSES6), self.one(&ADDRESSES6), self.transport(protocol));
        let mut frame = v6(src, dst, &chain, protocol, &payload);
        if self.chance(20) {
            // What neighbour discovery needs.
            frame[14 + 7] = 255;
        }
        frame
    }

    fn header(&mut self, ident: u32) -> (u8, Vec<u8>) {
        match self.below(20) {
            0..6 => (60, extension::options(self.below(3) as u8)),
            6..9 => (0, extension::options(self.below(2) as u8)),
            9..12 => (43, extension::routing(self.below(5) as u8, u8::from(self.chance(20)))),
            12..15 => (51, extension::authentication(self.below(4) as u8)),
            _ => {
                let place = self.one(&[0, 0, 0, 8, 16, 64, 1400]);
                (44, extension::fragment(place, self.chance(70), ident))
            }
        }
    }

    /// Tags, or a length instead of a type.
    fn fronted(&mut self, frame: &[u8]) -> Vec<u8> {
        if self.chance(25) {
            let front: &[u8] = self.one(&[
                &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..],
                &[0xaa, 0xaa, 3, 0, 0, 0xf8, 8, 0],
                &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0],
                &[6, 6, 3],
                &[0x42, 0x42, 3],
            ]);
            let body = [front, &frame[14..]].concat();
            let length = if self.chance(70) { body.len() } else { self.below(0x700) };
            return ethernet(u16::try_from(length).unwrap(), &body);
        }
        let mut out = frame[..12].to_vec();
        for _ in 0..1 + self.below(4) {
            out.extend(self.one(&[[0x81, 0, 0, 0], [0x81, 0, 0, 7], [0x88, 0xa8, 0, 9], [0x91, 0, 0, 1]]));
        }
        out.extend(&frame[12..]);
        out
    }

    /// Bytes that are others, or are missing, or are too many.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..self.below(3) {
            // Mostly where headers are.
            let end = if self.chance(80) { frame.len().min(70) } else { frame.len() };
            let at = 12 + self.below(end - 12);
            frame[at] = match self.below(4) {
                0 => self.below(256) as u8,
                1 => frame[at] ^ 1 << self.below(8),
                2 => frame[at].wrapping_add(1),
                _ => self.one(&[0, 1, 6, 17, 43, 44, 51, 60, 0x45, 0x46, 0x4f, 0x60, 0xff]),
            };
        }
        match self.below(10) {
            0 => frame.truncate(14 + self.below(frame.len() - 13)),
            1 => frame.extend(vec![self.one(&[0, 17, 44, 0xff]); self.below(60)]),
            2 => {
                let last = frame.len() - 1;
                frame.truncate(last.max(14));
            }
            _ => {}
        }
    }
}
