use units::{ForkKey, RelationKey};

use super::*;
use crate::fake_node::{Node, copy, on_one_thread};

const FORK: ForkKey = ForkKey {
    relation: RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 0,
    },
    fork: 0,
};
const HEDGE: Duration = Duration::from_millis(10);

fn source(copies: &[Rc<Copy>], limit: Duration) -> (PageSource, watch::Sender<Lsn>) {
    let (keep, durable) = watch::channel(Lsn::from_raw(5000));
    let copies = copies.to_vec();
    (
        PageSource::new(Epoch::from_raw(7), copies, Default::default(), durable, limit, HEDGE),
        keep,
    )
}

/// The block from whose first page on reads begin with the copy at this place.
fn block_of(copy: u32) -> PageKey {
    FORK.page(copy * AFFINITY_BLOCKS)
}

#[test]
fn two_copies_that_hang_stop_nobody() {
    on_one_thread(async {
        let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let copies = [
            copy("storage-1", Node::Hangs).await,
            copy("storage-2", Node::Hangs).await,
            copy("storage-3", Node::Tells(tell)).await,
        ];
        let (source, _keep) = source(&copies, Duration::from_secs(20));
        let began = Instant::now();
        let pages = source.read(block_of(0), 2, Lsn::from_raw(300)).await;
        assert_eq!(pages.expect("the third copy answers").len(), 2);
        assert!(began.elapsed() < 3 * PATIENCE, "{:?}", began.elapsed());
        assert_eq!(asked.recv().await, Some((0, Lsn::from_raw(300))));
        assert!(source.under_way.borrow().is_empty());
        let left_open: Vec<usize> = copies.iter().map(|copy| copy.link.in_flight()).collect();
        assert_eq!(left_open, [1, 1, 0], "a question that was given up is still open");
    });
}

#[test]
fn a_refusal_does_not_make_a_read_wait_for_a_copy_that_hangs() {
    on_one_thread(async {
        let (tell, _asked) = tokio::sync::mpsc::unbounded_channel();
        let copies = [
            copy("storage-1", Node::Hangs).await,
            copy("storage-2", Node::Refuses).await,
            copy("storage-3", Node::Tells(tell)).await,
        ];
        let (source, _keep) = source(&copies, Duration::from_secs(20));
        let began = Instant::now();
        source.read(block_of(0), 1, Lsn::from_raw(300)).await.expect("a page");
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    });
}

#[test]
fn a_copy_that_hangs_is_asked_last_in_the_end() {
    on_one_thread(async {
        let (tell, _asked) = tokio::sync::mpsc::unbounded_channel();
        let copies = [
            copy("storage-1", Node::Hangs).await,
            copy("storage-2", Node::Tells(tell)).await,
        ];
        let (source, _keep) = source(&copies, Duration::from_secs(20));
        for _ in 0..20 {
            source.read(block_of(0), 1, Lsn::from_raw(300)).await.expect("a page");
        }
        assert_eq!(copies[0].link.in_flight(), 8, "it looks busy, so the others go first");
    });
}

#[test]
fn where_nobody_answers_a_read_ends_with_its_limit() {
    on_one_thread(async {
        let copies = [
            copy("storage-1", Node::Hangs).await,
            copy("storage-2", Node::Refuses).await,
        ];
        let (source, _keep) = source(&copies, Duration::from_millis(300));
        let began = Instant::now();
        let read = timeout_at(
            began + Duration::from_secs(10),
            source.read(block_of(0), 1, Lsn::from_raw(300)),
        );
        let error = read.await.expect("it has a limit").expect_err("nobody answers");
        assert!(matches!(error, ReadPagesError::Unreachable { .. }), "{error}");
        assert!(source.under_way.borrow().is_empty());
    });
}

#[test]
fn a_read_that_is_given_up_does_not_hold_the_floor() {
    on_one_thread(async {
        let copies = [copy("storage-1", Node::Hangs).await];
        let (source, _keep) = source(&copies, Duration::from_secs(20));
        let read = source.read(block_of(0), 1, Lsn::from_raw(300));
        assert!(timeout_at(Instant::now() + HEDGE, read).await.is_err());
        assert!(source.under_way.borrow().is_empty());
    });
}
