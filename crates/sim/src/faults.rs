//! What goes wrong, and when.

use crate::Broken;
use crate::world::{COPIES, Event, World};
use crate::writer::Stage;

/// Copies that may be lost for good in one history: a quorum is left, so that healing can be demanded.
const LOSSES_MAX: u64 = 2;

impl World {
    /// One thing goes wrong.
    pub(crate) fn fault(&mut self) {
        if !self.faulty() {
            return;
        }
        let node = self.random.below(COPIES as u64) as usize;
        match self.random.below(16) {
            0..=3 => self.crash(node, 5, 600),
            4 => {
                let zone = node / 2;
                self.crash(zone * 2, 200, 900);
                self.crash(zone * 2 + 1, 200, 900);
            }
            5 => {
                // A zone plus one.
                let zone = node / 2;
                for lost in [
                    zone * 2,
                    zone * 2 + 1,
                    (zone * 2 + 2 + self.random.below(4) as usize) % COPIES,
                ] {
                    self.crash(lost, 200, 700);
                }
            }
            6 => (0..COPIES).for_each(|node| self.crash(node, 5, 300)),
            7..=9 => self.pause_a_writer(),
            10 | 11 => self.kill_a_writer(),
            12 => self.new_writer(),
            13 | 14 => {
                let writer = self.random.below(self.writers.len() as u64) as usize;
                self.break_link(writer, node);
            }
            _ => self.lose(node),
        }
        let pause = self.random.millis(5, 120);
        self.schedule(self.now() + pause, Event::Fault);
    }

    /// A node stops, with its power or only its process, and starts again later.
    fn crash(&mut self, node: usize, least_ms: u64, most_ms: u64) {
        let power_cut = self.random.chance(700);
        self.stop_node(node, power_cut);
        let pause = self.random.millis(least_ms, most_ms);
        self.schedule(self.now() + pause, Event::StartNode { node });
    }

    /// A disk loses what it had: it rots, or comes back empty.
    fn lose(&mut self, node: usize) {
        if LOSSES_MAX <= self.losses {
            return;
        }
        if !self.lost_nodes.insert(node) {
            return;
        }
        self.losses += 1;
        self.stop_node(node, true);
        let rots = self.random.chance(500);
        let disk = &mut self.nodes[node].disk;
        if self.broken == Some(Broken::EmptyDiskVouches) {
            disk.wipe();
            disk.bear(&self.births[node]);
        } else if !rots || !disk.rot(&mut self.random) {
            disk.wipe();
        }
        let pause = self.random.millis(5, 200);
        self.schedule(self.now() + pause, Event::StartNode { node });
    }

    fn pause_a_writer(&mut self) {
        let alive: Vec<usize> = self.living().filter(|at| !self.writers[*at].paused).collect();
        if alive.is_empty() {
            return;
        }
        let writer = alive[self.random.below(alive.len() as u64) as usize];
        self.writers[writer].paused = true;
        let pause = self.random.millis(5, 900);
        self.schedule(self.now() + pause, Event::Wake { writer });
    }

    fn kill_a_writer(&mut self) {
        let alive: Vec<usize> = self.living().collect();
        if !alive.is_empty() {
            let writer = alive[self.random.below(alive.len() as u64) as usize];
            self.writers[writer].stage = Stage::Over;
        }
    }

    /// Whoever watches the writers starts a new one when none seems to be there.
    pub(crate) fn supervise(&mut self) {
        if self.living().all(|at| self.writers[at].paused) {
            self.new_writer();
        }
        let pause = self.random.millis(20, 100);
        self.schedule(self.now() + pause, Event::Supervise);
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = usize> {
        (0..self.writers.len()).filter(|at| self.writers[*at].alive())
    }
}
