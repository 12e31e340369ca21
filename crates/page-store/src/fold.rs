//! What may be dropped of one key's versions when they are written anew.

use bytes::Bytes;
use units::Position;

use crate::config::StoreConfig;
use crate::key::{Key, Value, Version};
use crate::read::{Reading, materialise};
use crate::segment_store::{Horizon, SegmentStore, order};

/// Folds the versions of one key after the other, with what consecutive keys share remembered.
pub(crate) struct Folder<'a> {
    pub(crate) config: &'a StoreConfig,
    pub(crate) reading: Reading<'a>,
    pub(crate) horizon: &'a Horizon,
    pub(crate) segment: &'a SegmentStore,
}

impl Folder<'_> {
    /// The versions of `key` that have to stay, in order. `versions` are those at hand: other layers may hold more.
    pub(crate) fn fold(&self, key: &Key, mut versions: Vec<Version>) -> Vec<Version> {
        order(&mut versions);
        let path = &self.horizon.path;
        let reign = path.epoch();
        // Invisible from the installed path: a reign that is over and left no place in history for it.
        versions.retain(|version| path.sees(version.position) || reign <= version.position.epoch);
        let fold_point = self.horizon.fold_point();
        let foldable = |version: &Version| version.position.lsn <= fold_point && path.sees(version.position);
        let old = versions.partition_point(foldable);
        match key {
            Key::Page(page) => {
                let base = versions[..old].iter().rposition(Version::is_base);
                versions.drain(..base.unwrap_or(0));
                let old = versions.partition_point(foldable);
                self.fold_chain(*page, &mut versions, old);
            }
            // Only the newest below the fold point can be asked for.
            Key::Catalog(_) | Key::FlushHeader => drop(versions.drain(..old.saturating_sub(1))),
            Key::Truncation(_) | Key::DatabaseDrop { .. } => {}
        }
        versions
    }

    /// Makes one image of a long chain of deltas.
    fn fold_chain(&self, page: units::PageKey, versions: &mut Vec<Version>, old: usize) {
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
        match self.image(page, chain, newest) {
            Ok(Some(image)) => {
                let image = Version {
                    position: newest,
                    value: Value::Image(image),
                };
                versions.splice(..old, [image]);
            }
            Ok(None) => drop(versions.drain(..old)),
            // The deltas stay as they are: whoever asks for the page gets the same error.
            Err(error) => tracing::debug!(segment = %self.segment.id, %page, %error, "store.fold"),
        }
    }

    /// The page as of `newest`; `None` if it was truncated away after all of the chain.
    fn image(
        &self,
        page: units::PageKey,
        chain: &[Version],
        newest: Position,
    ) -> Result<Option<Bytes>, crate::read::ReadError> {
        let gone = self.reading.truncated_at(self.segment, page, newest.lsn)?;
        if newest <= gone {
            return Ok(None);
        }
        let image =
            if chain.first().is_some_and(Version::is_base) && chain.iter().all(|version| gone < version.position) {
                materialise(self.reading.engine, page, chain)?
            } else {
                self.reading.page(self.segment, page, newest.lsn)?
            };
        Ok(Some(Bytes::copy_from_slice(image.bytes())))
    }
}
