//! The runs of an answer, as they are put together.

use bytes::Bytes;
use wire_format::codec::Writer;
use wire_format::message::VersionsAsked;
use wire_format::versions::{BlockName, Run};

use super::cut::{TableVersions, WantedLayer};
use crate::key::{Key, Version};
use crate::layer::{BLOCK_BYTES, BlockEntry, Layer, pack};
use crate::read::ReadError;
use crate::segment_store::order;

/// Which versions an answer gives: of the keys from `from` on and before `before`.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) asked: &'a VersionsAsked,
    pub(super) from: Option<&'a Key>,
    pub(super) before: Option<&'a Key>,
}

impl Wanted<'_> {
    pub(super) fn has_key(&self, key: &Key) -> bool {
        self.from.is_none_or(|from| from <= key) && self.before.is_none_or(|before| key < before)
    }

    /// Whether the asker sees it and may lack it: what lies on a history that was left is never given.
    pub(super) fn has(&self, version: &Version) -> bool {
        self.asked.after < version.position && self.asked.path.sees(version.position)
    }
}

/// The runs so far, and the bytes of their blocks.
#[derive(Default)]
pub(super) struct Runs {
    runs: Vec<Run>,
    content: Vec<u8>,
}

impl Runs {
    pub(super) fn finish(self) -> (Vec<Run>, Bytes) {
        (self.runs, self.content.into())
    }

    /// What is wanted of a table.
    pub(super) fn add_table(&mut self, wanted: Wanted<'_>, table: &TableVersions) {
        let mut run = RunWriter::new(&mut self.content);
        for of_key in table.chunk_by(|one, other| one.0 == other.0) {
            let key = &of_key[0].0;
            if !wanted.has_key(key) {
                continue;
            }
            let versions = of_key.iter().map(|(_, version)| version);
            let mut versions: Vec<Version> = versions.filter(|version| wanted.has(version)).cloned().collect();
            order(&mut versions);
            versions.iter().for_each(|version| run.push(key, version));
        }
        self.runs.extend(run.finish());
    }

    /// What is wanted of a layer. Blocks that are wanted as a whole are not unpacked.
    pub(super) fn add_layer(&mut self, wanted: Wanted<'_>, layer: &WantedLayer) -> Result<(), ReadError> {
        let WantedLayer { layer, is_all_wanted } = layer;
        let all = &layer.blocks;
        let begin = wanted.from.map_or(Ok(0), |from| all.first_of(from))?;
        let end = wanted.before.map_or(Ok(all.count()), |before| all.before(before))?;
        let mut rest = &all.range(begin..end)?[..];
        let behind = all.walk(end).next(all)?.map(|block| block.first_key);
        let mut run = RunWriter::new(&mut self.content);
        if *is_all_wanted {
            if let Some((first, others)) = rest.split_first()
                && wanted.from.is_some_and(|from| first.first_key < *from)
            {
                run.push_block(wanted, layer, first)?;
                rest = others;
            }
            // The last one may go on behind the range.
            let ends_inside = behind.is_none() && wanted.before.is_none_or(|before| layer.last_key < *before);
            let whole_count = if ends_inside {
                rest.len()
            } else {
                rest.len().saturating_sub(1)
            };
            let (whole, last) = rest.split_at(whole_count);
            // Their keys lie no further behind than the first one of what follows.
            let next = last.first().map(|block| &block.first_key).or(behind.as_ref());
            run.push_whole(layer, whole, next.unwrap_or(&layer.last_key))?;
            rest = last;
        }
        for block in rest {
            run.push_block(wanted, layer, block)?;
        }
        self.runs.extend(run.finish());
        Ok(())
    }

    /// Versions of one key, in their order.
    pub(super) fn add_versions(&mut self, key: &Key, versions: &[Version]) {
        let mut run = RunWriter::new(&mut self.content);
        versions.iter().for_each(|version| run.push(key, version));
        self.runs.extend(run.finish());
    }
}

/// One run as it is put together, at the end of the answer's bytes.
struct RunWriter<'a> {
    content: &'a mut Vec<u8>,
    run: Run,
    block: Writer,
    block_first_key: Option<Key>,
    last_key: Option<Key>,
}

impl RunWriter<'_> {
    fn new(content: &mut Vec<u8>) -> RunWriter<'_> {
        RunWriter {
            content,
            run: Run::default(),
            block: Writer::default(),
            block_first_key: None,
            last_key: None,
        }
    }

    fn push(&mut self, key: &Key, version: &Version) {
        if self.block_first_key.is_none() {
            self.block_first_key = Some(key.clone());
        }
        key.write(&mut self.block);
        version.write(&mut self.block);
        self.run.extent.add(version.position);
        if self.last_key.as_ref() != Some(key) {
            self.last_key = Some(key.clone());
        }
        if BLOCK_BYTES <= self.block.written().len() {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        if let Some(first_key) = self.block_first_key.take() {
            let block = pack(std::mem::take(&mut self.block).written());
            self.run.blocks.push(BlockName {
                first_key: first_key.encode(),
                bytes: block.len() as u32,
                checksum: crc32c::crc32c(&block),
            });
            self.content.extend_from_slice(&block);
        }
    }

    /// What is wanted of a block.
    fn push_block(&mut self, wanted: Wanted<'_>, layer: &Layer, block: &BlockEntry) -> Result<(), ReadError> {
        let mut entries = layer.entries(block)?;
        while let Some((key, version)) = entries.next().map_err(|error| layer.corrupt(&error.to_string()))? {
            if wanted.has_key(&key) && wanted.has(&version) {
                self.push(&key, &version);
            }
        }
        Ok(())
    }

    /// Blocks as they lie in the file, with no key behind `last_key`.
    fn push_whole(&mut self, layer: &Layer, blocks: &[BlockEntry], last_key: &Key) -> Result<(), ReadError> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.close_block();
        layer.read_packed(blocks, self.content)?;
        self.last_key = Some(last_key.clone());
        self.run.extent.add_all(&layer.extent);
        self.run.blocks.extend(blocks.iter().map(|block| BlockName {
            first_key: block.first_key.encode(),
            bytes: block.bytes,
            checksum: block.checksum,
        }));
        Ok(())
    }

    /// The run, if there is anything in it.
    fn finish(mut self) -> Option<Run> {
        self.close_block();
        self.run.last_key = self.last_key?.encode();
        Some(self.run)
    }
}
