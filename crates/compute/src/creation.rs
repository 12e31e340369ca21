//! A new volume: six segments, and the pages of a fresh cluster as its first log.
//!
//! The plan comes first: the volume's and its segments' identities, kept in the metadata store. An attempt takes an epoch, makes
//! what is missing of the planned segments, and writes the import as the log of that epoch, from the beginning. The volume's
//! record is made last, by the holder of the epoch. An attempt that dies on the way leaves planned segments and log that the
//! next attempt's timeline does not see.
//!
//! Invariant: a storage node that holds anything of another volume is never written to. Then the metadata store was lost, and
//! the other volume may be somebody's only copy.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path as FilePath;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use control_plane::message::StoredVolume;
use control_plane::{Client, ControlError};
use skeleton::import::{ImportedFile, classify};
use skeleton::{ControlFile, blob};
use tokio::time::{Instant, timeout_at};
use units::{Epoch, ForkKey, Lsn, PAGE_BYTES, Page, PageKey, Position, SegmentId, VolumeId, fork};
use volume::record::MemberRecord;
use volume::{FlushParts, Share, Shipper, ShipperLimits, VolumeRecord, creation};
use wal::{Marks, WAL_PAGE_BYTES, record_end};
use wire_format::message::Hello;
use wire_format::{CatalogEntry, CatalogKey, Item, Request, Response};

use crate::InstanceConfig;
use crate::copies::Copies;
use crate::import::{self, ImportError};
use crate::last_page::ImportedPage;
use crate::pages::Copy;
use crate::reign::{Ended, broken};
use crate::replication::now_us;
use crate::shipping::Shipping;
use crate::status::SharedStatus;

/// Pages in one flush of the import.
const PAGES_PER_FLUSH: usize = 128;
/// How long the storage nodes may take to be there, and then to take any more of the import.
const NODES_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

fn random<const COUNT: usize>() -> Result<[u8; COUNT], Ended> {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes).map_err(|error| broken("random bytes", &error))?;
    Ok(bytes)
}

/// Makes the cluster, the segments, the first log and the record, in this order. `taken` is the metadata store's entry as it
/// was when this attempt took its epoch.
pub(crate) async fn create(
    config: &InstanceConfig,
    hello: &Hello,
    control: &Client,
    status: &SharedStatus,
    taken: &StoredVolume,
) -> Result<(), Ended> {
    let told = |what: &str| {
        tracing::info!(what, epoch = taken.epoch, "volume.create");
        status.borrow_mut().activity = what.to_owned();
    };
    told("creating the volume: running initdb");
    // Blocking is harmless here: nothing else has begun.
    let data = import::make_cluster(config).map_err(|error| broken("make the first cluster", &error))?;
    let contents = Contents::read(&data).map_err(|error| broken("import the first cluster", &error))?;
    let plan = match &taken.plan {
        Some(plan) => VolumeRecord::parse(plan).map_err(|error| Ended::Unusable(error.to_string()))?,
        None => new_record(config)?,
    };
    let record = creation::begun_anew(&plan, Epoch::from_raw(taken.epoch));
    told("creating the volume: waiting for the storage nodes");
    let copies = Copies::connect(&record.members(), hello, Rc::new(Cell::new(0)));
    let deadline = Instant::now() + NODES_LIMIT;
    refuse_other_volumes(&record, &copies, deadline).await?;
    if taken.plan.is_none() {
        keep_plan(control, &plan).await?;
    }
    create_segments(&record, &copies, deadline).await?;
    told("creating the volume: importing the first pages");
    ship(&record, copies, contents, status).await?;
    match control.create(taken.epoch, record.to_text()).await {
        Ok(_) => {}
        Err(ControlError::Refused(_)) => {
            return Err(Ended::Broken("somebody else made the volume meanwhile".to_owned()));
        }
        Err(error) => return Err(broken("record the new volume", &error)),
    }
    told("the volume is made");
    Ok(())
}

/// Before anything is made that only the plan names.
async fn keep_plan(control: &Client, plan: &VolumeRecord) -> Result<(), Ended> {
    let text = plan.to_text();
    match control.plan(text.clone()).await {
        Ok(volume) if volume.plan.as_ref() == Some(&text) => Ok(()),
        Ok(_) | Err(ControlError::Refused(_)) => {
            Err(Ended::Broken("somebody else has begun to make the volume".to_owned()))
        }
        Err(error) => Err(broken("keep the plan of the new volume", &error)),
    }
}

