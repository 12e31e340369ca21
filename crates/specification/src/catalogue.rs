//! The configurations that are explored: small ones by every test run, larger ones by hand.
//!
//! A name says copies/write/fence, how many flushes each epoch may send, and what else can happen.

use crate::configuration::{Configuration, PLAIN};

const THREE: Configuration = Configuration {
    copies: 3,
    write: 2,
    fence: 2,
    ..PLAIN
};

const FOUR: Configuration = PLAIN;

const SIX: Configuration = Configuration {
    copies: 6,
    write: 4,
    fence: 3,
    ..PLAIN
};

impl Configuration {
    const fn named(self, name: &'static str, flushes: &[u8]) -> Configuration {
        let mut named = Configuration {
            name,
            epochs: flushes.len() as u8,
            ..self
        };
        let mut epoch = 0;
        while epoch < flushes.len() {
            named.flushes[epoch] = flushes[epoch];
            epoch += 1;
        }
        named
    }

    const fn two_groups(self) -> Configuration {
        Configuration {
            groups: 2,
            announcements: true,
            ..self
        }
    }

    const fn with_backtrack(self) -> Configuration {
        Configuration {
            backtrack: true,
            announcements: true,
            ..self
        }
    }

    const fn with_restarts(self) -> Configuration {
        Configuration { restarts: true, ..self }
    }

    const fn with_repair(self) -> Configuration {
        Configuration { repair: true, ..self }
    }

    const fn with_joint_change(self) -> Configuration {
        Configuration {
            joint: true,
            ..self.with_repair()
        }
    }

    const fn with_tails(self) -> Configuration {
        Configuration {
            tails: self.copies / 2,
            ..self
        }
    }

    const fn with_replacements(self) -> Configuration {
        Configuration {
            replacements: true,
            ..self
        }
    }
}

/// What every test run explores to the end.
pub const EVERYDAY: [Configuration; 14] = [
    THREE.named("3/2/2: 2+1+1", &[2, 1, 1]),
    THREE.named("3/2/2: 1+1+1+1", &[1, 1, 1, 1]),
    FOUR.named("4/3/2: 2+1+1", &[2, 1, 1]),
    SIX.named("6/4/3: 2+1", &[2, 1]),
    SIX.named("6/4/3: 1+1+1", &[1, 1, 1]),
    FOUR.with_repair().named("4/3/2: 1+1+1, repair by peers", &[1, 1, 1]),
    FOUR.with_restarts().named("4/3/2: 2+1, restarts", &[2, 1]),
    FOUR.two_groups().named("4/3/2: 1+1, two groups", &[1, 1]),
    SIX.two_groups().named("6/4/3: 1+1, two groups", &[1, 1]),
    SIX.with_joint_change().named("6/4/3: 1+1, joint change", &[1, 1]),
    FOUR.with_replacements()
        .named("4/3/2: 1+0+1, replacement at opening", &[1, 0, 1]),
    FOUR.with_backtrack().named("4/3/2: 1+1+1, backtrack", &[1, 1, 1]),
    FOUR.with_tails().named("4/3/2: 1+1+1, half are tails", &[1, 1, 1]),
    SIX.with_tails().named("6/4/3: 1+1, half are tails", &[1, 1]),
];

/// What is explored by hand, for minutes.
pub const LARGE: [Configuration; 11] = [
    THREE.named("3/2/2: 2+1+1+1", &[2, 1, 1, 1]),
    FOUR.named("4/3/2: 2+2+1", &[2, 2, 1]),
    SIX.named("6/4/3: 2+2", &[2, 2]),
    FOUR.with_repair().named("4/3/2: 2+1+1, repair by peers", &[2, 1, 1]),
    FOUR.with_restarts().named("4/3/2: 1+1+1, restarts", &[1, 1, 1]),
    FOUR.two_groups().named("4/3/2: 2+1, two groups", &[2, 1]),
    THREE.two_groups().named("3/2/2: 1+1+1, two groups", &[1, 1, 1]),
    FOUR.with_joint_change().named("4/3/2: 2+1, joint change", &[2, 1]),
    FOUR.with_joint_change().named("4/3/2: 1+1+1, joint change", &[1, 1, 1]),
    FOUR.with_replacements()
        .named("4/3/2: 1+1+1, replacement at opening", &[1, 1, 1]),
    FOUR.with_backtrack().named("4/3/2: 2+1+1, backtrack", &[2, 1, 1]),
];
