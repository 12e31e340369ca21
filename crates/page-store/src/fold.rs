//! What may be dropped of one key's versions when they are written anew.

use bytes::Bytes;
use units::{ForkKey, Lsn, PageKey, Position};

use crate::config::StoreConfig;
use crate::key::{Key, Value, Version};
use crate::log::{RANGES_WITH_A_HEADER, Range};
use crate::read::{ReadError, Reading, Truncations};
use crate::segment_store::{Horizon, SegmentStore, order};

/// Folds the versions of one key after the other, with what consecutive keys share remembered.
pub(crate) struct Folder<'a> {
    config: &'a StoreConfig,
    reading: Reading<'a>,
    horizon: &'a Horizon,
    segment: &'a SegmentStore,
    /// Truncations of the fork whose pages are folded.
    truncations: Option<(ForkKey, Truncations)>,
}

impl<'a> Folder<'a> {
    /// Folds versions of `segment` as far as `horizon` allows; `reading` goes along the horizon's path.
    pub(crate) fn new(
        config: &'a StoreConfig,
        reading: Reading<'a>,
        horizon: &'a Horizon,
        segment: &'a SegmentStore,
    ) -> Folder<'a> {
        Folder {
            config,
            reading,
            horizon,
            segment,
            truncations: None,
        }
    }

    /// The versions of `key` that have to stay, in order. `versions` are those at hand: other layers may hold more.
    pub(crate) fn fold(&mut self, key: &Key, mut versions: Vec<Version>) -> Vec<Version> {
        order(&mut versions);
        let path = &self.horizon.path;
        let reign = path.epoch();
        // Invisible from the installed path: a reign that is over and left no place in history for it.
        versions.retain(|version| path.sees(version.position) || reign <= version.position.epoch);
        self.horizon.keep_wanted(&mut versions);
        let fold_point = self.horizon.fold_point();
        let up_to = |point: Lsn| move |version: &Version| version.position.lsn <= point && path.sees(version.position);
        let old = versions.partition_point(up_to(fold_point));
        match key {
            Key::Page(page) if 0 < old => {
                let gone = match self.truncations_of(page.fork) {
                    Ok(truncations) => truncations.last(page.block),
                    Err(error) => {
                        tracing::debug!(segment = %self.segment.id, %page, %error, "store.fold: all versions stay");
                        return versions;
                    }
                };
                let base = versions[..old].iter().rposition(Version::is_base).unwrap_or(0);
                let truncated = versions[..old].partition_point(|version| version.position <= gone);
                versions.drain(..base.max(truncated));
                let old = old - base.max(truncated);
                self.fold_chain(*page, &mut versions, old);
            }
            // Only the newest below the fold point can be asked for.
            Key::Catalog(_) => drop(versions.drain(..old.saturating_sub(1))),
            // The log has the others.
            Key::FlushHeader => {
                let settled = versions.partition_point(up_to(self.horizon.settled_point()));
                drop(versions.drain(..settled.saturating_sub(1)));
            }
            // Those of what lies above are whole: no delta above the fold point goes.
            Key::Records(_) => drop(versions.drain(..old)),
            // The last header at or below the fold point can be asked for. Where the next one is need not be near.
            Key::Flushes(range) => {
                let is_near = Range::of(fold_point).0.saturating_sub(range.0) <= RANGES_WITH_A_HEADER;
                drop(versions.drain(..if is_near { old.saturating_sub(1) } else { old }));
            }
            Key::Truncation(_) | Key::DatabaseDrop { .. } => keep_reaching_lower(&mut versions, old),
            Key::Page(_) | Key::Unreadable => {}
        }
        versions
    }

    fn truncations_of(&mut self, fork: ForkKey) -> Result<&Truncations, ReadError> {
        if self.truncations.as_ref().is_none_or(|(of, _)| *of != fork) {
            let fold_point = self.horizon.fold_point();
            self.truncations = Some((
                fork,
                self.reading
                    .truncations(self.segment, fork, Position::ZERO, fold_point)?,
            ));
        }
        Ok(&self.truncations.as_ref().expect("it was set just now").1)
    }

    /// Makes one image of a long chain of deltas.
    fn fold_chain(&self, page: PageKey, versions: &mut Vec<Version>, old: usize) {
        let chain = &versions[..old];
        let deltas = chain
            .iter()
            .filter(|version| matches!(version.value, Value::Delta { .. }));
        let (count, bytes) = deltas.fold((0, 0), |(count, bytes), delta| (count + 1, bytes + delta.bytes()));
        if count == 0 || (count <= self.config.chain_deltas_max && bytes <= self.config.chain_bytes_max) {
            return;
        }
        let Some(newest) = chain.last().map(|version| version.position) else {
            return;
        };
        // Like any read, not from the chain at hand alone: a record that came late may lie in a table or another layer.
        match self.reading.page(self.segment, page, newest.lsn) {
            Ok(image) => {
                let image = Version {
                    position: newest,
                    value: Value::Image(Bytes::copy_from_slice(image.bytes())),
                };
                versions.splice(..old, [image]);
            }
            // The deltas stay as they are: whoever asks for the page gets the same error.
            Err(error) => tracing::debug!(segment = %self.segment.id, %page, %error, "store.fold"),
        }
    }
}

/// Of the first `old` truncations keeps those that no later one covers.
fn keep_reaching_lower(versions: &mut Vec<Version>, old: usize) {
    let mut reached = u32::MAX;
    let mut at = old;
    while 0 < at {
        at -= 1;
        match versions[at].value {
            Value::Truncation { from_block } if reached <= from_block && at + 1 < old => drop(versions.remove(at)),
            Value::Truncation { from_block } => reached = reached.min(from_block),
            _ => {}
        }
    }
}
