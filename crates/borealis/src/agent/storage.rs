//! More storage nodes, and fewer.

use anyhow::{Context, Result, bail};
use control_plane::Client;
use control_plane::message::StorageWish;

use super::Answer;
use super::orders::{Shared, stop};
use crate::command::storage::{copies_on, record};
use crate::setup;

/// Starts one more.
pub(super) fn add(agent: &Shared, zone: &str) -> Result<Answer> {
    let mut agent = agent.borrow_mut();
    let layout = agent.layout.clone();
    let entry = setup::add_storage(&layout, &mut agent.cluster, zone)?;
    agent.cluster.store(&layout)?;
    agent.add("storage", &entry.name);
    Ok(Answer::Done(format!(
        "{} is being started in zone {}: a spare, until a copy moves to it",
        entry.name, entry.zone
    )))
}

/// Ends one that holds no copies.
pub(super) async fn remove(agent: &Shared, name: &str) -> Result<Answer> {
    let layout = agent.borrow().layout.clone();
    let control = Client::new(&layout.control_socket());
    let cannot_tell =
        "it is not known whether it holds copies\nhint:  `borealis start control` starts the control process";
    // First, so that it gets no copy while it is looked at. One that was never heard of is not known, and has none.
    let fleet = control.storage().await.context(cannot_tell)?;
    let known = fleet.nodes.iter().find(|node| node.name == name);
    if known.is_some() {
        control
            .wish(name.to_owned(), StorageWish::Drain)
            .await
            .context(cannot_tell)?;
    }
    let Some(record) = record(&control).await.context(cannot_tell)? else {
        bail!("the volume is being made\nhint:  try again when `borealis status` shows it");
    };
    let copies = copies_on(&record, name).len();
    if copies != 0 {
        if let Some(known) = known {
            control
                .wish(name.to_owned(), known.wish.clone())
                .await
                .context("leave it as it was")?;
        }
        bail!("{name} holds {copies} copies\nhint:  `borealis storage drain {name}` moves them to other nodes");
    }
    stop(agent, name).await?;
    {
        let mut agent = agent.borrow_mut();
        agent.components.retain(|component| component.name != name);
        agent.cluster.storage.retain(|node| node.name != name);
        agent.cluster.stopped.retain(|stopped| stopped != name);
        agent.cluster.store(&layout)?;
    }
    setup::remove_storage(&layout, name)?;
    control.forget_storage(name.to_owned()).await.context("forget it")?;
    Ok(Answer::Done(format!("{name} is no more")))
}
