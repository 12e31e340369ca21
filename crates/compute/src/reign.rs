//! One reign: from its epoch to its end.

mod asking;
mod telling;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use control_plane::Client;
use replication_protocol::Event;
use skeleton::Skeleton;
use tokio::sync::watch;
use tokio::time::Instant;
use units::{Epoch, GroupId, Lsn};
use volume::{Opening, Shipper, ShipperLimits, VolumeRecord};
use wal::Marks;

use crate::InstanceConfig;
use crate::broker::Broker;
use crate::catalog::Catalog;
use crate::copies::Copies;
use crate::fleet::Fleet;
use crate::floor::Floor;
use crate::flush::FlushBuilder;
use crate::growth::Growth;
use crate::log::LogReader;
use crate::membership::Memberships;
use crate::metrics::{LOG_RECEIVED_BYTES, OPEN_SECONDS, POSTGRESQL_STARTS};
use crate::pages::PageSource;
use crate::pauses::Stage;
use crate::postgresql::{self, Postmaster};
use crate::record::Record;
use crate::replication::{Replication, ReplicationError, now_us};
use crate::rescue::Rescue;
use crate::settings::StartFacts;
use crate::shipping::{Shipping, TICK};
use crate::state::StateReader;
use crate::status::SharedStatus;
use crate::user_settings;
use crate::{creation, data_directory, import, open, postgresql_log, settings, shared_memory};
use asking::{hello, patiently, preload_libraries, read_user_settings, take_epoch};

/// How long the end of the log may take to be read: another group's share of it is not worth more.
const LOG_LIMIT: Duration = Duration::from_secs(2);
/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How a reign ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// As it was told to.
    Stopped,
    /// Something broke: the next reign begins.
    Broken(String),
    /// Another instance has the volume: no other reign begins.
    Replaced(String),
    /// Something is wrong that another reign would find again: the process ends, and whoever started it says so.
    Unusable(String),
}

/// A reign that broke, and over what.
pub(crate) fn broken(what: &str, error: &dyn std::fmt::Display) -> Ended {
    Ended::Broken(format!("{what}: {error}"))
}

/// Runs one reign to its end, and tells in `stage` how far it came. When it returns, every process of its PostgreSQL is gone.
pub(crate) async fn reign(
    config: &InstanceConfig,
    status: &SharedStatus,
    fleet: &OnceCell<Rc<Fleet>>,
    stage: &Cell<Stage>,
    stop: watch::Receiver<bool>,
) -> Ended {
    let mut stopping = stop.clone();
    let begun = tokio::select! {
        begun = Reign::begin(config, status, fleet, stage) => begun,
        _ = stopping.wait_for(|stop| *stop) => return Ended::Stopped,
    };
    let mut reign = match begun {
        Ok(reign) => reign,
        Err(ended) => return ended,
    };
    let ended = reign.run(stop).await;
    status.borrow_mut().activity = "ending PostgreSQL".to_owned();
    // At once, never gracefully: a graceful stop would show commits that no quorum acknowledged. After a clean stop there
    // is nothing left to kill.
    if let Err(error) = reign.postmaster.kill_all(KILL_LIMIT) {
        return Ended::Unusable(format!(
            "PostgreSQL does not die, so nothing may take its place: {error}"
        ));
    }
    if let Err(error) = shared_memory::remove_leftover(&config.data_directory()) {
        tracing::warn!(%error, "postgresql.end: a segment of shared memory stays behind");
    }
    if let Err(error) = user_settings::keep_settings(config) {
        tracing::warn!(%error, "settings.keep");
    }
    ended
}

struct Reign<'a> {
    config: &'a InstanceConfig,
    status: &'a SharedStatus,
    stage: &'a Cell<Stage>,
    shipping: Shipping,
    memberships: Memberships,
    floor: Floor,
    postmaster: Postmaster,
    flushes: FlushBuilder,
    growth: Growth,
    copies_known: u64,
    catalog: Rc<RefCell<Catalog>>,
    source: Rc<PageSource>,
    broker: Rc<Broker>,
    _serving: Serving,
    start: Lsn,
    timeline: u32,
    synchronous_name: String,
    bytes_received: u64,
}

