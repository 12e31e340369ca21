//! Whole-system tests: real processes, real PostgreSQL, real kill -9. One program, so that they are linked once and run
//! as many at a time as there are processors; each cluster has its own directory and free ports. Some of them alone:
//! `cargo test --release --package system-tests groups`.

mod acknowledgements;
mod answers_of_stock;
mod bounded;
mod commands;
mod compare_mode;
mod control_process;
mod custom_manager;
mod endpoint;
mod first_light;
mod fleet;
mod groups;
mod half_way_import;
mod heat;
mod index_kinds;
mod log_export;
mod log_files;
mod losses;
mod lost_quorum;
mod metrics;
mod ordinary_sql;
mod overlay_limits;
mod postgresql_log;
mod refusals;
mod replayed;
mod rescue;
mod restarts;
mod scrub;
mod settings;
mod storage_nodes;
mod stranded_node;
mod subscriptions;
mod tablespaces;
mod tail_segments;
