//! One reign's floor: what lies below it, nobody needs any more.
//!
//! Invariants:
//! - The floor is at most what any read under way needs, what was durable a retention window ago, and the beginning of the log's
//!   last page: that page is made again wherever the writer stops.
//! - Another window is in the volume's record before it counts, so that the next reign keeps no less.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use units::Lsn;
use volume::retention::{self, Retention};
use volume::{FlushParts, VolumeRecord};
use wal::WAL_PAGE_BYTES;
use wire_format::{CatalogEntry, CatalogKey};

use crate::fleet::Fleet;
use crate::record::Record;
use crate::reign::Ended;
use crate::replication::now_us;

/// The floor, and the window that it keeps.
pub(crate) struct Floor {
    record: Rc<Record>,
    /// It says what window somebody asked for.
    fleet: Rc<Fleet>,
    retention: Retention,
    began: Instant,
    /// Another window that is being recorded.
    changing: Option<oneshot::Receiver<bool>>,
}

impl Floor {
    /// Of a reign that begins at `branch`, with the times that its catalog has.
    pub(crate) fn new(record: Rc<Record>, fleet: Rc<Fleet>, saved: Option<&Bytes>, branch: Lsn) -> Floor {
        let window = Duration::from_secs(record.now().retention_seconds);
        let marks = saved.map(|saved| retention::decode_marks(saved));
        if marks == Some(None) {
            tracing::warn!(
                "floor.resume: nobody knows when the volume was durable up to where, so all versions are kept for a window"
            );
        }
        let marks = marks.flatten().unwrap_or_default();
        Floor {
            record,
            fleet,
            retention: Retention::resume(window, marks, now_us().unsigned_abs(), branch),
            began: Instant::now(),
            changing: None,
        }
    }

    /// Where the floor is now. `needed` is what reads under way need.
    pub(crate) fn tick(&mut self, durable: Lsn, needed: Lsn) -> Result<Lsn, Ended> {
        self.follow()?;
        let elapsed = self.began.elapsed();
        self.retention.observe(elapsed, durable);
        let last_page = Lsn::from_raw(durable.raw() - durable.raw() % WAL_PAGE_BYTES);
        Ok(self.retention.floor(elapsed, durable).min(needed).min(last_page))
    }

    /// Another window is recorded, then kept.
    fn follow(&mut self) -> Result<(), Ended> {
        if let Some(changing) = &mut self.changing {
            match changing.try_recv() {
                Ok(true) => {
                    let window = Duration::from_secs(self.record.now().retention_seconds);
                    tracing::info!(?window, "retention.change");
                    self.retention.set_window(window);
                }
                Ok(false) => {
                    let what = "the volume's record was changed by somebody else";
                    return Err(Ended::Broken(what.to_owned()));
                }
                Err(oneshot::error::TryRecvError::Empty) => return Ok(()),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
            self.changing = None;
        }
        let wanted = self.fleet.wanted_retention_seconds();
        let Some(retention_seconds) = wanted.filter(|wanted| *wanted != self.window_seconds()) else {
            return Ok(());
        };
        let (record, (tell, told)) = (self.record.clone(), oneshot::channel());
        self.changing = Some(told);
        tokio::task::spawn_local(async move {
            let changed = record.change(|record| VolumeRecord {
                retention_seconds,
                ..record.clone()
            });
            // Nobody listens if the reign ended meanwhile.
            let _ = tell.send(changed.await);
        });
        Ok(())
    }

    /// The window that is kept.
    pub(crate) fn window_seconds(&self) -> u64 {
        self.retention.window().as_secs()
    }

    /// What the next reign has to know of the times goes with this flush, if it is new.
    pub(crate) fn ride_along(&mut self, flush: &mut FlushParts) {
        // A flush in the middle of a record ends at no boundary: an entry has to be one of a record's.
        if flush.boundary != flush.end {
            return;
        }
        if let Some(times) = self.retention.take_unsaved() {
            flush.catalog.push(CatalogEntry {
                key: CatalogKey::DurableTimes,
                lsn: flush.boundary,
                value: Some(times),
            });
        }
    }
}
