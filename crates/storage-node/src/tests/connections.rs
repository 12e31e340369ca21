//! How many callers there may be at once.

use std::time::{Duration, Instant};

use node_link::handshake;
use tokio::net::TcpStream;

use super::{Caller, Folder, Running, SOON, config, free_address};

#[tokio::test]
async fn a_caller_too_many_is_closed_until_there_is_a_place() {
    let folder = Folder::new("connections");
    let config = config(&folder.0, 1, &free_address().await);
    let node = Running::start(config.clone());
    let mut callers = Vec::new();
    for _ in 0..config.connections_max {
        callers.push(Caller::connect(&config).await);
    }
    let hello = config.hello().unwrap();
    let greeted = async || {
        let mut stream = TcpStream::connect(&config.listen).await.unwrap();
        handshake::greet(&mut stream, &hello).await
    };
    assert!(greeted().await.is_err(), "it is closed without a word");
    callers.pop();
    let began = Instant::now();
    while greeted().await.is_err() {
        assert!(began.elapsed() < SOON, "the place of a caller that went is free");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(callers);
    node.end().unwrap();
    let few = crate::StorageConfig {
        connections_max: 3,
        ..config
    };
    assert!(
        few.hello().is_err(),
        "not even an instance and its peers would find a place"
    );
}
