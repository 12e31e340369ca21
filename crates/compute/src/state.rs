//! PostgreSQL's state as of the volume's end: catalog, transaction status, the end of the log.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use skeleton::blob::Blob;
use skeleton::status_files::{self, StatusRange};
use skeleton::tablespaces::is_in_users_tablespace;
use skeleton::{ControlFile, SkeletonInputs, blob};
use tokio::time::{Instant, timeout_at};
use units::{Epoch, Lsn, Page, PageKey, Position, RelationKey, fork};
use volume::stripes::Geometry;
use wal::Marks;
use wire_format::{CatalogKey, Request, Response};

use crate::catalog::Catalog;
use crate::log::LogReader;
use crate::log_end;
use crate::pages::Copy;

/// Pages asked for at once.
const PAGES_AT_ONCE: u32 = 64;
/// Catalog entries asked for at once. A node answers fewer where they are large.
const ENTRIES_AT_ONCE: u32 = 5000;
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// How long one copy may take for an answer before the next is asked; doubles once all were asked, because all may be slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// No copy could answer.
    #[error("{what} could not be read from any copy: {why}")]
    Unreachable {
        /// What.
        what: &'static str,
        /// What the last one said.
        why: String,
    },
    /// The volume does not have what it must have.
    #[error("the volume has no usable {0}")]
    Missing(&'static str),
    /// The control file is not one.
    #[error(transparent)]
    Control(#[from] skeleton::ControlFileError),
}

/// Reads as of one position, from whichever copy is complete enough.
pub(crate) struct StateReader {
    pub(crate) copies: Vec<Rc<Copy>>,
    pub(crate) epoch: Epoch,
    pub(crate) at: Lsn,
    pub(crate) limit: Duration,
}

impl StateReader {
    /// Asks one copy after the other until one answers with something that `useful` takes.
    pub(crate) async fn ask<T>(
        &self,
        what: &'static str,
        request: impl Fn(&Copy) -> Request,
        useful: impl Fn(Response) -> Result<T, String>,
    ) -> Result<T, StateError> {
        let deadline = Instant::now() + self.limit;
        let mut patience = PATIENCE;
        let mut why = "no copy is connected".to_owned();
        while Instant::now() < deadline {
            let connected = self.copies.iter().filter(|copy| copy.link.is_connected());
            let mut connected: Vec<&Rc<Copy>> = connected.collect();
            // A copy that left a question open comes last.
            connected.sort_by_key(|copy| copy.link.in_flight());
            for copy in connected {
                let limit = deadline.min(Instant::now() + patience);
                let answer = match timeout_at(limit, copy.link.call(request(copy))).await {
                    Ok(Ok(response)) => useful(response),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("no answer in time".to_owned()),
                };
                match answer {
                    Ok(answer) => return Ok(answer),
                    Err(said) => why = format!("{}: {said}", copy.node),
                }
            }
            patience *= 2;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(StateError::Unreachable { what, why })
    }

    /// The whole catalog.
    pub(crate) async fn catalog(&self, geometry: Geometry, groups_count: usize) -> Result<Catalog, StateError> {
        let mut catalog = Catalog::new(geometry, groups_count);
        let mut after: Option<CatalogKey> = None;
        loop {
            let request = |copy: &Copy| Request::ScanCatalog {
                segment: copy.segment,
                epoch: self.epoch,
                read_point: self.at,
                needed: Position::new(self.epoch, self.at),
                after: after.clone(),
                entries_max: ENTRIES_AT_ONCE,
            };
            let entries = self
                .ask("the catalog", request, |response| match response {
                    Response::Catalog(entries) => Ok(entries),
                    other => Err(said(other)),
                })
                .await?;
            // Answers are bounded in bytes, too: a short one is not the last one.
            let Some(last) = entries.last() else {
                return Ok(catalog);
            };
            after = Some(last.key.clone());
            for entry in &entries {
                catalog.take(&entry.key, entry.value.as_ref());
            }
        }
    }

    /// Pages of one fork.
    pub(crate) async fn pages(&self, first: PageKey, count: u32) -> Result<Vec<Page>, StateError> {
        let mut pages = Vec::new();
        while (pages.len() as u32) < count {
            let done = pages.len() as u32;
            let wanted = (count - done).min(PAGES_AT_ONCE);
            let first = first.fork.page(first.block + done);
            let request = |copy: &Copy| Request::ReadPages {
                segment: copy.segment,
                epoch: self.epoch,
                read_point: self.at,
                needed: Position::new(self.epoch, self.at),
                first,
                count: wanted,
            };
            let part = self.ask("pages", request, |response| match response {
                Response::Pages(pages) if pages.len() == wanted as usize => Ok(pages),
                other => Err(said(other)),
            });
            pages.extend(part.await?);
        }
        Ok(pages)
    }

    async fn status(&self, range: &StatusRange, into: &mut BTreeMap<PageKey, Page>) -> Result<(), StateError> {
        for (first, count) in range.runs() {
            let first = range.array.fork(fork::MAIN).page(first);
            let pages = self.pages(first, count).await?;
            into.extend((first.block..).map(|block| first.fork.page(block)).zip(pages));
        }
        Ok(())
    }

    /// Everything that a skeleton is made from.
    pub(crate) async fn skeleton_inputs(
        &self,
        catalog: &Catalog,
        log: &mut LogReader,
        marks: Marks,
        time: i64,
    ) -> Result<SkeletonInputs, StateError> {
        let control = catalog
            .blobs()
            .get(blob::CONTROL_FILE)
            .ok_or(StateError::Missing("control file"))?;
        let control = ControlFile::parse(control)?;
        let mut inputs = SkeletonInputs {
            last_page: log_end::last_page(log, &marks, &control, catalog.blobs().get(blob::IMPORTED_LOG_END)).await,
            control,
            databases: Vec::new(),
            relation_maps: Vec::new(),
            prepared: Vec::new(),
            tablespaces: catalog.tablespaces().map(|(tablespace, _)| tablespace).collect(),
            in_tablespaces: catalog
                .relations()
                .filter(|relation| is_in_users_tablespace(*relation))
                .collect(),
            origins: BTreeMap::new(),
            status_pages: BTreeMap::new(),
            init_forks: Vec::new(),
            time,
            marks,
        };
        for (name, value) in catalog.blobs() {
            match Blob::parse(name) {
                Some(Blob::Database { tablespace, database }) => inputs.databases.push((tablespace, database)),
                Some(Blob::RelationMap { tablespace, database }) => {
                    inputs.relation_maps.push((tablespace, database, value.to_vec()));
                }
                Some(Blob::TwoPhase { transaction }) => inputs.prepared.push((transaction, value.to_vec())),
                Some(Blob::Origin { origin }) => {
                    let position =
                        blob::position(value).ok_or(StateError::Missing("position of a replication origin"))?;
                    inputs.origins.insert(origin, position);
                }
                Some(Blob::ControlFile | Blob::ImportedLogEnd | Blob::Tablespace { .. }) | None => {}
            }
        }
        for range in status_files::needed(&inputs.marks) {
            self.status(&range, &mut inputs.status_pages).await?;
        }
        let oldest = wal::multixact_offset_page(inputs.marks.state.oldest_multixact);
        let oldest = inputs.status_pages.get(&oldest);
        let oldest = oldest.and_then(|page| status_files::oldest_offset(&inputs.marks, page));
        let members = status_files::needed_members(&inputs.marks, oldest);
        self.status(&members, &mut inputs.status_pages).await?;
        let init: Vec<(RelationKey, u32)> = catalog.init_forks().collect();
        for (relation, blocks) in init {
            let pages = self.pages(relation.fork(fork::INIT).page(0), blocks).await?;
            inputs.init_forks.push((relation, pages));
        }
        Ok(inputs)
    }
}

/// What a copy said instead of an answer.
pub(crate) fn said(response: Response) -> String {
    match response {
        Response::Refused(refusal) => refusal.to_string(),
        _ => "an answer to another question".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use units::ForkKey;

    use super::*;
    use crate::broker::Forks;
    use crate::fake_node::{Node, copy, on_one_thread};

    fn fork(relation: u32) -> ForkKey {
        RelationKey {
            tablespace: 1663,
            database: 5,
            relation,
        }
        .fork(fork::MAIN)
    }

    fn reader(copies: Vec<Rc<Copy>>, limit: Duration) -> StateReader {
        let at = Lsn::from_raw(5000);
        StateReader {
            copies,
            epoch: Epoch::from_raw(7),
            at,
            limit,
        }
    }

    #[test]
    fn a_copy_that_hangs_holds_up_one_question_and_not_for_long() {
        on_one_thread(async {
            let (tell, _asked) = tokio::sync::mpsc::unbounded_channel();
            let copies = vec![
                copy("storage-1", Node::Hangs).await,
                copy("storage-2", Node::Tells(tell)).await,
            ];
            let began = Instant::now();
            // Several questions.
            let reader = reader(copies, Duration::from_secs(20));
            let pages = timeout_at(began + 5 * PATIENCE, reader.pages(fork(9).page(0), 5 * PAGES_AT_ONCE));
            let pages = pages.await.expect("within its limit").expect("the second answers");
            assert_eq!(pages.len(), 5 * PAGES_AT_ONCE as usize);
            assert!(began.elapsed() < 2 * PATIENCE, "{:?}", began.elapsed());
        });
    }

    #[test]
    fn where_nobody_answers_the_limit_counts() {
        on_one_thread(async {
            let copies = vec![copy("storage-1", Node::Hangs).await];
            let reader = reader(copies, Duration::from_millis(100));
            let pages = timeout_at(
                Instant::now() + Duration::from_secs(10),
                reader.pages(fork(9).page(0), 1),
            );
            let error = pages.await.expect("within its limit").expect_err("nobody answers");
            assert!(matches!(error, StateError::Unreachable { .. }), "{error}");
        });
    }

    #[test]
    fn a_short_answer_is_not_the_end_of_the_catalog() {
        on_one_thread(async {
            let forks: Vec<ForkKey> = (1..=3).map(fork).collect();
            let copies = vec![copy("storage-1", Node::HasForks(forks.clone())).await];
            let catalog = reader(copies, Duration::from_secs(20))
                .catalog(Geometry::DEFAULT, 1)
                .await;
            let catalog = catalog.expect("the copy answers");
            for fork in forks {
                assert_eq!(catalog.fork(fork).blocks, Some(10), "{fork}");
            }
        });
    }
}