fn new_record(config: &InstanceConfig) -> Result<VolumeRecord, Ended> {
    let mut members = Vec::new();
    for node in &config.storage {
        members.push(MemberRecord {
            segment: SegmentId::from_bytes(random()?),
            node: node.name.clone(),
            address: node.address.clone(),
            zone: node
                .zone
                .parse()
                .map_err(|error| broken("the zone of a storage node", &error))?,
            kind: units::SegmentKind::Full,
        });
    }
    let record = creation::record(VolumeId::from_bytes(random()?), members);
    let record = creation::with_segments(record, config.segments);
    Ok(VolumeRecord {
        group_blocks: config
            .group_bytes
            .map_or(record.group_blocks, |bytes| bytes / PAGE_BYTES as u64),
        stripe_blocks: match config.stripe_bytes {
            Some(bytes) => (bytes / PAGE_BYTES as u64) as u32,
            None => record.stripe_blocks,
        },
        ..record
    })
}

/// One question to one copy, as soon as it is connected.
async fn ask(copy: &Copy, request: &Request, deadline: Instant) -> Result<Response, Ended> {
    loop {
        match timeout_at(deadline, copy.link.call(request.clone())).await {
            Ok(Ok(Response::Refused(refusal))) => return Err(broken(&copy.node, &refusal)),
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) if deadline < Instant::now() => return Err(broken(&copy.node, &error)),
            Ok(Err(_)) => tokio::time::sleep(PAUSE).await,
            Err(_) => return Err(broken(&copy.node, &"no answer in time")),
        }
    }
}

fn other_answer(copy: &Copy) -> Ended {
    Ended::Broken(format!("{}: an answer to another question", copy.node))
}

/// No volume is made where there is one.
async fn refuse_other_volumes(record: &VolumeRecord, copies: &Copies, deadline: Instant) -> Result<(), Ended> {
    for copy in &copies.reads {
        let Response::Status(status) = ask(copy, &Request::Status, deadline).await? else {
            return Err(other_answer(copy));
        };
        let other = status.segments.iter().find(|segment| segment.volume != record.volume);
        if let Some(other) = other {
            return Err(Ended::Unusable(format!(
                "{} holds volume {}, but the metadata store knows nothing of it: the store (control/metadata.redb) was lost or \
                 replaced and has to be put back; no new volume is made over the old one",
                copy.node, other.volume
            )));
        }
    }
    Ok(())
}

/// Makes those of the planned segments that an earlier attempt has not made.
async fn create_segments(record: &VolumeRecord, copies: &Copies, deadline: Instant) -> Result<(), Ended> {
    for copy in &copies.reads {
        let request =
            creation::create_segment(record, copy.segment).map_err(|error| broken("the new volume", &error))?;
        match ask(copy, &request, deadline).await? {
            Response::SegmentCreated => {}
            _ => return Err(other_answer(copy)),
        }
    }
    Ok(())
}

/// What of a cluster's directory the volume keeps.
struct Contents {
    pages: Vec<(PageKey, Page)>,
    forks: BTreeMap<ForkKey, u32>,
    blobs: BTreeMap<String, Bytes>,
    control: ControlFile,
}

impl Contents {
    fn read(data: &FilePath) -> Result<Contents, ImportError> {
        let mut pages = Vec::new();
        let mut forks = BTreeMap::new();
        let mut blobs = BTreeMap::new();
        for path in import::files(data)? {
            let what = classify(&path).map_err(|error| ImportError::File {
                path: path.clone(),
                what: error.to_string(),
            })?;
            if what == ImportedFile::Ignored {
                continue;
            }
            let bytes = std::fs::read(data.join(&path)).map_err(|source| ImportError::Io {
                what: format!("read {path}"),
                source,
            })?;
            match what {
                ImportedFile::Fork { fork, first_block } => {
                    let blocks = first_block + (bytes.len() / units::PAGE_BYTES) as u32;
                    let known = forks.entry(fork).or_insert(0);
                    *known = blocks.max(*known);
                    pages.extend(import::pages(fork.page(first_block), &path, &bytes)?);
                }
                ImportedFile::Status { array, first_page } => {
                    pages.extend(import::pages(array.fork(fork::MAIN).page(first_page), &path, &bytes)?);
                }
                ImportedFile::Blob(name) => drop(blobs.insert(name, Bytes::from(bytes))),
                ImportedFile::Ignored => {}
            }
        }
        let malformed = |what: String| ImportError::File {
            path: "global/pg_control".to_owned(),
            what,
        };
        let control = blobs
            .get(blob::CONTROL_FILE)
            .ok_or_else(|| malformed("it is missing".to_owned()))?;
        let control = ControlFile::parse(control).map_err(|error| malformed(error.to_string()))?;
        if !control.is_shut_down() {
            return Err(malformed("the cluster was not shut down".to_owned()));
        }
        let mut contents = Contents {
            pages,
            forks,
            blobs,
            control,
        };
        contents.keep_last_page(data)?;
        Ok(contents)
    }

