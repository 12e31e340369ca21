//! Tables become layers, layers become fewer.

use std::sync::Arc;

use crate::fold::Folder;
use crate::key::{Key, Version};
use crate::layer::{Layer, Scan};
use crate::layer_writer::LayerWriter;
use crate::read::ReadError;
use crate::segment_store::order;
use crate::table::Table;

/// The smallest size class of layers; each is four times the one before.
const SIZE_CLASS_BYTES: u64 = 4 << 20;

/// Writes a table out, folded. `None`: nothing of it has to stay. `pace` is called between keys.
pub(crate) fn write_table(
    table: &Table,
    mut folder: Option<&mut Folder<'_>>,
    mut writer: LayerWriter,
    pace: &dyn Fn(),
) -> Result<Option<Layer>, ReadError> {
    for (key, versions) in &table.versions {
        let mut versions = versions.clone();
        match &mut folder {
            Some(folder) => versions = folder.fold(key, versions),
            None => order(&mut versions),
        }
        push_all(&mut writer, key, &versions)?;
        pace();
    }
    writer.finish()
}

fn push_all(writer: &mut LayerWriter, key: &Key, versions: &[Version]) -> Result<(), ReadError> {
    versions
        .iter()
        .try_for_each(|version| writer.push(key, version))
        .map_err(|error| ReadError::io("a new layer", &error))
}

/// The layers to merge next: as many of one size class as the configuration waits for. None that could not be read to its
/// end: it would keep the others from being merged, too.
pub(crate) fn choose(layers: &[Arc<Layer>], merge_layers: usize) -> Option<Vec<Arc<Layer>>> {
    let class = |layer: &Layer| (layer.file_bytes / SIZE_CLASS_BYTES).max(1).ilog(4);
    let sound = || layers.iter().filter(|layer| !layer.is_rotten());
    let mut classes: Vec<u32> = sound().map(|layer| class(layer)).collect();
    classes.sort_unstable();
    classes.dedup();
    classes.into_iter().find_map(|wanted| {
        let same: Vec<Arc<Layer>> = sound().filter(|layer| class(layer) == wanted).cloned().collect();
        (merge_layers <= same.len()).then_some(same)
    })
}

struct Source {
    scan: Scan,
    next: Option<(Key, Version)>,
}

/// Merges layers into one, folded if there is a folder. `None`: nothing has to stay. `pace` is called between keys.
pub(crate) fn merge(
    layers: &[Arc<Layer>],
    mut folder: Option<&mut Folder<'_>>,
    mut writer: LayerWriter,
    pace: &dyn Fn(),
) -> Result<Option<Layer>, ReadError> {
    let mut sources = Vec::new();
    for layer in layers {
        let mut scan = layer.scan(None)?;
        let next = scan.next()?;
        sources.push(Source { scan, next });
    }
    while let Some(key) = sources
        .iter()
        .filter_map(|source| source.next.as_ref())
        .map(|(key, _)| key)
        .min()
        .cloned()
    {
        let mut versions = Vec::new();
        for source in &mut sources {
            while let Some((_, version)) = source.next.take_if(|(found, _)| *found == key) {
                versions.push(version);
                source.next = source.scan.next()?;
            }
        }
        match &mut folder {
            Some(folder) => versions = folder.fold(&key, versions),
            None => order(&mut versions),
        }
        push_all(&mut writer, &key, &versions)?;
        pace();
    }
    writer.finish()
}
