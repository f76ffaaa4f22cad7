//! Lives: fuzz targets. Frames for the parser that runs in the kernel.
//! Called by: libFuzzer's program `packet`, the replay.
//! May touch: the bytes it is handed.
//! Never: knows what a packet should be; it holds the parser to what any packet must keep.

use weir_common::{
    addr::Port,
    packet::{Bytes, Fault, Packet, parse_frame},
    verdict::Reason,
};

/// A frame as the kernel shows it.
struct Frame<'a>(&'a [u8]);

impl Bytes for Frame<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.0.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

/// Any frame.
pub fn packet(data: &[u8]) {
    // No link carries more, and lengths beyond are the kernel's own to refuse.
    let data = data.get(..65_600).unwrap_or(data);
    let parsed = parse_frame(&Frame(data));
    if let Ok(packet) = &parsed {
        is_sound(packet, data.len());
    }
    padding_changes_nothing(data, &parsed);
    a_tag_changes_nothing(data, &parsed);
}

fn is_sound(packet: &Packet, frame: usize) {
    assert!(packet.length as usize <= frame, "{packet:?} in {frame} bytes");
    if packet.later_fragment != 0 {
        assert_eq!((packet.src_port, packet.dst_port), (Port([0; 2]), Port([0; 2])), "{packet:?}");
        assert_eq!(packet.tcp_flags, 0, "{packet:?}");
    }
}

/// Short packets travel in longer frames.
fn padding_changes_nothing(data: &[u8], parsed: &Result<Packet, Fault>) {
    if parsed.is_ok() {
        let padded = [data, &[0xff; 64]].concat();
        assert_eq!(parse_frame(&Frame(&padded)), *parsed);
    }
}

/// A frame with one tag more says the same, as long as tags are looked through.
fn a_tag_changes_nothing(data: &[u8], parsed: &Result<Packet, Fault>) {
    let (Some(macs), Some(rest), Ok(packet)) = (data.get(..12), data.get(12..), parsed) else { return };
    let tagged = [macs, &[0x81, 0, 0, 7], rest].concat();
    match parse_frame(&Frame(&tagged)) {
        Ok(again) => assert_eq!(again, *packet),
        // Two tags were there already.
        Err(fault) => assert_eq!(fault, Fault::Refused(Reason::ExtDepth)),
    }
}
