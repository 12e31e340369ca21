//! What the control process is told when it starts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::HeatSettings;

/// Settings of the control process, read from `DIR/config/control.json`, which may be absent. Unknown keys are refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// After how many seconds of silence a storage node's copies are replaced by themselves; null: never. Long enough by
    /// default that a restart of its host, which costs nothing but some catching up, is no reason to copy everything.
    pub replace_after_seconds: Option<u64>,
    /// When copies move away from full and slow disks by themselves; null: never.
    pub heat: Option<HeatSettings>,
}

impl Default for ControlConfig {
    fn default() -> ControlConfig {
        ControlConfig {
            replace_after_seconds: Some(600),
            heat: Some(HeatSettings::default()),
        }
    }
}

impl ControlConfig {
    pub(crate) fn replace_after(&self) -> Option<Duration> {
        self.replace_after_seconds.map(Duration::from_secs)
    }
}
