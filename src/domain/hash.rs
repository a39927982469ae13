//! A small stable hash for spreading machines over time. Not for security: only its stability
//! across versions and architectures matters, which the standard library's hasher does not promise.

/// FNV-1a, 64 bit, over the parts with a separator between them, then finished with the mixer of
/// SplitMix64 so that neighbours such as `web01` and `web02` land far apart.
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/> and Steele et al., OOPSLA 2014.
pub fn stable(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The `stable` hash as a fraction in `0.0..1.0`.
pub fn fraction(parts: &[&[u8]]) -> f64 {
    // An f64 holds 53 bits exactly.
    (stable(parts) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_never_changes_between_versions() {
        assert_eq!(stable(&[b"web01", b"spog"]), 0x476b_caa8_b256_7e3d);
        assert_ne!(stable(&[b"ab", b"c"]), stable(&[b"a", b"bc"]));
    }

    #[test]
    fn neighbouring_hosts_are_spread_evenly() {
        let mut buckets = [0u32; 10];
        for host in 0..10_000 {
            buckets[(fraction(&[format!("web{host:05}").as_bytes()]) * 10.0) as usize] += 1;
        }
        assert!(buckets.iter().all(|&n| (850..1150).contains(&n)), "{buckets:?}");
    }
}
