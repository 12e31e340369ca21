//! An engine whose panics are errors.
//!
//! A panic anywhere else ends the node. One that a record brings about in the engine would end every node that is asked for
//! the page, one after the other, and each of them again after its restart. The engine is pure, and nobody looks at what it
//! was making, so nothing is lost: the page is refused with an error, and the node goes on.

use std::sync::Arc;

use engine::{Engine, EngineError, Touch};
use units::{Lsn, Page, PageKey};

/// The engine inside.
pub(crate) struct Contained(pub(crate) Arc<dyn Engine>);

fn contain<R>(end: Lsn, body: impl FnOnce() -> Result<R, EngineError>) -> Result<R, EngineError> {
    telemetry::contain(body).unwrap_or_else(|panic| {
        let what = format!("the engine panicked, which is a bug: {panic}");
        Err(EngineError::Malformed { end, what })
    })
}

impl Engine for Contained {
    fn touches(&self, record: &[u8], end: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        contain(end, || self.0.touches(record, end, touches))
    }

    fn apply(&self, record: &[u8], end: Lsn, key: PageKey, page: &mut Page) -> Result<(), EngineError> {
        contain(end, || self.0.apply(record, end, key, page))
    }
}

#[cfg(test)]
mod tests {
    use units::RelationKey;

    use super::*;

    struct Broken;

    impl Engine for Broken {
        fn touches(&self, record: &[u8], _: Lsn, _: &mut Vec<Touch>) -> Result<(), EngineError> {
            panic!("{} bytes are too many", record.len());
        }

        fn apply(&self, record: &[u8], _: Lsn, _: PageKey, _: &mut Page) -> Result<(), EngineError> {
            assert!(record.is_empty(), "not empty");
            Ok(())
        }
    }

    #[test]
    fn a_panic_of_the_engine_is_an_error() {
        let engine = Contained(Arc::new(Broken));
        let end = Lsn::from_raw(7);
        let error = engine.touches(b"abc", end, &mut Vec::new()).expect_err("it panics");
        assert!(error.to_string().contains("3 bytes are too many"), "{error}");
        let relation = RelationKey {
            tablespace: 1663,
            database: 5,
            relation: 9,
        };
        let (key, mut page) = (relation.fork(0).page(0), Page::zeroed());
        assert_eq!(engine.apply(b"", end, key, &mut page), Ok(()));
        let error = engine.apply(b"abc", end, key, &mut page).expect_err("it panics");
        assert!(error.to_string().contains("not empty"), "{error}");
    }
}
