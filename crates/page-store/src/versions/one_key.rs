//! Versions of one key that no answer has room for: a part of them, in the order of their positions.

use std::sync::PoisonError;
use std::vec;

use units::Position;
use wire_format::message::VersionsAsked;

use super::End;
use super::runs::{Runs, Wanted};
use crate::key::{Key, Version};
use crate::layer::Scan;
use crate::read::ReadError;
use crate::segment_store::{SegmentStore, order};

/// Where versions of the key come from, in the order of their positions.
enum Source {
    Table(vec::IntoIter<Version>),
    Layer(Box<Scan>),
}

/// A source whose next version is known.
struct Peeked<'a> {
    key: &'a Key,
    wanted: Wanted<'a>,
    above: Position,
    source: Source,
    next: Option<Version>,
    /// The next key that it has.
    behind: Option<Key>,
}

impl Peeked<'_> {
    fn advance(&mut self) -> Result<(), ReadError> {
        loop {
            self.next = match &mut self.source {
                Source::Table(versions) => versions.next(),
                Source::Layer(scan) => match scan.next()? {
                    Some((key, version)) if key == *self.key => Some(version),
                    Some((key, _)) => {
                        self.behind = Some(key);
                        None
                    }
                    None => None,
                },
            };
            let is_skipped = |version: &Version| version.position <= self.above || !self.wanted.has(version);
            if !self.next.as_ref().is_some_and(is_skipped) {
                return Ok(());
            }
        }
    }
}

/// Versions of `key` above the position where the last answer ended, and where the next one begins.
pub(super) fn give(
    segment: &SegmentStore,
    asked: &VersionsAsked,
    key: &Key,
    bytes_max: usize,
) -> Result<(Runs, Option<End>), ReadError> {
    let is_named = asked.from.key == key.encode();
    let wanted = Wanted {
        asked,
        from: Some(key),
        before: None,
    };
    let mut sources = Vec::new();
    // Tables before layers: what moves from one to the other in between is seen twice, never missed.
    for (versions, behind) in from_tables(segment, key) {
        sources.push((Source::Table(versions), behind));
    }
    for layer in segment.layers().iter() {
        if asked.after < layer.extent.newest() && *key <= layer.last_key {
            sources.push((Source::Layer(Box::new(layer.scan(Some(key))?)), None));
        }
    }
    let peeked = sources.into_iter().map(|(source, behind)| {
        let above = if is_named { asked.from.above } else { Position::ZERO };
        let mut peeked = Peeked {
            key,
            wanted,
            above,
            source,
            next: None,
            behind,
        };
        peeked.advance()?;
        Ok(peeked)
    });
    let mut sources = peeked.collect::<Result<Vec<_>, ReadError>>()?;
    let mut given = Vec::new();
    let mut bytes = 0;
    loop {
        let positions = sources
            .iter()
            .filter_map(|source| source.next.as_ref().map(|next| next.position));
        let Some(position) = positions.min() else { break };
        let last = given.last().map_or(Position::ZERO, |last: &Version| last.position);
        if bytes_max <= bytes {
            let mut runs = Runs::default();
            runs.add_versions(key, &given);
            return Ok((runs, Some((key.clone(), last))));
        }
        let mut same = Vec::new();
        for source in &mut sources {
            while let Some(version) = source.next.take_if(|next| next.position == position) {
                same.push(version);
                source.advance()?;
            }
        }
        order(&mut same);
        bytes += same.iter().map(Version::bytes).sum::<usize>();
        given.extend(same);
    }
    let mut runs = Runs::default();
    runs.add_versions(key, &given);
    let behind = sources.into_iter().filter_map(|source| source.behind).min();
    Ok((runs, behind.map(|key| (key, Position::ZERO))))
}

type OfTable = (vec::IntoIter<Version>, Option<Key>);

/// What each table holds of the key, in order, and its next key.
fn from_tables(segment: &SegmentStore, key: &Key) -> Vec<OfTable> {
    let tables = segment.tables.read().unwrap_or_else(PoisonError::into_inner);
    let tables = std::iter::once(&tables.active).chain(tables.frozen.as_deref());
    let of_table = |table: &crate::table::Table| {
        let mut versions = table.versions.get(key).cloned().unwrap_or_default();
        order(&mut versions);
        let mut behind = table.versions.range(key.clone()..).map(|(key, _)| key);
        (versions.into_iter(), behind.find(|next| *next != key).cloned())
    };
    tables.map(of_table).collect()
}
