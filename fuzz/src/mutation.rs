//! Mutations of known inputs, from a seed: what `make test` has in place of a fuzzer.

/// A pseudo-random sequence (SplitMix64): one seed, one sequence, on every machine.
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`; zero if there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit.max(1) as u64) as usize
    }
}

/// Values at which decoders count wrong.
const EDGES: [u64; 8] = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, u64::MAX];

/// Changes one to four things in `input`; `other` is where foreign parts come from.
pub fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len());
        match random.below(7) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = random.number() as u8,
            2 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let count = [1, 2, 4, 8][random.below(4)].min(input.len() - at.min(input.len()));
                input[at..at + count].copy_from_slice(&edge[..count]);
            }
            3 => input.truncate(at),
            4 => {
                let until = at + random.below(input.len() - at.min(input.len()) + 1);
                input.drain(at..until);
            }
            5 => {
                let part = input[at..]
                    .iter()
                    .take(1 + random.below(32))
                    .copied()
                    .collect::<Vec<_>>();
                input.splice(at..at, part);
            }
            _ => {
                let from = random.below(other.len());
                let part = other[from..]
                    .iter()
                    .take(1 + random.below(64))
                    .copied()
                    .collect::<Vec<_>>();
                input.splice(at..at, part);
            }
        }
    }
}
