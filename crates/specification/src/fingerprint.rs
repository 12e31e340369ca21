//! Names for states, 64 bits long.

use std::hash::{Hash, Hasher};

use crate::model::State;

/// No state's fingerprint.
pub(crate) const NOWHERE: u64 = 0;

/// Names a state in 64 bits.
pub(crate) fn fingerprint(state: &State) -> u64 {
    let mut mixer = Mixer::default();
    state.hash(&mut mixer);
    mixer.finish().max(NOWHERE + 1)
}

/// Packs what is written into words, and multiplies each into the sum, whose upper half is folded into the lower one. The same
/// on every machine.
#[derive(Default)]
struct Mixer {
    mixed: u64,
    word: u64,
    filled_bits: u32,
}

impl Mixer {
    fn push(&mut self, value: u64, bits: u32) {
        if u64::BITS < self.filled_bits + bits {
            self.mixed = self.finish();
            (self.word, self.filled_bits) = (0, 0);
        }
        self.word |= value << self.filled_bits;
        self.filled_bits += bits;
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let sum = self.mixed.rotate_left(23) ^ self.word ^ 0xa076_1d64_78bd_642f;
        let product = u128::from(sum) * 0xe703_7ed1_a0b4_28db;
        (product as u64) ^ ((product >> 64) as u64)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, value: u8) {
        self.push(u64::from(value), u8::BITS);
    }

    fn write_u16(&mut self, value: u16) {
        self.push(u64::from(value), u16::BITS);
    }

    fn write_u32(&mut self, value: u32) {
        self.push(u64::from(value), u32::BITS);
    }

    /// Lengths of arrays and numbers of variants: small ones.
    fn write_usize(&mut self, value: usize) {
        assert!(value <= usize::from(u8::MAX));
        self.push(value as u64, u8::BITS);
    }
}

/// A fingerprint is mixed already.
#[derive(Default)]
pub(crate) struct AlreadyMixed(u64);

impl Hasher for AlreadyMixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are keys")
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}
