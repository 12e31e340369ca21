//! Stable endpoints in front of instances that come and go.
