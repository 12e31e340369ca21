//! How holes are filled from peers.

use super::*;

#[test]
fn a_hole_is_filled_from_a_peer() {
    let mut copy = Copy::new();
    copy.append(1, batch(1, 30, position(1, 20)));
    let mut effects = Vec::new();
    copy.segment.tick(Duration::from_millis(0), &mut effects);
    assert_eq!(effects, [], "the message may just be late");
    copy.segment.tick(Duration::from_millis(60), &mut effects);
    let [Effect::Fetch { peer, request }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_ne!(peer.segment, id(1));
    assert!(matches!(request, Request::FetchBatches { after, .. } if *after == Position::ZERO));
    let answer = Response::Batches(vec![batch(1, 10, Position::ZERO), batch(1, 20, position(1, 10))]);
    let mut effects = Vec::new();
    let now = Duration::from_millis(61);
    copy.segment
        .fetched(now, Some(answer), &mut effects)
        .expect("the peer could help");
    copy.perform(effects);
    assert_eq!(copy.segment.complete(), position(1, 30));
    let mut effects = Vec::new();
    copy.segment.tick(Duration::from_millis(500), &mut effects);
    assert_eq!(effects, [], "nothing is missing any more");
}

fn asks_for_batches(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Fetch {
            request: Request::FetchBatches { .. },
            ..
        }
    )
}

/// A copy that was away for so long that its peers recycled what it lacks.
#[test]
fn a_copy_whose_log_nobody_has_says_so_and_asks_rarely() {
    let mut copy = Copy::new();
    copy.append(1, batch(1, 90, position(1, 80)));
    let mut questions = 0;
    let mut collected = true;
    let mut ask_for = |copy: &mut Copy, from: u64, millis: u64, collected: &mut bool| {
        for now in (from..from + millis).step_by(25).map(Duration::from_millis) {
            let mut effects = Vec::new();
            copy.segment.tick(now, &mut effects);
            if effects.iter().any(asks_for_batches) {
                questions += 1;
                let answer = if *collected {
                    Response::Refused(Refusal::LogCollected {
                        oldest: position(1, 80),
                    })
                } else {
                    Response::Batches(vec![batch(1, 80, Position::ZERO)])
                };
                let mut effects = Vec::new();
                // A refusal is what is expected here.
                let _ = copy.segment.fetched(now, Some(answer), &mut effects);
                copy.perform(effects);
            }
        }
        std::mem::take(&mut questions)
    };
    assert!(ask_for(&mut copy, 0, 200, &mut collected) < 3);
    assert!(!copy.segment.is_stranded(), "another peer may have it");
    ask_for(&mut copy, 200, 1000, &mut collected);
    assert!(copy.segment.is_stranded());
    let questions = ask_for(&mut copy, 1200, 60_000, &mut collected);
    assert!((10..=13).contains(&questions), "{questions} questions in a minute");
    // One of them has it after all.
    collected = false;
    ask_for(&mut copy, 61_200, 6000, &mut collected);
    assert_eq!(copy.segment.complete(), position(1, 90));
    assert!(!copy.segment.is_stranded());
}

/// A peer that was paused, or a question that its shell dropped: nothing ever tells that no answer comes.
#[test]
fn a_lost_answer_is_waited_for_only_a_few_round_trips() {
    let mut copy = Copy::new();
    copy.append(1, batch(1, 90, position(1, 80)));
    let mut now = Duration::ZERO;
    let mut asked = |copy: &mut Copy, until: Duration| {
        while now < until {
            now += Duration::from_millis(5);
            let mut effects = Vec::new();
            copy.segment.tick(now, &mut effects);
            if let Some(Effect::Fetch { peer, .. }) = effects.into_iter().find(asks_for_batches) {
                return Some((now, peer.segment));
            }
        }
        None
    };
    let seconds = Duration::from_secs;
    // Answers that help take ten milliseconds.
    let mut before = asked(&mut copy, seconds(1)).expect("a question");
    for end in (10..=70).step_by(10) {
        let answer = Response::Batches(vec![batch(
            1,
            end,
            if end == 10 {
                Position::ZERO
            } else {
                position(1, end - 10)
            },
        )]);
        let mut effects = Vec::new();
        let at = before.0 + Duration::from_millis(10);
        copy.segment.fetched(at, Some(answer), &mut effects).expect("it helps");
        copy.perform(effects);
        before = asked(&mut copy, seconds(1)).expect("the next question");
    }
    // And then none comes.
    let again = asked(&mut copy, seconds(20)).expect("another question");
    assert!(again.0 - before.0 <= Duration::from_millis(500), "{before:?} {again:?}");
    assert_ne!(again.1, before.1, "another peer is asked");
    // Nobody ever answers: the questions become rare.
    let mut questions = 0;
    let until = again.0 + seconds(100);
    while asked(&mut copy, until).is_some() {
        questions += 1;
    }
    assert!((15..=40).contains(&questions), "{questions} questions in 100 s");
}
