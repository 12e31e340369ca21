//! Storage nodes as tests need them: real connections, made-up answers.

use std::cell::Cell;
use std::rc::Rc;

use node_link::{NodeLink, handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use units::{ClusterId, Lsn, Page, Position, SegmentId};
use wire_format::frame::{PROTOCOL_VERSION, encode_response};
use wire_format::message::Hello;
use wire_format::{Refusal, Request, Response};

use crate::pages::Copy;

/// How a node answers reads.
pub(crate) enum Node {
    /// With zeroed pages; and it tells what was asked for.
    Tells(mpsc::UnboundedSender<(u32, Lsn)>),
    /// Not at all: it hangs once it has greeted.
    Hangs,
    /// That it does not have the segment.
    Refuses,
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
        segment: SegmentId::from_bytes([3; 16]),
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
            let Request::ReadPages {
                segment,
                first,
                count,
                needed,
                ..
            } = request
            else {
                panic!("not a read: {request:?}");
            };
            let response = match &node {
                Node::Tells(asked) => {
                    asked.send((first.block, needed.lsn)).expect("the test listens");
                    Response::Pages(vec![Page::zeroed(); count as usize])
                }
                Node::Hangs => continue,
                Node::Refuses => Response::Refused(Refusal::UnknownSegment { segment }),
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
