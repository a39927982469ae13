//! Any bytes as the pack that a git server sends: it is read or refused, the same in pieces as whole;
//! what is shown of it cannot move a terminal's cursor, and what it may take of the memory is bounded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pmpy::domain::wire::pack::{DeltaBase, ObjectKind, PackError, PackScan};

const LARGEST: u64 = 1 << 20;

fn scan(bytes: &[u8], size: usize) -> Result<(bool, u64, Result<(), PackError>), PackError> {
    let mut scan = PackScan::new(20, LARGEST);
    bytes.chunks(size).try_for_each(|piece| scan.feed(piece))?;
    let base = |id: &pmpy::domain::git::ObjectId| match id.as_bytes()[0] % 3 {
        0 => None,
        1 => Some(DeltaBase::Outside(ObjectKind::Commit)),
        _ => Some(DeltaBase::Inside(u64::from(id.as_bytes()[1]))),
    };
    Ok((scan.is_complete(), scan.memory(), scan.check(base)))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = (usize::from(input.0.max(1)), input.1);
    let whole = scan(bytes, bytes.len().max(1));
    assert_eq!(whole, scan(bytes, size));
    match &whole {
        Ok((_, memory, judged)) => {
            assert!(*memory <= (128 << 20) + 12 * 100_000_000 + 800 * 1000 + 3 * LARGEST);
            if let Err(error) = judged {
                assert!(!error.to_string().contains(|c: char| c.is_control() && c != '\n'));
            }
        }
        Err(error) => assert!(!error.to_string().contains(|c: char| c.is_control() && c != '\n')),
    }
});
