//! The volume's opening, carried out: messages to the copies, and the compare-and-swap in the metadata store.

use std::time::Duration;

use node_link::LinkEvent;
use tokio::time::{Instant, timeout_at};
use volume::{Opened, Opening, OpeningEffect, OpeningError};

use crate::copies::{Copies, LogEvent};
use crate::record::Record;
use crate::reign::Ended;
use crate::rescue::Rescue;
use crate::status::SharedStatus;

const TICK: Duration = Duration::from_millis(5);

/// Opens the volume in the taken epoch. `record` is as it was read with the epoch.
pub(crate) async fn open(
    mut opening: Opening,
    record: &Record,
    copies: &mut Copies,
    mut rescue: Rescue,
    limit: Duration,
    status: &SharedStatus,
) -> Result<Opened, Ended> {
    let began = Instant::now();
    // New copies take as long as there is to copy: what counts is that they get on.
    let mut got_on_at = began;
    let mut ticks = tokio::time::interval(TICK);
    let mut effects = Vec::new();
    for group in rescue.groups(&record.now()) {
        tracing::warn!(%group, "volume.open: it has lost its write quorum, and is to get new copies");
        opening.look_at(group, &mut effects);
    }
    for segment in copies.connected() {
        opening.connected(segment, &mut effects);
    }
    loop {
        for effect in std::mem::take(&mut effects) {
            match effect {
                // A connection that did not take it reports its end, and the next one begins anew.
                OpeningEffect::Send { segment, request } => drop(copies.post(segment, &request)),
                OpeningEffect::Connect(group, members) => {
                    for segment in copies.add(group, &members) {
                        opening.connected(segment, &mut effects);
                    }
                }
                OpeningEffect::Create { node, request } => rescue.create(&node, request),
                OpeningEffect::CompareAndSwap(next) => {
                    let swapped = timeout_at(Instant::now() + limit, record.change(|_| next))
                        .await
                        .map_err(|_| {
                            Ended::Broken(
                                "the metadata store does not say whether the new timeline is recorded".to_owned(),
                            )
                        })?;
                    opening.recorded(swapped, &mut effects).map_err(ended)?;
                }
                OpeningEffect::Opened(opened) => {
                    copies.keep_members(&opened.record);
                    return Ok(*opened);
                }
            }
        }
        if !effects.is_empty() {
            continue;
        }
        rescue.tell(&opening, &mut status.borrow_mut());
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
                let rescued = rescue.tick(&mut opening, &record.now(), &mut effects);
                if rescued.map_err(|error| Ended::Unusable(error.to_string()))? {
                    got_on_at = Instant::now();
                }
                if limit < got_on_at.elapsed() {
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