/// The page broker's task: it ends with its reign, also with one that never came to start PostgreSQL.
struct Serving(tokio::task::JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<'a> Reign<'a> {
    /// Everything up to the moment at which PostgreSQL is started.
    async fn begin(
        config: &'a InstanceConfig,
        status: &'a SharedStatus,
        fleet: &OnceCell<Rc<Fleet>>,
        stage: &'a Cell<Stage>,
    ) -> Result<Reign<'a>, Ended> {
        let began = Instant::now();
        let control = Client::new(&config.control_socket);
        let hello = hello(config)?;
        let fleet = fleet.get_or_init(|| Fleet::watch(&control, &hello));
        let address = format!("{}:{}", config.listen_address, config.port);
        match patiently(status, async || control.writer().await).await? {
            Some(writer) if writer.name != config.name => {
                return Err(Ended::Replaced(format!("{} is the writer", writer.name)));
            }
            Some(writer) if writer.address == address => {}
            _ => {
                patiently(status, async || {
                    control.set_writer(config.name.clone(), address.clone()).await
                })
                .await?
            }
        }
        // Settings that PostgreSQL does not understand cost neither an epoch nor a timeline.
        let checked = read_user_settings(config)?;
        let mut libraries = preload_libraries(config, &checked)?;
        let mut taken = take_epoch(config, &control, status).await?;
        if taken.record.is_none() {
            creation::create(config, &hello, &control, status, &taken).await?;
            taken = take_epoch(config, &control, status).await?;
        }
        import::clear_scratch(config).map_err(|error| broken("remove what the volume was made from", &error))?;
        let epoch = Epoch::from_raw(taken.epoch);
        let text = taken
            .record
            .ok_or_else(|| Ended::Broken("the volume's record is gone".to_owned()))?;
        let record = VolumeRecord::parse(&text).map_err(|error| Ended::Unusable(error.to_string()))?;
        let volume = record.volume;
        tracing::info!(%volume, %epoch, "volume.open");
        let mut copies = Copies::connect(&record.members(), &hello, Rc::new(Cell::new(0)));
        let opening = Opening::new(epoch, record.clone()).map_err(|error| Ended::Unusable(error.to_string()))?;
        let record = Rc::new(Record::new(&control, epoch, taken.revision, record));
        let limit = Duration::from_millis(config.limits.opening_ms_max);
        let opened = open::open(opening, &record, &mut copies, Rescue::new(fleet.clone()), limit, status).await?;
        stage.set(Stage::Opened);
        OPEN_SECONDS.observe_duration(began.elapsed());
        tracing::info!(%epoch, end = %opened.branch, took = ?began.elapsed(), "volume.opened");

        status.borrow_mut().activity = "making the data directory".to_owned();
        postgresql::clear_predecessor(&config.data_directory(), &config.socket_directory(), KILL_LIMIT)
            .map_err(|error| broken("end an earlier PostgreSQL", &error))?;
        let marks = Marks::decode(&opened.marks).map_err(|error| broken("the marks at the end of the log", &error))?;
        if marks.end != opened.branch {
            return Err(Ended::Unusable(format!(
                "the log ends at {}, but its marks are as of {}",
                opened.branch, marks.end
            )));
        }
        let reader = StateReader {
            copies: copies.of_first_group(),
            epoch,
            at: opened.branch,
            limit,
        };
        let state = |error: crate::state::StateError| broken("the state at the end of the log", &error);
        let (geometry, groups_count) = (opened.record.geometry(), opened.record.groups.len());
        let catalog = reader.catalog(geometry, groups_count).await.map_err(state)?;
        let time = now_us() / 1_000_000;
        let mut log = LogReader::new(&opened.record, opened.path.clone(), &hello, LOG_LIMIT);
        log.know(GroupId::FIRST, copies.of_first_group());
        let inputs = reader
            .skeleton_inputs(&catalog, &mut log, marks, time)
            .await
            .map_err(state)?;
        let wal_file_bytes = inputs.control.wal_file_bytes();
        let skeleton = Skeleton::build(inputs).map_err(|error| broken("the skeleton", &error))?;
        // Again: a writer before this one could change them until now.
        let settings_now = read_user_settings(config)?;
        if settings_now != checked {
            libraries = preload_libraries(config, &settings_now)?;
        }
        data_directory::write(config, &skeleton, &settings_now, catalog.tablespaces())
            .map_err(|error| broken("write the data directory", &error))?;

        let limits = ShipperLimits {
            window_bytes_max: config.limits.window_bytes_max,
            small_flushes_max: config.limits.small_flushes_max,
            retained_bytes_max: config.limits.retained_bytes_max,
        };
        let floor = Floor::new(
            record.clone(),
            fleet.clone(),
            catalog.durable_times.as_ref(),
            opened.branch,
        );
        let mut shipping = Shipping::new(Shipper::of(opened, limits), copies)?;
        let memberships = Memberships::new(fleet.clone(), record.clone());
        let marks = shipping.ship_checkpoint(&skeleton, marks, limit).await?;

        let catalog = Rc::new(RefCell::new(catalog));
        let source = Rc::new(PageSource::new(
            epoch,
            shipping.copies.reads.clone(),
            (catalog.clone(), shipping.groups.clone()),
            shipping.durable(),
            Duration::from_millis(config.limits.page_read_ms_max),
            Duration::from_millis(config.limits.hedge_ms),
        ));
        let broker = Broker::new(
            source.clone(),
            catalog.clone(),
            config.limits.readahead_pages_max,
            config.limits.backends_max,
            wal_file_bytes,
        );
        let serving = Serving(tokio::task::spawn_local({
            let (broker, socket) = (broker.clone(), config.broker_socket());
            async move {
                if let Err(error) = broker.serve(&socket).await {
                    tracing::error!(%error, "broker.serve");
                }
            }
        }));
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|error| broken("random bytes", &error))?;
        let synchronous_name = format!("borealis_{:016x}", u64::from_le_bytes(name));
        let facts = StartFacts {
            start: marks.end,
            synchronous_name: &synchronous_name,
            user_preload_libraries: &libraries,
        };
        let command = settings::command(config, &facts);
        let (postmaster, log) = Postmaster::start(command).map_err(|error| broken("start PostgreSQL", &error))?;
        POSTGRESQL_STARTS.increment();
        postgresql_log::forward(log);
        tracing::info!(pid = postmaster.pid(), took = ?began.elapsed(), "postgresql.start");
        {
            let mut status = status.borrow_mut();
            status.role = Some("writer".to_owned());
            status.epoch = Some(epoch.raw());
            status.postmaster_pid = Some(postmaster.pid());
            status.activity = "starting PostgreSQL".to_owned();
        }
        Ok(Reign {
            flushes: FlushBuilder::new(marks, catalog.clone(), wal_file_bytes, config.limits.flush_bytes_max),
            growth: Growth::new(record, fleet.clone()),
            copies_known: 0,
            config,
            status,
            stage,
            shipping,
            memberships,
            floor,
            postmaster,
            catalog,
            source,
            broker,
            _serving: serving,
            start: marks.end,
            timeline: marks.state.timeline,
            synchronous_name,
            bytes_received: 0,
        })
    }

    /// Ships PostgreSQL's log until something ends the reign.
    async fn run(&mut self, mut stop: watch::Receiver<bool>) -> Ended {
        match self.ship(&mut stop).await {
            Ok(()) => Ended::Stopped,
            Err(ended) => ended,
        }
    }

    async fn ship(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), Ended> {
        let socket = self
            .config
            .socket_directory()
            .join(format!(".s.PGSQL.{}", self.config.port));
        let name = self.synchronous_name.clone();
        let connecting = Replication::start(&socket, &name, self.start, self.timeline);
        tokio::pin!(connecting);
        let mut ticks = tokio::time::interval(TICK);
        let mut replication: Option<Replication> = None;
        let mut durable = self.shipping.durable();
        let mut reported = Lsn::ZERO;
        let mut deadline: Option<Instant> = None;
        loop {
            let room = self.shipping.shipper.can_submit();
            tokio::select! {
                connected = &mut connecting, if replication.is_none() => {
                    replication = Some(connected.map_err(|error| broken("replication", &error))?);
                    self.status.borrow_mut().activity = String::new();
                    self.status.borrow_mut().state = "available".to_owned();
                    self.stage.set(Stage::Available);
                    tracing::info!("instance.available");
                }
                event = self.shipping.copies.events.recv() => {
                    let event = event.ok_or_else(|| Ended::Broken("every connection was closed".to_owned()))?;
                    self.shipping.event(event)?;
                    while let Ok(event) = self.shipping.copies.events.try_recv() {
                        self.shipping.event(event)?;
                    }
                }
                event = next_event(&mut replication), if room => match event {
                    Ok(event) => self.received(event, &mut replication).await?,
                    Err(error) if deadline.is_some() => {
                        tracing::info!(%error, "replication.end");
                        return self.wait_for_the_end().await;
                    }
                    Err(error) => return Err(broken("replication", &error)),
                },
                _ = ticks.tick() => {
                    self.raise_floor()?;
                    self.shipping.tick()?;
                    self.look_after_groups()?;
                    if self.memberships.tick(&self.growth, &mut self.shipping)? {
                        self.source.set_copies(self.shipping.copies.reads.clone());
                    }
                    self.tell();
                    if let Some(how) = self.postmaster.ended().map_err(|error| broken("PostgreSQL", &error))? {
                        if deadline.is_some() {
                            return Ok(());
                        }
                        return Err(Ended::Broken(format!("PostgreSQL ended ({how})")));
                    }
                    if deadline.is_some_and(|deadline| deadline < Instant::now()) {
                        tracing::warn!("instance.stop: PostgreSQL did not end in time and is killed");
                        return Ok(());
                    }
                }
                _ = stop.wait_for(|stop| *stop), if deadline.is_none() => {
                    tracing::info!("instance.stop");
                    self.status.borrow_mut().state = "stopped".to_owned();
                    self.postmaster.stop_fast().map_err(|error| broken("stop PostgreSQL", &error))?;
                    deadline = Some(Instant::now() + Duration::from_millis(self.config.limits.stop_ms_max));
                }
            }
            let now_durable = *durable.borrow_and_update();
            if let Some(replication) = replication.as_mut()
                && reported < now_durable
            {
                reported = now_durable;
                replication
                    .report(now_durable)
                    .await
                    .map_err(|error| broken("replication", &error))?;
            }
        }
    }

    fn raise_floor(&mut self) -> Result<(), Ended> {
        let (durable, needed) = (self.source.durable(), self.source.lowest_read_point());
        let floor = self.floor.tick(durable, needed)?;
        self.shipping.shipper.raise_floor(floor);
        Ok(())
    }

    /// Groups are made before they are needed, and woken when they are read.
    fn look_after_groups(&mut self) -> Result<(), Ended> {
        self.growth.tick(&mut self.catalog.borrow_mut(), &mut self.shipping)?;
        self.shipping.wake_wanted()?;
        if self.copies_known != self.shipping.copies.additions {
            self.copies_known = self.shipping.copies.additions;
            self.source.set_copies(self.shipping.copies.reads.clone());
        }
        Ok(())
    }

    async fn received(&mut self, event: Event, replication: &mut Option<Replication>) -> Result<(), Ended> {
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Wal { start, bytes } => {
                    self.bytes_received += bytes.len() as u64;
                    LOG_RECEIVED_BYTES.add(bytes.len() as u64);
                    self.flushes
                        .push(start, bytes)
                        .map_err(|error| Ended::Unusable(error.to_string()))?;
                }
                Event::Keepalive {
                    reply_requested: true, ..
                } => {
                    if let Some(replication) = replication.as_mut() {
                        let durable = self.shipping.shipper.durable();
                        replication
                            .report(durable)
                            .await
                            .map_err(|error| broken("replication", &error))?;
                    }
                }
                Event::Notice(notice) => tracing::info!(%notice, "replication.notice"),
                _ => {}
            }
            // Whatever came at once goes out at once.
            next = match replication.as_mut() {
                Some(replication) => replication.ready().map_err(|error| broken("replication", &error))?,
                None => None,
            };
        }
        let written_at_us = now_us().unsigned_abs();
        while let Some(mut flush) = self
            .flushes
            .next(written_at_us)
            .map_err(|error| Ended::Unusable(error.to_string()))?
        {
            self.floor.ride_along(&mut flush);
            self.shipping.submit(flush)?;
            // One read is at most a few flushes; the window is looked at before the next read.
        }
        Ok(())
    }

    /// The walsender has ended during a stop: PostgreSQL is nearly gone.
    async fn wait_for_the_end(&mut self) -> Result<(), Ended> {
        let deadline = Instant::now() + Duration::from_millis(self.config.limits.stop_ms_max);
        while Instant::now() < deadline {
            if self
                .postmaster
                .ended()
                .map_err(|error| broken("PostgreSQL", &error))?
                .is_some()
            {
                return Ok(());
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }
}

async fn next_event(replication: &mut Option<Replication>) -> Result<Event, ReplicationError> {
    match replication.as_mut() {
        Some(replication) => replication.next().await,
        None => std::future::pending().await,
    }
}
