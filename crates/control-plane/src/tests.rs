use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::message::{Heartbeat, StorageWish};
use crate::registry::Registry;
use crate::server::{Limits, serve};
use crate::{Client, ControlConfig, ControlError};

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn with_server<T>(folder: &Folder, work: impl AsyncFnOnce(Client) -> T) -> T {
    let limits = Limits {
        connections_max: 4,
        silence_max: Duration::from_millis(300),
    };
    let socket = folder.0.join("control.sock");
    let (stop, stopping) = watch::channel(false);
    let file = folder.0.join("metadata.redb");
    let (served, outcome) = tokio::join!(
        serve(&file, &socket, ControlConfig::default(), None, stopping, limits),
        async {
            let client = Client::new(&socket);
            while client.read().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let outcome = work(client).await;
            let _ = stop.send(true);
            outcome
        }
    );
    served.expect("the server ends as it was told");
    outcome
}

fn folder(name: &str) -> Folder {
    let path = std::env::temp_dir().join(format!("borealis-control-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a temporary folder");
    Folder(path)
}

/// A volume with the record `first`, made in epoch 1.
async fn make_volume(client: &Client) {
    assert_eq!(client.take_epoch().await.expect("an epoch").epoch, 1);
    client.create(1, "first".to_owned()).await.expect("a new volume");
}

/// protocol.md, hole 1: whoever takes the next epoch freezes the record for everybody else.
#[tokio::test]
async fn only_the_holder_of_the_taken_epoch_changes_the_record() {
    let folder = folder("epochs");
    with_server(&folder, async |client: Client| {
        make_volume(&client).await;
        assert!(matches!(
            client.create(1, "again".to_owned()).await,
            Err(ControlError::Refused(_))
        ));
        let two = client.take_epoch().await.expect("an epoch");
        let three = client.take_epoch().await.expect("an epoch");
        assert_eq!((two.epoch, three.epoch), (2, 3));
        let late = client.compare_and_swap(2, two.revision, "two".to_owned()).await;
        assert!(matches!(late, Err(ControlError::Refused(volume)) if volume.epoch == 3));
        let swapped = client
            .compare_and_swap(3, three.revision, "three".to_owned())
            .await
            .expect("the holder");
        assert_eq!(swapped.record.as_deref(), Some("three"));
        let stale = client.compare_and_swap(3, three.revision, "four".to_owned()).await;
        assert!(matches!(stale, Err(ControlError::Refused(_))), "the revision moved on");
    })
    .await;
}

#[tokio::test]
async fn what_it_answered_is_there_after_a_restart() {
    let folder = folder("restart");
    with_server(&folder, async |client: Client| {
        make_volume(&client).await;
        client.take_epoch().await.expect("an epoch");
        client
            .set_writer("instance-1".to_owned(), "127.0.0.1:5500".to_owned())
            .await
            .expect("a writer");
    })
    .await;
    with_server(&folder, async |client: Client| {
        let volume = client.read().await.expect("the volume");
        assert_eq!((volume.epoch, volume.record.as_deref()), (2, Some("first")));
        assert_eq!(
            client.writer().await.expect("an answer").expect("a writer").name,
            "instance-1"
        );
    })
    .await;
}

#[tokio::test]
async fn a_volume_is_made_by_one_plan_and_by_the_holder_of_the_taken_epoch() {
    let folder = folder("plan");
    with_server(&folder, async |client: Client| {
        client.take_epoch().await.expect("an epoch");
        let planned = client.plan("one".to_owned()).await.expect("a plan");
        assert_eq!((planned.plan.as_deref(), planned.record), (Some("one"), None));
    })
    .await;
    with_server(&folder, async |client: Client| {
        let again = client.plan("two".to_owned()).await.expect("the plan there is");
        assert_eq!(
            again.plan.as_deref(),
            Some("one"),
            "an attempt that died had begun by it"
        );
        client.take_epoch().await.expect("the next attempt's epoch");
        let late = client.create(1, "by the first attempt".to_owned()).await;
        assert!(matches!(late, Err(ControlError::Refused(volume)) if volume.record.is_none()));
        let made = client.create(2, "by the second".to_owned()).await.expect("the holder");
        assert_eq!((made.record.as_deref(), made.plan), (Some("by the second"), None));
        let over = client.plan("three".to_owned()).await;
        assert!(
            matches!(over, Err(ControlError::Refused(_))),
            "there is nothing to plan any more"
        );
    })
    .await;
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_and_silent_ones_are_closed() {
    let folder = folder("connections");
    with_server(&folder, async |client: Client| {
        // Each is closed so long after it was accepted, and none is accepted before that.
        let began = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..6 {
            let stream = tokio::net::UnixStream::connect(folder.0.join("control.sock")).await;
            silent.push(stream.expect("the backlog has room"));
        }
        client.read().await.expect("there is a place again");
        assert!(
            Duration::from_millis(250) < began.elapsed(),
            "all places were taken: {:?}",
            began.elapsed()
        );
        drop(silent);
    })
    .await;
}

#[test]
fn what_a_crash_left_of_the_making_is_made_anew() {
    let folder = folder("half");
    let file = folder.0.join("metadata.redb");
    std::fs::write(file.with_extension("new"), "half of a store").expect("a file");
    drop(crate::store::Store::open(&file).expect("a new store"));
    assert!(!file.with_extension("new").exists());
    let again = crate::store::Store::open(&file).expect("the same store");
    assert_eq!(again.read().expect("readable").epoch, 0);
}

#[test]
fn no_store_is_made_where_it_is_not_known_whether_there_is_one() {
    let folder = folder("hidden");
    // Asking for a file below one that is no folder is an error, not an absence.
    let file = folder.0.join("file");
    std::fs::write(&file, "no folder").expect("a file");
    let opened = crate::store::Store::open(&file.join("metadata.redb"));
    assert!(matches!(opened, Err(crate::StoreError::Io { path, .. }) if path.ends_with("metadata.redb")));
}

fn heartbeat(number: u32) -> Heartbeat {
    Heartbeat {
        name: format!("storage-{number}"),
        zone: "a".to_owned(),
        address: format!("127.0.0.1:{number}"),
        disk_used_bytes: 1,
        disk_total_bytes: 2,
        held_bytes: 1,
        sync_us: Some(u64::from(number)),
    }
}

#[tokio::test]
async fn storage_nodes_and_what_is_wanted_of_them_outlive_the_process() {
    let folder = folder("nodes");
    with_server(&folder, async |client: Client| {
        client.heartbeat(heartbeat(1)).await.expect("taken");
        client.heartbeat(heartbeat(2)).await.expect("taken");
        client
            .wish("storage-1".to_owned(), StorageWish::Drain)
            .await
            .expect("known");
        let unknown = client.wish("storage-9".to_owned(), StorageWish::Drain).await;
        assert!(matches!(unknown, Err(ControlError::Failed(what)) if what.contains("no storage node storage-9")));
        client.heartbeat(heartbeat(1)).await.expect("taken");
        let fleet = client.storage().await.expect("an answer");
        assert!(fleet.nodes.iter().all(|node| node.is_alive && !node.is_overdue));
        assert_eq!(fleet.replace_after_ms, Some(600_000));
        let loads: Vec<_> = fleet.nodes.iter().map(|node| (node.held_bytes, node.sync_us)).collect();
        assert_eq!(loads, [(1, Some(1)), (1, Some(2))]);
    })
    .await;
    with_server(&folder, async |client: Client| {
        let fleet = client.storage().await.expect("an answer");
        let wishes: Vec<StorageWish> = fleet.nodes.iter().map(|node| node.wish.clone()).collect();
        assert_eq!(wishes, [StorageWish::Drain, StorageWish::Keep]);
        assert!(
            fleet.nodes.iter().all(|node| !node.is_alive),
            "not heard of since the start"
        );
        client.forget_storage("storage-1".to_owned()).await.expect("done");
        assert_eq!(client.storage().await.expect("an answer").nodes.len(), 1);
    })
    .await;
}

fn replaces_after(seconds: Option<u64>) -> ControlConfig {
    ControlConfig {
        replace_after_seconds: seconds,
        ..ControlConfig::default()
    }
}

#[test]
fn a_silent_node_is_overdue_in_time_that_was_lived_through() {
    let folder = folder("silence");
    let store = crate::store::Store::open(&folder.0.join("metadata.redb")).expect("a new store");
    let mut registry = Registry::load(&store, replaces_after(Some(10))).expect("an empty store");
    for number in [1, 2] {
        assert!(registry.heard(&store, heartbeat(number)).expect("kept"));
    }
    // The machine slept.
    registry.pass(Duration::from_secs(3600));
    let states = |registry: &Registry| -> Vec<(bool, bool)> {
        let fleet = registry.fleet();
        fleet
            .nodes
            .iter()
            .map(|node| (node.is_alive, node.is_overdue))
            .collect()
    };
    assert_eq!(states(&registry), [(true, false); 2]);
    for _ in 0..9 {
        registry.pass(Duration::from_secs(1));
        registry.heard(&store, heartbeat(1)).expect("kept");
    }
    assert_eq!(states(&registry), [(true, false), (false, true)]);
    registry.heard(&store, heartbeat(2)).expect("kept");
    assert_eq!(states(&registry), [(true, false); 2], "it is back");
    let mut never = Registry::load(&store, replaces_after(None)).expect("two nodes");
    (0..1000).for_each(|_| never.pass(Duration::from_secs(1)));
    assert_eq!(states(&never), [(false, false); 2]);
}
