use std::path::PathBuf;

use tokio::sync::watch;

use crate::{Client, ControlError};

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn with_server<T>(folder: &Folder, work: impl AsyncFnOnce(Client) -> T) -> T {
    let socket = folder.0.join("control.sock");
    let (stop, stopping) = watch::channel(false);
    let file = folder.0.join("metadata.redb");
    let (served, outcome) = tokio::join!(crate::run(&file, &socket, stopping), async {
        let client = Client::new(&socket);
        while client.read().await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let outcome = work(client).await;
        let _ = stop.send(true);
        outcome
    });
    served.expect("the server ends as it was told");
    outcome
}

fn folder(name: &str) -> Folder {
    let path = std::env::temp_dir().join(format!("borealis-control-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a temporary folder");
    Folder(path)
}

/// protocol.md, hole 1: whoever takes the next epoch freezes the record for everybody else.
#[tokio::test]
async fn only_the_holder_of_the_taken_epoch_changes_the_record() {
    let folder = folder("epochs");
    with_server(&folder, async |client: Client| {
        client.create("first".to_owned()).await.expect("a new volume");
        assert!(matches!(
            client.create("again".to_owned()).await,
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
async fn what_it_answered_is_there_after_a_restart_and_what_was_reported_is_not() {
    let folder = folder("restart");
    with_server(&folder, async |client: Client| {
        client.create("first".to_owned()).await.expect("a new volume");
        client.take_epoch().await.expect("an epoch");
        client
            .set_writer("instance-1".to_owned(), "127.0.0.1:5500".to_owned())
            .await
            .expect("a writer");
        client.report_durable(2, "0/100".to_owned()).await.expect("a report");
        assert!(client.read().await.expect("the volume").reported_durable.is_some());
    })
    .await;
    with_server(&folder, async |client: Client| {
        let volume = client.read().await.expect("the volume");
        assert_eq!(
            (volume.epoch, volume.record.as_deref(), volume.reported_durable),
            (2, Some("first"), None)
        );
        assert_eq!(
            client.writer().await.expect("an answer").expect("a writer").name,
            "instance-1"
        );
    })
    .await;
}