    /// The volume has none of the records of the log so far, but PostgreSQL goes on within their last page.
    fn keep_last_page(&mut self, data: &FilePath) -> Result<(), ImportError> {
        let marks = self.marks();
        let (file_bytes, on_page) = (self.control.wal_file_bytes(), marks.end.raw() % WAL_PAGE_BYTES);
        if on_page == 0 {
            return Ok(());
        }
        let start = Lsn::from_raw(marks.end.raw() - on_page);
        let path = skeleton::wal_file(marks.state.timeline, start, file_bytes);
        let mut bytes = vec![0; usize::try_from(on_page).expect("less than a page")];
        let read =
            File::open(data.join(&path)).and_then(|file| file.read_exact_at(&mut bytes, start.raw() % file_bytes));
        read.map_err(|source| ImportError::Io {
            what: format!("read the end of the log from {path}"),
            source,
        })?;
        let page = ImportedPage {
            end: marks.end,
            bytes: bytes.into(),
        };
        self.blobs.insert(blob::IMPORTED_LOG_END.to_owned(), page.encode());
        Ok(())
    }

    /// The marks at the end of the cluster's log: its shutdown checkpoint.
    fn marks(&self) -> Marks {
        let (start, checkpoint) = (self.control.checkpoint_start(), self.control.checkpoint());
        let bytes = checkpoint.shutdown_record(Lsn::ZERO).len() as u64;
        let end = record_end(start, bytes, self.control.wal_file_bytes());
        Marks::from_checkpoint(&checkpoint, self.control.parameters(), start, end)
    }

    fn catalog(&self, lsn: Lsn) -> Vec<CatalogEntry> {
        let forks = self.forks.iter().map(|(fork, blocks)| {
            let value = Bytes::copy_from_slice(&blocks.to_le_bytes());
            (CatalogKey::ForkBlocks(*fork), value)
        });
        let blobs = self
            .blobs
            .iter()
            .map(|(name, value)| (CatalogKey::Blob(name.clone()), value.clone()));
        let entry = |(key, value)| CatalogEntry {
            key,
            lsn,
            value: Some(value),
        };
        forks.chain(blobs).map(entry).collect()
    }
}

/// The pages as flushes at the lowest LSNs, far below where PostgreSQL's log begins; the last one stands at its end and
/// carries the catalog and the marks.
async fn ship(record: &VolumeRecord, copies: Copies, contents: Contents, status: &SharedStatus) -> Result<(), Ended> {
    let path = record.path().map_err(|error| broken("the new volume", &error))?;
    let limits = ShipperLimits {
        window_bytes_max: 64,
        small_flushes_max: usize::MAX,
        retained_bytes_max: 256 << 20,
    };
    let shipper = Shipper::new(record.volume, path, record.members(), Position::ZERO, Lsn::ZERO, limits);
    let mut shipping = Shipping::new(shipper, copies)?;
    let marks = contents.marks();
    let mut encoded = Vec::new();
    marks.encode(&mut encoded);
    let encoded = Bytes::from(encoded);
    let flushes = contents.pages.chunks(PAGES_PER_FLUSH).count();
    let mut parts: Vec<FlushParts> = Vec::with_capacity(flushes + 1);
    for (pages, end) in contents.pages.chunks(PAGES_PER_FLUSH).zip(1..) {
        let end = Lsn::from_raw(end);
        let image = |(key, page): &(PageKey, Page)| Item::Image {
            end,
            key: *key,
            page: page.clone(),
        };
        parts.push(FlushParts {
            end,
            boundary: end,
            first: Share::of(pages.iter().map(image).collect()),
            marks: encoded.clone(),
            written_at_us: now_us().unsigned_abs(),
            ..FlushParts::default()
        });
    }
    parts.push(FlushParts {
        end: marks.end,
        boundary: marks.end,
        marks: encoded,
        catalog: contents.catalog(marks.end),
        written_at_us: now_us().unsigned_abs(),
        ..FlushParts::default()
    });
    let mut ticks = tokio::time::interval(PAUSE);
    let count = parts.len();
    let mut parts = parts.into_iter().enumerate().peekable();
    let (mut complete, mut moved) = (shipping.shipper.all_complete(), Instant::now());
    // Every copy, not only four: a new volume begins with all it can have.
    while shipping.shipper.all_complete() < marks.end {
        while shipping.shipper.can_submit()
            && let Some((at, flush)) = parts.next()
        {
            status.borrow_mut().activity =
                format!("creating the volume: importing the first pages, {} %", 100 * at / count);
            shipping.submit(flush)?;
        }
        tokio::select! {
            event = shipping.copies.events.recv() => {
                let event = event.ok_or_else(|| Ended::Broken("every connection was closed".to_owned()))?;
                shipping.event(event)?;
            }
            _ = ticks.tick() => shipping.tick()?,
        }
        let now_complete = shipping.shipper.all_complete();
        if complete != now_complete {
            (complete, moved) = (now_complete, Instant::now());
        } else if NODES_LIMIT < moved.elapsed() {
            return Err(Ended::Broken(
                "a storage node takes nothing of the first pages".to_owned(),
            ));
        }
    }
    Ok(())
}
