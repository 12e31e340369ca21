//! A copy is replaced: the traces of `notes/protocol.md` about memberships, with the segments, the shipper and the openings that
//! ship. F leaves, G comes.

use crate::cast::{ALL, EVERYBODY, Opener, Six, Store, Writer, begin, id, lsn, member};
use units::Epoch;
use volume::membership::Change;
use volume::record::GroupRecord;
use wire_format::message::{Refusal, Request, Response};

/// A volume with `10@1` on all six, F away since then, and its replacement begun: G exists.
struct Replacing {
    store: Store,
    six: Six,
    writer: Writer,
    change: Change,
}

impl Replacing {
    /// F is to be replaced by G, and nothing is done yet.
    fn planned() -> Replacing {
        let (store, six, writer) = begin();
        let change = Change::new(store.group(), id('F'), member('G'), true).expect("F is a member");
        Replacing {
            store,
            six,
            writer,
            change,
        }
    }

    fn begin() -> Replacing {
        let mut replacing = Replacing::planned();
        assert!(replacing.tick(0).is_none());
        assert!(replacing.six.segment('G').is_copying());
        replacing
    }

    /// One step further: both lists count; what the record is to be.
    fn counted() -> (Replacing, GroupRecord) {
        let mut replacing = Replacing::begin();
        let joint = replacing.act(|change, effects| change.created(effects));
        (replacing, joint.expect("both lists"))
    }

    /// One step further: the record says so.
    fn joint() -> Replacing {
        let (mut replacing, joint) = Replacing::counted();
        replacing.record(joint);
        replacing
    }

    fn tick(&mut self, seconds: u64) -> Option<GroupRecord> {
        self.writer
            .tick_change(&mut self.change, seconds, &mut self.six, &self.store)
    }

    fn act(
        &mut self,
        act: impl FnOnce(&mut Change, &mut Vec<volume::membership::ChangeEffect>),
    ) -> Option<GroupRecord> {
        let mut effects = Vec::new();
        act(&mut self.change, &mut effects);
        self.writer.perform_change(effects, &mut self.six, &self.store)
    }

    fn record(&mut self, group: GroupRecord) {
        self.store.change(group);
        let next = self.act(|change, effects| change.recorded(true, effects));
        assert!(next.is_none());
    }

    /// A flush that arrives at these copies only.
    fn flush(&mut self, names: &str) {
        self.writer.flush();
        self.writer.deliver(&mut self.six, names);
    }

    /// The next opener hears these copies; the writer it makes.
    fn open(&mut self, names: &str) -> Writer {
        let mut opener = self.store.take();
        opener.reach(&mut self.six, names).expect("nothing stands in its way");
        let opened = opener
            .record(&mut self.store, &mut self.six)
            .expect("nobody took an epoch");
        Writer::after(opened, &mut self.six)
    }
}

/// Hole 7a: the old list alone acknowledged what an opener by the other list does not see.
#[test]
fn hole_7_nothing_is_durable_on_one_list_alone() {
    let (mut replacing, joint) = Replacing::counted();
    replacing.flush("ABCF");
    assert_eq!(
        replacing.writer.shipper.durable(),
        lsn(10),
        "three of the new list have it, and G has no vote"
    );
    replacing.store.change(joint);
    replacing.writer.deliver(&mut replacing.six, "D");
    assert_eq!(replacing.writer.shipper.durable(), lsn(20));
    let writer = replacing.open("BCDE");
    assert_eq!(writer.shipper.durable(), lsn(20));
}

/// Hole 7c: three of either list are no fence.
#[test]
fn hole_7_an_opener_waits_for_three_of_each_list() {
    let mut replacing = Replacing::joint();
    replacing.flush("ABCD");
    assert_eq!(replacing.writer.shipper.durable(), lsn(20));
    let mut opener: Opener = replacing.store.take();
    opener
        .reach(&mut replacing.six, "EFG")
        .expect("nothing stands in its way");
    assert_eq!(opener.candidate(), None, "G, with nothing, stands for nobody");
    opener
        .reach(&mut replacing.six, "BCD")
        .expect("nothing stands in its way");
    assert_eq!(opener.candidate(), Some(lsn(20)));
}

