//! Storage nodes as tests need them: real connections, made-up answers.

use std::cell::Cell;
use std::rc::Rc;

use node_link::{NodeLink, handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use units::{ClusterId, ForkKey, GroupId, Lsn, Page, Position, SegmentId};
use wire_format::frame::{PROTOCOL_VERSION, encode_response};
use wire_format::message::Hello;
use wire_format::{CatalogEntry, CatalogKey, Refusal, Request, Response};

use crate::pages::Copy;

const SEGMENT: SegmentId = SegmentId::from_bytes([3; 16]);

/// How a node answers reads.
pub(crate) enum Node {
    /// With zeroed pages; and it tells what was asked for.
    Tells(mpsc::UnboundedSender<(u32, Lsn)>),
    /// Not at all: it hangs once it has greeted.
    Hangs,
    /// That it does not have the segment.
    Refuses,
    /// With these forks, of ten blocks each, one in each answer.
    HasForks(Vec<ForkKey>),
}

impl Node {
    fn answer(&self, request: &Request) -> Option<Response> {
        match (self, request) {
            (Node::Hangs, _) => None,
            (Node::Refuses, _) => Some(Response::Refused(Refusal::UnknownSegment { segment: SEGMENT })),
            (
                Node::Tells(asked),
                Request::ReadPages {
                    first, count, needed, ..
                },
            ) => {
                asked.send((first.block, needed.lsn)).expect("the test listens");
                Some(Response::Pages(vec![Page::zeroed(); *count as usize]))
            }
            (Node::HasForks(forks), Request::ScanCatalog { after, .. }) => {
                let keys = forks.iter().map(|fork| CatalogKey::ForkBlocks(*fork));
                let next = keys.filter(|key| after.as_ref().is_none_or(|after| after < key)).min();
                let entry = |key| CatalogEntry {
                    key,
                    lsn: Lsn::from_raw(1),
                    value: Some(bytes::Bytes::copy_from_slice(&10_u32.to_le_bytes())),
                };
                Some(Response::Catalog(next.map(entry).into_iter().collect()))
            }
            (_, other) => panic!("the test is about something else: {other:?}"),
        }
    }
}

/// Runs a test on one thread, as everything of the instance runs.
pub(crate) fn on_one_thread(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// A connected copy on a new node.
pub(crate) async fn copy(name: &str, node: Node) -> Rc<Copy> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::task::spawn_local(serve(listener, node));
    let connected = Rc::new(Notify::new());
    let notify = connected.clone();
    let link = NodeLink::start(address, hello(), Rc::default(), move |_| notify.notify_one());
    connected.notified().await;
    Rc::new(Copy {
        group: GroupId::FIRST,
        segment: SEGMENT,
        kind: units::SegmentKind::Full,
        node: name.to_owned(),
        link,
        complete: Cell::new(Position::ZERO),
    })
}

async fn serve(listener: TcpListener, node: Node) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    handshake::welcome(&mut stream, &hello()).await.expect("a greeting");
    let mut buffer = bytes::BytesMut::new();
    loop {
        while let Some((number, request)) = handshake::take_request(&mut buffer).expect("a request") {
            let Some(response) = node.answer(&request) else {
                continue;
            };
            for part in encode_response(number, &response) {
                stream.write_all(&part).await.expect("the instance reads");
            }
        }
        if stream.read_buf(&mut buffer).await.expect("the instance sends") == 0 {
            return;
        }
    }
}

fn hello() -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        cluster: ClusterId::from_bytes([1; 16]),
        secret: [2; 32],
        name: "test".to_owned(),
    }
}
