//! What a reign asks before it begins: the metadata store for its epoch, the files of the instance for its settings.

use std::time::Duration;

use control_plane::message::StoredVolume;
use control_plane::{Client, ControlError};
use node_link::read_secret;
use wire_format::frame::PROTOCOL_VERSION;
use wire_format::message::Hello;

use super::{Ended, broken};
use crate::status::SharedStatus;
use crate::user_settings::UserSettings;
use crate::{InstanceConfig, settings};

const CONTROL_PAUSE: Duration = Duration::from_millis(100);

/// Waits for the metadata store: without it no reign begins.
pub(super) async fn patiently<T>(
    status: &SharedStatus,
    mut ask: impl AsyncFnMut() -> Result<T, ControlError>,
) -> Result<T, Ended> {
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(ControlError::Unreachable { .. }) => {
                status.borrow_mut().activity = "waiting for the control process".to_owned();
                tokio::time::sleep(CONTROL_PAUSE).await;
            }
            Err(error) => return Err(broken("control", &error)),
        }
    }
}

/// Takes the next epoch, unless another instance is to be the writer.
pub(super) async fn take_epoch(
    config: &InstanceConfig,
    control: &Client,
    status: &SharedStatus,
) -> Result<StoredVolume, Ended> {
    let taken = patiently(status, async || control.take_epoch().await).await?;
    // Whoever is to be the writer is named before it takes its epoch: after ours, that is another one's turn.
    match patiently(status, async || control.writer().await).await? {
        Some(writer) if writer.name != config.name => Err(Ended::Replaced(format!("{} is the writer", writer.name))),
        _ => Ok(taken),
    }
}

pub(super) fn read_user_settings(config: &InstanceConfig) -> Result<UserSettings, Ended> {
    UserSettings::read(config).map_err(|error| broken("PostgreSQL's settings", &error))
}

pub(super) fn preload_libraries(config: &InstanceConfig, settings: &UserSettings) -> Result<String, Ended> {
    settings::user_preload_libraries(config, settings).map_err(|error| Ended::Broken(error.to_string()))
}

pub(super) fn hello(config: &InstanceConfig) -> Result<Hello, Ended> {
    Ok(Hello {
        version: PROTOCOL_VERSION,
        cluster: config
            .cluster
            .parse()
            .map_err(|error| broken("configuration, cluster", &error))?,
        secret: read_secret(&config.cluster_secret_file).map_err(Ended::Broken)?,
        name: config.name.clone(),
    })
}