/// Hole 9: a new member that promised nothing would serve an old writer.
#[test]
fn hole_9_a_segment_is_born_with_its_makers_promise_and_without_a_vote() {
    let mut replacing = Replacing::joint();
    assert_eq!(replacing.six.segment('G').promised(), Epoch::from_raw(1));
    let writer = replacing.open("ABCDEFG");
    let request = Request::RemoveSegment {
        segment: id('G'),
        epoch: Epoch::from_raw(1),
    };
    assert_eq!(writer.shipper.epoch(), Epoch::from_raw(2));
    let answer = replacing.six.ask('G', &request);
    assert!(
        matches!(answer, Response::Refused(Refusal::StaleEpoch { .. })),
        "{answer:?}"
    );
    replacing.writer.flush();
    replacing.writer.deliver(&mut replacing.six, EVERYBODY);
    assert_eq!(replacing.writer.shipper.durable(), lsn(10));
    assert_eq!(replacing.writer.fenced_by, Some(Epoch::from_raw(2)));
}

#[test]
fn a_copy_is_replaced_while_log_is_written() {
    let mut replacing = Replacing::joint();
    replacing.flush("ABCDG");
    assert!(replacing.tick(1).is_none(), "G has not copied anything");
    replacing.six.copy_all('G', 'A');
    replacing.flush("ABCDEG");
    let last = replacing.tick(2).expect("G is whole");
    assert_eq!(
        last.members.iter().filter(|member| member.segment == id('G')).count(),
        1
    );
    replacing.record(last);
    assert!(replacing.six.is_wiped('F'));
    // G's vote is as good as any other.
    replacing.flush("ABCG");
    assert_eq!(replacing.writer.shipper.durable(), lsn(40));
    let writer = replacing.open("CDEG");
    assert_eq!(writer.shipper.durable(), lsn(40));
}

#[test]
fn a_copy_that_returns_in_time_stays() {
    let mut replacing = Replacing::planned();
    replacing.writer.shipper.disconnected(id('F'));
    assert!(replacing.tick(0).is_none());
    let joint = replacing
        .act(|change, effects| change.created(effects))
        .expect("both lists");
    replacing.record(joint);
    replacing.flush("ABCDE");
    assert!(replacing.tick(1).is_none());
    replacing.writer.reconnect('F');
    replacing.writer.deliver(&mut replacing.six, ALL);
    let last = replacing.tick(2).expect("F has everything");
    assert_eq!(last.members, Store::new().group().members);
    replacing.record(last);
    assert!(replacing.six.is_wiped('G'));
    replacing.flush("ABCF");
    assert_eq!(replacing.writer.shipper.durable(), lsn(30));
}

/// The writer dies at each step, and whoever opens hears as few as it may: everything acknowledged is there, and the change
/// goes on where the record stands.
#[test]
fn a_writer_may_die_at_every_step() {
    for step in 0..5 {
        for heard in ["ABCD", "BCDE", "ABDE", "ACDE"] {
            let (mut replacing, joint) = Replacing::counted();
            let mut acknowledged = 10;
            for reached in 0..step {
                match reached {
                    0 => replacing.store.change(joint.clone()),
                    1 => assert!(
                        replacing
                            .act(|change, effects| change.recorded(true, effects))
                            .is_none()
                    ),
                    2 => replacing.six.copy_all('G', 'A'),
                    _ => {
                        replacing.writer.deliver(&mut replacing.six, EVERYBODY);
                        let last = replacing.tick(3).expect("G is whole");
                        replacing.store.change(last);
                    }
                }
                replacing.flush("ABCDE");
                acknowledged += 10;
                assert_eq!(replacing.writer.shipper.durable(), lsn(acknowledged));
            }
            let mut writer = replacing.open(heard);
            assert_eq!(writer.shipper.durable(), lsn(acknowledged), "step {step}, {heard}");
            let is_joint = replacing.store.group().joining.is_some();
            assert_eq!(is_joint, (1..4).contains(&step));
            assert_eq!(Change::resume(replacing.store.group(), true).is_some(), is_joint);
            writer.flush();
            writer.deliver(&mut replacing.six, "ABCF");
            let settled_on_old = step == 0;
            let expected = if settled_on_old {
                acknowledged + 10
            } else {
                acknowledged
            };
            assert_eq!(
                writer.shipper.durable(),
                lsn(expected),
                "step {step}: A, B, C and F are four of the old list only"
            );
        }
    }
}
