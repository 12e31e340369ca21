//! One copy's replacement: each step by hand, then random interleavings with every fence that an opener could get.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use quorum::Membership;
use units::{Lsn, SegmentId, Zone};

use crate::CopyStanding;
use crate::membership::{Change, ChangeEffect};
use crate::record::{GroupRecord, MemberRecord};

const COPIES: &str = "ABCDEF";

fn segment(name: char) -> SegmentId {
    SegmentId::from_bytes([name as u8; 16])
}

fn member(name: char) -> MemberRecord {
    MemberRecord {
        segment: segment(name),
        node: format!("storage-{name}"),
        address: String::new(),
        zone: Zone::C,
        kind: units::SegmentKind::Full,
    }
}

fn group() -> GroupRecord {
    GroupRecord {
        group: 0,
        membership_version: 1,
        members: COPIES.chars().map(member).collect(),
        joining: None,
    }
}

fn names(members: &[MemberRecord]) -> String {
    members.iter().map(|member| member.segment.bytes()[0] as char).collect()
}

/// The copies that are there, each complete up to the same LSN unless `but` says otherwise.
fn standing(live: &str, complete: u64, but: &[(char, u64)]) -> Vec<CopyStanding> {
    let one = |name: char| {
        let other = but.iter().find(|(other, _)| *other == name);
        let complete = other.map_or(complete, |(_, complete)| *complete);
        CopyStanding {
            member: member(name).member(),
            live: live.contains(name),
            vouches: 0 < complete,
            complete: Lsn::from_raw(complete),
        }
    };
    "ABCDEFG".chars().map(one).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A change of F to G with its effects in words.
struct Told {
    change: Change,
    effects: Vec<ChangeEffect>,
}

impl Told {
    fn new(is_reversible: bool) -> Told {
        let change = Change::new(&group(), segment('F'), member('G'), is_reversible);
        Told {
            change: change.expect("F is a member"),
            effects: Vec::new(),
        }
    }

    /// One whose joint list is recorded, with F away.
    fn copying(is_reversible: bool) -> Told {
        let mut told = Told::new(is_reversible);
        told.tick(0, standing("ABCDE", 50, &[('G', 0)]));
        told.change.created(&mut told.effects);
        told.change.recorded(true, &mut told.effects);
        told.said();
        told
    }

    fn tick(&mut self, at: u64, standing: Vec<CopyStanding>) {
        self.change.tick(seconds(at), &standing, &mut self.effects);
    }

    fn recorded(&mut self, is_changed: bool) {
        self.change.recorded(is_changed, &mut self.effects);
    }

    fn said(&mut self) -> Vec<String> {
        let words = |effect: ChangeEffect| match effect {
            ChangeEffect::Create(member) => format!("create {}", names(&[member])),
            ChangeEffect::Count { membership, members } => {
                let kind = if membership.is_joint() { "jointly" } else { "alone" };
                let all: BTreeSet<SegmentId> = members.iter().map(|member| member.segment).collect();
                assert_eq!(all, membership.segments(), "log is sent to whoever counts");
                format!(
                    "count {kind} {}",
                    members.iter().map(|member| &member.node[8..]).collect::<String>()
                )
            }
            ChangeEffect::Record(group) => {
                let joining = group.joining.map(|joining| format!("+{}", names(&joining)));
                format!(
                    "record {} {}{}",
                    group.membership_version,
                    names(&group.members),
                    joining.unwrap_or_default()
                )
            }
            ChangeEffect::Remove(member) => format!("remove {}", names(&[member])),
            ChangeEffect::Ended(outcome) => format!("{outcome:?}"),
        };
        self.effects.drain(..).map(words).collect()
    }
}

/// protocol.md, hole 7: counted jointly before the first record and until after the last one.
#[test]
fn a_replacement_goes_through_the_joint_list() {
    let mut told = Told::new(true);
    told.tick(0, standing("ABCDE", 50, &[('G', 0)]));
    assert_eq!(told.said(), ["create G"]);
    told.change.created(&mut told.effects);
    assert_eq!(told.said(), ["count jointly ABCDEFG", "record 2 ABCDEF+ABCDEG"]);
    told.tick(1, standing("ABCDEG", 60, &[('G', 60)]));
    assert!(told.said().is_empty(), "what the record says is not known yet");
    told.recorded(true);
    told.tick(2, standing("ABCDEG", 60, &[('G', 0)]));
    assert!(told.said().is_empty(), "it has nothing yet");
    told.tick(3, standing("ABCDEG", 70, &[('G', 60)]));
    assert_eq!(
        told.said(),
        ["record 3 ABCDEG"],
        "complete up to what was there when the joint list was recorded"
    );
    told.recorded(true);
    assert_eq!(told.said(), ["count alone ABCDEG", "remove F", "Replaced"]);
    told.tick(4, standing("ABCDEFG", 70, &[]));
    told.recorded(true);
    assert!(told.said().is_empty(), "it is over");
}

#[test]
fn a_node_that_does_not_answer_is_asked_again_and_then_given_up() {
    let mut told = Told::new(true);
    for at in [0, 0, 1] {
        told.tick(at, standing("ABCDE", 50, &[]));
    }
    assert_eq!(told.said(), ["create G", "create G"]);
    told.tick(30, standing("ABCDE", 50, &[]));
    assert_eq!(told.said(), ["remove G", "TakenBack"], "nothing was recorded");
}

#[test]
fn a_copy_that_comes_back_complete_stays() {
    let mut told = Told::copying(true);
    told.tick(1, standing("ABCDEG", 60, &[('G', 0)]));
    told.tick(2, standing("ABCDEFG", 70, &[('F', 50), ('G', 0)]));
    assert!(told.said().is_empty(), "it is there, but not complete");
    told.tick(3, standing("ABCDEFG", 80, &[('F', 60), ('G', 0)]));
    assert_eq!(told.said(), ["record 3 ABCDEF"]);
    told.recorded(true);
    assert_eq!(told.said(), ["count alone ABCDEF", "remove G", "TakenBack"]);
}

#[test]
fn a_copy_that_is_to_leave_does_not_stay_because_it_was_there_all_the_time() {
    let mut told = Told::new(true);
    told.tick(0, standing("ABCDEF", 50, &[('G', 0)]));
    told.change.created(&mut told.effects);
    told.recorded(true);
    told.said();
    told.tick(1, standing("ABCDEFG", 60, &[('G', 0)]));
    assert!(told.said().is_empty());
    let mut drained = Told::copying(false);
    drained.tick(1, standing("ABCDEFG", 60, &[('G', 0)]));
    assert!(drained.said().is_empty(), "nor if it shall not, although it was away");
}

#[test]
fn a_new_copy_that_is_gone_too_long_is_given_up() {
    let mut told = Told::copying(true);
    told.tick(1, standing("ABCDEG", 60, &[('G', 0)]));
    told.tick(20, standing("ABCDE", 60, &[('G', 0)]));
    told.tick(25, standing("ABCDEG", 60, &[('G', 0)]));
    told.tick(54, standing("ABCDE", 60, &[('G', 0)]));
    assert!(told.said().is_empty(), "it was there 29 seconds ago");
    told.tick(55, standing("ABCDE", 60, &[('G', 0)]));
    assert_eq!(told.said(), ["record 3 ABCDEF"]);
}

#[test]
fn it_can_be_called_off_at_every_step_but_the_last() {
    let mut told = Told::new(true);
    told.change.abort();
    told.tick(0, standing("ABCDEF", 50, &[]));
    assert_eq!(told.said(), ["remove G", "TakenBack"]);
    let mut told = Told::copying(true);
    told.change.abort();
    told.tick(1, standing("ABCDEG", 60, &[('G', 0)]));
    assert_eq!(told.said(), ["record 3 ABCDEF"]);
    let mut told = Told::copying(true);
    told.tick(1, standing("ABCDEG", 60, &[]));
    told.change.abort();
    told.recorded(true);
    assert_eq!(
        told.said(),
        ["record 3 ABCDEG", "count alone ABCDEG", "remove F", "Replaced"]
    );
}

#[test]
fn a_writer_that_cannot_change_the_record_goes_on_counting_both_lists() {
    let mut told = Told::new(true);
    told.tick(0, standing("ABCDE", 50, &[]));
    told.change.created(&mut told.effects);
    told.said();
    told.recorded(false);
    assert_eq!(told.said(), ["Superseded"]);
    let mut told = Told::copying(true);
    told.tick(1, standing("ABCDEG", 60, &[]));
    told.said();
    told.recorded(false);
    assert_eq!(told.said(), ["Superseded"]);
}

#[test]
fn too_few_copies_do_not_tell_how_far_the_new_one_has_to_come() {
    let mut told = Told::copying(true);
    told.tick(1, standing("ABCG", 60, &[('G', 60)]));
    // D is damaged: it is there, but acknowledges nothing.
    told.tick(2, standing("ABCDG", 60, &[('D', 0), ('G', 60)]));
    assert!(told.said().is_empty());
    told.tick(3, standing("ABCDG", 60, &[('D', 61), ('G', 60)]));
    assert!(told.said().is_empty(), "61 may have been acknowledged");
    told.tick(4, standing("ABCDG", 61, &[]));
    assert_eq!(told.said(), ["record 3 ABCDEG"]);
}

/// What a group that nobody ever wrote is complete up to is nothing, and a new copy of it is whole with that.
#[test]
fn a_copy_of_a_group_that_nobody_wrote_is_replaced_like_any_other() {
    let empty = |voting: &str| {
        let mut standing = standing("ABCDEG", 0, &[]);
        for copy in &mut standing {
            copy.vouches = copy.live && voting.contains(copy.member.segment.bytes()[0] as char);
        }
        standing
    };
    let mut told = Told::copying(true);
    told.tick(1, empty("ABCG"));
    assert!(
        told.said().is_empty(),
        "three of the old list do not know how much there is"
    );
    told.tick(2, empty("ABCDE"));
    assert!(told.said().is_empty(), "it is not whole yet");
    told.tick(3, empty("ABCDEG"));
    assert_eq!(told.said(), ["record 3 ABCDEG"]);
}

#[test]
fn the_next_reign_goes_on_where_the_record_stands() {
    let joint = group().joint(segment('F'), member('G'));
    let change = Change::resume(&joint, true).expect("two lists");
    assert_eq!((change.leaving(), change.joining()), (&member('F'), &member('G')));
    let mut told = Told {
        change,
        effects: Vec::new(),
    };
    told.tick(0, standing("ABCDEG", 60, &[]));
    assert_eq!(told.said(), ["record 3 ABCDEG"]);
    assert!(Change::resume(&group(), true).is_none(), "nothing is under way");
    assert!(
        Change::new(&joint, segment('A'), member('H'), true).is_none(),
        "one change of a group at a time"
    );
    assert!(
        Change::new(&group(), segment('X'), member('H'), true).is_none(),
        "not a member"
    );
    assert!(
        Change::new(&group(), segment('A'), member('B'), true).is_none(),
        "a member already"
    );
}

/// Seven copies, the record, and writers that follow each other. What a copy has not acknowledged an opener may miss.
struct Model {
    /// Up to where each of A to G is complete; G counts only once it is whole.
    complete: [u64; 7],
    present: [bool; 7],
    exists: bool,
    /// G is no copy in the making any more.
    whole: bool,
    sent: u64,
    acknowledged: u64,
    record: GroupRecord,
    /// A change of the record that is on its way, and whether the store has made it.
    asked: Option<(GroupRecord, bool)>,
    counting: Membership,
    change: Option<Change>,
    now: u64,
}

impl Model {
    fn new() -> Model {
        Model {
            complete: [1; 7],
            present: [true; 7],
            exists: false,
            whole: false,
            sent: 1,
            acknowledged: 1,
            record: group(),
            asked: None,
            counting: group().membership(),
            change: Change::new(&group(), segment('F'), member('G'), true),
            now: 0,
        }
    }

    /// What a copy acknowledges: one that is being copied acknowledges nothing.
    fn vote(&self, copy: usize) -> u64 {
        if copy == 6 && !self.whole {
            0
        } else {
            self.complete[copy]
        }
    }

    fn votes(&self) -> impl Fn(SegmentId) -> Lsn + '_ {
        |segment| Lsn::from_raw(self.vote(usize::from(segment.bytes()[0] - b'A')))
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.acknowledged.max(self.counting.durable(self.votes()).raw());
    }

    fn act(&mut self, action: u8, copy: usize) {
        match action {
            // Log is sent, and taken by a copy that is there.
            0 => self.sent += 1,
            1 | 2 if self.present[copy] && (copy != 6 || self.exists) => {
                self.complete[copy] = self.sent;
                self.acknowledge();
            }
            3 => self.present[copy] = !self.present[copy],
            // G has copied everything that one source has, which may be less than what was acknowledged, and votes from now on.
            4 if self.exists && self.present[6] && !self.whole => {
                self.complete[6] = self.complete[copy % 6].max(self.complete[6]);
                self.whole = 0 < self.complete[6];
            }
            5 => self.now += 7,
            6 => self.answer(),
            7 => {
                if let Some((group, done @ false)) = &mut self.asked {
                    (self.record, *done) = (group.clone(), true);
                }
            }
            8 if copy == 0 => self.next_reign(),
            _ => self.tick(),
        }
    }

    fn tick(&mut self) {
        let one = |copy: usize| CopyStanding {
            member: member(char::from(b'A' + copy as u8)).member(),
            live: self.present[copy],
            vouches: 0 < self.vote(copy),
            complete: Lsn::from_raw(self.vote(copy)),
        };
        let standing: Vec<CopyStanding> = (0..7).map(one).collect();
        let mut effects = Vec::new();
        if let Some(change) = &mut self.change {
            change.tick(seconds(self.now), &standing, &mut effects);
        }
        self.perform(effects);
    }

    fn answer(&mut self) {
        let mut effects = Vec::new();
        match (&mut self.change, &self.asked) {
            (Some(change), Some((_, true))) => {
                change.recorded(true, &mut effects);
                self.asked = None;
            }
            (Some(change), None) if self.exists => change.created(&mut effects),
            _ => {}
        }
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<ChangeEffect>) {
        for effect in effects {
            match effect {
                ChangeEffect::Create(_) => self.exists = true,
                ChangeEffect::Count { membership, .. } => {
                    self.counting = membership;
                    self.acknowledge();
                }
                ChangeEffect::Record(group) => self.asked = Some((group, false)),
                ChangeEffect::Remove(loser) => {
                    if loser.segment == segment('G') {
                        (self.exists, self.whole, self.complete[6]) = (false, false, 0);
                    } else {
                        self.complete[5] = 0;
                    }
                }
                ChangeEffect::Ended(_) => {
                    self.change = Change::new(&self.record, segment('F'), member('G'), true);
                }
            }
        }
    }

    /// The writer dies; what it asked of the store is done or not. The next one fences by the record, finds the end from the
    /// copies that promise, and brings a writable set up to it: as many as are there, or nothing happens.
    fn next_reign(&mut self) {
        let fence = self.record.membership();
        let promising: BTreeSet<SegmentId> = (0..7)
            .filter(|copy| self.present[*copy] && 0 < self.vote(*copy))
            .map(|copy| segment(char::from(b'A' + copy as u8)))
            .collect();
        if !fence.writable(&promising) {
            return;
        }
        let end = (0..7)
            .filter(|copy| self.present[*copy])
            .map(|copy| self.vote(copy))
            .max()
            .unwrap_or(0);
        for copy in (0..7)
            .filter(|copy| self.present[*copy] && 0 < self.vote(*copy))
            .collect::<Vec<_>>()
        {
            self.complete[copy] = end;
        }
        (self.sent, self.asked, self.counting) = (end, None, fence);
        self.change = Change::resume(&self.record, true);
        self.acknowledge();
    }

    /// Every set of copies that an opener may hear, by the record as it is, includes one with everything acknowledged.
    fn check(&self) {
        let fence = self.record.membership();
        for chosen in 0_u32..1 << 7 {
            let heard: Vec<usize> = (0..7)
                .filter(|copy| chosen >> copy & 1 == 1 && 0 < self.vote(*copy))
                .collect();
            let promised = heard
                .iter()
                .map(|copy| segment(char::from(b'A' + *copy as u8)))
                .collect();
            if fence.fenced(&promised) {
                let found = heard.iter().map(|copy| self.vote(*copy)).max().unwrap_or(0);
                assert!(
                    self.acknowledged <= found,
                    "{} was acknowledged, but {heard:?} know only {found} of it; votes {:?}, record {:?}",
                    self.acknowledged,
                    (0..7).map(|copy| self.vote(copy)).collect::<Vec<_>>(),
                    self.record,
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever comes in between (copies that go and return, a writer that dies anywhere, a record that was changed without
    /// its knowing), an opener finds everything that was acknowledged.
    #[test]
    fn an_opener_never_misses_anything_at_any_step_of_a_change(
        actions in prop::collection::vec((0_u8..12, 0_usize..7), 1..200),
    ) {
        let mut model = Model::new();
        for (action, copy) in actions {
            model.act(action, copy);
            model.check();
        }
    }
}

/// The model finds a change that is wrong: counting the new list alone while the record still names the old one.
#[test]
#[should_panic(expected = "was acknowledged, but")]
fn the_model_notices_a_list_that_counts_too_early() {
    let mut model = Model::new();
    model.exists = true;
    model.whole = true;
    model.counting = Membership::new("ABCDEG".chars().map(segment).collect());
    model.sent = 9;
    for copy in [0, 1, 2, 6] {
        model.complete[copy] = 9;
    }
    model.acknowledge();
    model.check();
}
