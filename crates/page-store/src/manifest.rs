//! Which layers there are: one small file, replaced as a whole.

use std::collections::BTreeMap;
use std::io as std_io;

use bytes::Bytes;
use io::Disk;
use units::SegmentId;
use wire_format::CodecError;
use wire_format::codec::{Reader, Writer};

use crate::damage::Loss;
use crate::{journal_files, layer};

const NEXT: &str = "manifest.next";
/// Version of the store's files: manifest, layers and journal.
pub const STORE_VERSION: u32 = 5;
const MAGIC: &[u8; 8] = b"BORMANI1";
/// No layer has a higher number: nobody ever writes so many.
const LAYER_NUMBER_MAX: u64 = 1 << 62;

/// What is known of one segment's layers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct SegmentLayers {
    /// Journal entries below this offset are in layers.
    pub(crate) through_offset: u64,
    pub(crate) layers: Vec<u64>,
    /// What of it is lost. Kept here, since the trace of it may be recycled.
    pub(crate) loss: Loss,
}

/// The manifest's content.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Manifest {
    /// The highest number that a layer was given; the next one gets the one after it.
    pub(crate) last_layer: u64,
    pub(crate) segments: BTreeMap<SegmentId, SegmentLayers>,
}

/// Why there is no manifest to go by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("manifest: {0}")]
    Io(String),
    #[error("manifest is damaged: {0}")]
    Damaged(String),
    #[error("its files have format version {found}, this build reads version {STORE_VERSION}")]
    Version { found: u32 },
}

impl Manifest {
    /// Its name.
    pub(crate) const FILE: &str = "manifest";

    fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(1024);
        out.raw(MAGIC);
        out.varint(u64::from(STORE_VERSION));
        out.varint(self.last_layer);
        out.count(self.segments.len());
        for (segment, layers) in &self.segments {
            out.raw(&segment.bytes());
            out.varint(layers.through_offset);
            out.u8(layers.loss.code());
            out.count(layers.layers.len());
            layers.layers.iter().for_each(|layer| out.varint(*layer));
        }
        let checksum = crc32c::crc32c(out.written());
        out.raw(&checksum.to_le_bytes());
        out.finish()
    }

    fn decode(mut bytes: Bytes) -> Result<Manifest, ManifestError> {
        let damaged = |what: &str| ManifestError::Damaged(what.to_owned());
        let body = bytes.len().checked_sub(4).ok_or_else(|| damaged("too short"))?;
        let checksum = bytes.split_off(body);
        if crc32c::crc32c(&bytes).to_le_bytes()[..] != checksum[..] {
            return Err(damaged("its checksum is another"));
        }
        Manifest::read(Reader::new(bytes)).map_err(|error| damaged(&error.to_string()))?
    }

    fn read(mut input: Reader) -> Result<Result<Manifest, ManifestError>, CodecError> {
        if input.array::<8>("magic")? != *MAGIC {
            return Err(CodecError::Malformed("magic"));
        }
        let found = input.u32("version")?;
        if found != STORE_VERSION {
            return Ok(Err(ManifestError::Version { found }));
        }
        let mut manifest = Manifest {
            last_layer: input.varint("last layer")?,
            ..Manifest::default()
        };
        if LAYER_NUMBER_MAX < manifest.last_layer {
            return Err(CodecError::Malformed("last layer"));
        }
        let is_given = |layer: &u64| (1..=manifest.last_layer).contains(layer);
        for _ in 0..input.count(19, "segments")? {
            let segment = input.segment()?;
            let through_offset = input.varint("offset")?;
            let loss = Loss::from_code(input.u8("loss")?).ok_or(CodecError::Malformed("loss"))?;
            let layers = (0..input.count(1, "layers")?)
                .map(|_| {
                    let layer = input.varint("layer")?;
                    Some(layer).filter(is_given).ok_or(CodecError::Malformed("layer"))
                })
                .collect::<Result<_, CodecError>>()?;
            manifest.segments.insert(
                segment,
                SegmentLayers {
                    through_offset,
                    layers,
                    loss,
                },
            );
        }
        input.finish()?;
        Ok(Ok(manifest))
    }

    /// Journal entries of the segment below this offset are in layers.
    pub(crate) fn through_offset(&self, segment: SegmentId) -> u64 {
        self.segments.get(&segment).map_or(0, |layers| layers.through_offset)
    }

    /// Whether something that the segment once held is lost.
    pub(crate) fn is_damaged(&self, segment: SegmentId) -> bool {
        self.segments
            .get(&segment)
            .is_some_and(|layers| layers.loss != Loss::Nothing)
    }

    /// Whether the segment's batch at this offset of the journal is in layers.
    pub(crate) fn holds(&self, segment: SegmentId, offset: u64) -> bool {
        offset < self.through_offset(segment)
    }

    /// The manifest on the disk, made durable; an empty disk is given one. Files without it are not taken for nothing: it
    /// would be the end of all layers.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Manifest, ManifestError> {
        let io = |error: std_io::Error| ManifestError::Io(error.to_string());
        match disk.read_all(Manifest::FILE) {
            Ok(bytes) => {
                let manifest = Manifest::decode(bytes.into())?;
                // A name that is not durable yet may give way to the manifest before it, which names other layers.
                disk.sync_names("").map_err(io)?;
                Ok(manifest)
            }
            Err(error) if error.kind() == std_io::ErrorKind::NotFound => {
                for folder in [journal_files::FOLDER, layer::FOLDER] {
                    if !disk.list(folder).map_err(io)?.is_empty() {
                        return Err(ManifestError::Damaged(format!("it is missing, but {folder} has files")));
                    }
                }
                let manifest = Manifest::default();
                manifest.save(disk).map_err(io)?;
                Ok(manifest)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Whether the disk, not the operating system's memory of it, names the same layers.
    pub(crate) fn is_stored(&self, disk: &dyn Disk) -> bool {
        let read = || {
            let mut bytes = vec![0; disk.length(Manifest::FILE)? as usize];
            disk.read_at_rest(Manifest::FILE, 0, &mut bytes)?;
            Ok::<_, std_io::Error>(bytes)
        };
        let stored = read().ok().and_then(|bytes| Manifest::decode(bytes.into()).ok());
        // Numbers of layers are given out, and segments known of which there is nothing to say, before anything is written.
        let worth_saying = |manifest: &Manifest| {
            let mut segments = manifest.segments.clone();
            segments.retain(|_, layers| *layers != SegmentLayers::default());
            segments
        };
        stored.is_some_and(|stored| worth_saying(&stored) == worth_saying(self))
    }

    /// Makes this the manifest on the disk, durably.
    pub(crate) fn save(&self, disk: &dyn Disk) -> std_io::Result<()> {
        self.prepare(disk)?;
        Manifest::replace(disk)
    }

    /// Writes what shall replace the manifest on the disk. Until [`Manifest::replace`] nothing has changed.
    pub(crate) fn prepare(&self, disk: &dyn Disk) -> std_io::Result<()> {
        // A longer file of an earlier, failed attempt must not show behind this one.
        disk.remove(NEXT)?;
        disk.write_at(NEXT, 0, &self.encode())?;
        disk.sync(NEXT)
    }

    /// Makes what was prepared the manifest, durably. After an error it may be or not.
    pub(crate) fn replace(disk: &dyn Disk) -> std_io::Result<()> {
        disk.rename(NEXT, Manifest::FILE)?;
        disk.sync_names("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_layer(last_layer: u64, layer: u64) -> Result<Manifest, ManifestError> {
        let of_segment = SegmentLayers {
            layers: vec![layer],
            ..SegmentLayers::default()
        };
        let segments = BTreeMap::from([(SegmentId::from_bytes([1; 16]), of_segment)]);
        Manifest::decode(Manifest { last_layer, segments }.encode())
    }

    #[test]
    fn a_number_that_was_never_given_to_a_layer_is_damage() {
        assert_eq!(with_layer(7, 7).expect("it was given").last_layer, 7);
        for (last_layer, layer) in [(7, 8), (7, 0), (0, 1), (u64::MAX, 1), (LAYER_NUMBER_MAX + 1, 1)] {
            let damaged = with_layer(last_layer, layer);
            assert!(
                matches!(damaged, Err(ManifestError::Damaged(_))),
                "{last_layer} {layer}"
            );
        }
    }
}
