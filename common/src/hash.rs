//! Lives: kernel and host.
//! Called by: the rate limiter and the reply table, to find a client's slots.
//! May touch: nothing but its arguments.
//! Never: used without a secret drawn at load; an attacker who knows the hash can aim at one client's slot.

/// Two secret words, drawn at random when the programs are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secret(pub u64, pub u64);

/// Multiplies two words into 128 bits and folds the halves: the mixing step of wyhash-like hashes.
///
/// BPF has no 64x64->128 multiplication and no u128, so it is put together from 32-bit halves.
#[inline(always)]
#[must_use]
const fn fold(a: u64, b: u64) -> u64 {
    let (ah, al) = (a >> 32, a & 0xffff_ffff);
    let (bh, bl) = (b >> 32, b & 0xffff_ffff);
    let mid = ah.wrapping_mul(bl).wrapping_add(al.wrapping_mul(bh).rotate_left(17));
    ah.wrapping_mul(bh) ^ al.wrapping_mul(bl) ^ mid.rotate_left(32)
}

/// A keyed 64-bit hash of three words. Both halves of the result are usable as independent indices.
#[inline(always)]
#[must_use]
pub const fn keyed(secret: Secret, a: u64, b: u64, c: u64) -> u64 {
    let first = fold(a ^ secret.0, b ^ secret.1.rotate_left(23));
    let second = fold(first ^ c ^ secret.1, secret.0 | 1);
    second ^ (second >> 29)
}

/// The same of six words.
#[inline(always)]
#[must_use]
pub const fn keyed_six(secret: Secret, [a, b, c, d, e, f]: [u64; 6]) -> u64 {
    let first = fold(a ^ secret.0, b ^ secret.1.rotate_left(23));
    let second = fold(first ^ c ^ secret.1, d ^ secret.0.rotate_left(41));
    let third = fold(second ^ e, f ^ secret.0.wrapping_add(secret.1) | 1);
    third ^ (third >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequential clients must spread like random ones: the fullest of 1,024 buckets stays near the mean of 64.
    #[test]
    fn neighbouring_keys_spread_evenly_in_both_halves() {
        for secret in
            [Secret(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344), Secret(0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03)]
        {
            let (mut low, mut high) = ([0u32; 1024], [0u32; 1024]);
            for client in 0..65_536u64 {
                let hash = keyed(secret, 0xffff, 0x0a00_0000 + client, 7);
                low[(hash & 1023) as usize] += 1;
                high[(hash >> 32 & 1023) as usize] += 1;
            }
            let fullest = low.iter().chain(&high).max().copied().unwrap();
            assert!(fullest < 120, "fullest bucket {fullest} under {secret:?}");
            for word in 0..6 {
                let (mut low, mut high) = ([0u32; 1024], [0u32; 1024]);
                for client in 0..65_536u64 {
                    let mut words = [0, 0xffff_0a00_0001, 0, 0xffff_0a00_0002, 0x11_2328, 7];
                    words[word] += client;
                    let hash = keyed_six(secret, words);
                    low[(hash >> 1 & 1023) as usize] += 1;
                    high[(hash >> 32 & 1023) as usize] += 1;
                }
                let fullest = low.iter().chain(&high).max().copied().unwrap();
                assert!(fullest < 120, "word {word}: fullest bucket {fullest} under {secret:?}");
            }
        }
    }

    #[test]
    fn another_secret_is_another_order() {
        let same = (0..1000u64).filter(|c| {
            keyed(Secret(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344), *c, 0, 0) & 15
                == keyed(Secret(0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89), *c, 0, 0) & 15
        });
        assert!(same.count() < 150);
    }
}
