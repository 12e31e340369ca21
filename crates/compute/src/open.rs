//! The volume's opening, carried out: messages to the copies, and the compare-and-swap in the metadata store.

use std::time::Duration;

use control_plane::{Client, ControlError};
use node_link::LinkEvent;
use tokio::time::Instant;
use units::Epoch;
use volume::{Opened, Opening, OpeningEffect, OpeningError, VolumeRecord};

use crate::copies::{Copies, LogEvent};
use crate::reign::Ended;
use crate::status::SharedStatus;

const TICK: Duration = Duration::from_millis(5);

/// Opens the volume in the taken epoch. `revision` is the record's as it was read with the epoch.
pub(crate) async fn open(
    mut opening: Opening,
    epoch: Epoch,
    revision: u64,
    copies: &mut Copies,
    control: &Client,
    limit: Duration,
    status: &SharedStatus,
) -> Result<Opened, Ended> {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    let mut effects = Vec::new();
    for segment in copies.connected() {
        opening.connected(segment, &mut effects);
    }
    loop {
        for effect in std::mem::take(&mut effects) {
            match effect {
                // A connection that did not take it reports its end, and the next one begins anew.
                OpeningEffect::Send { segment, request } => drop(copies.post(segment, &request)),
                OpeningEffect::CompareAndSwap(record) => {
                    let swapped = swap(control, epoch, revision, &record).await?;
                    opening.recorded(swapped, &mut effects).map_err(ended)?;
                }
                OpeningEffect::Opened(opened) => return Ok(*opened),
            }
        }
        if !effects.is_empty() {
            continue;
        }
        status.borrow_mut().activity = opening.activity().to_owned();
        tokio::select! {
            event = copies.events.recv() => {
                let Some(LogEvent { segment, event }) = event else {
                    return Err(Ended::Broken("every connection was closed".to_owned()));
                };
                match event {
                    LinkEvent::Connected => opening.connected(segment, &mut effects),
                    LinkEvent::Disconnected => opening.disconnected(segment, &mut effects),
                    LinkEvent::Response(response) => {
                        opening.response(began.elapsed(), segment, response, &mut effects).map_err(ended)?;
                    }
                }
            }
            _ = ticks.tick() => {
                opening.tick(began.elapsed(), &mut effects).map_err(ended)?;
                if limit < began.elapsed() {
                    let missing = opening.missing().join(", ");
                    return Err(Ended::Broken(format!("{} took too long; without an answer: {missing}", opening.activity())));
                }
            }
        }
    }
}

fn ended(error: OpeningError) -> Ended {
    match error {
        OpeningError::Superseded { .. } | OpeningError::Conflict => Ended::Broken(error.to_string()),
        OpeningError::RecordOutdated { .. } | OpeningError::Record(_) | OpeningError::Groups { .. } => {
            Ended::Unusable(error.to_string())
        }
    }
}

/// Whether the record was replaced. If the store does not say, it is read again before anything else happens.
async fn swap(control: &Client, epoch: Epoch, revision: u64, record: &VolumeRecord) -> Result<bool, Ended> {
    const PAUSE: Duration = Duration::from_millis(100);
    const TRIES: u32 = 100;
    let text = record.to_text();
    match control.compare_and_swap(epoch.raw(), revision, text.clone()).await {
        Ok(_) => return Ok(true),
        Err(ControlError::Refused(_)) => return Ok(false),
        Err(error) => tracing::warn!(%error, "record.swap: the outcome is unknown, the record is read again"),
    }
    for _ in 0..TRIES {
        match control.read().await {
            Ok(volume) if volume.epoch == epoch.raw() && volume.record.as_deref() == Some(&text) => return Ok(true),
            Ok(volume) if volume.epoch != epoch.raw() || volume.revision != revision => return Ok(false),
            Ok(_) => match control.compare_and_swap(epoch.raw(), revision, text.clone()).await {
                Ok(_) => return Ok(true),
                Err(ControlError::Refused(_)) => {}
                Err(error) => tracing::debug!(%error, "record.swap"),
            },
            Err(error) => tracing::debug!(%error, "record.read"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Ended::Broken(
        "the metadata store does not say whether the new timeline is recorded".to_owned(),
    ))
}
