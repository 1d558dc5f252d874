use super::*;
use proptest::prelude::*;

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn backup(number: u8, time: Timestamp) -> Candidate {
    Candidate {
        id: Id([number; 16]),
        time,
        tags: BTreeMap::new(),
        unfit: None,
        bound: None,
    }
}

fn kept(policy: &Policy, group: &[Candidate], now: Timestamp) -> Vec<u8> {
    let verdicts = policy.decide(group, now);
    verdicts.iter().filter(|one| one.keep).map(|one| one.id.0[0]).collect()
}

/// One backup every six hours, the newest at `now`.
fn six_hourly(now: Timestamp, count: u8) -> Vec<Candidate> {
    let age = |number: u8| jiff::SignedDuration::from_hours(6 * i64::from(count - 1 - number));
    (0..count).map(|number| backup(number, now - age(number))).collect()
}

#[test]
fn the_last_of_each_period_stays() {
    let now = at("2026-11-24T21:00:00Z");
    let group = six_hourly(now, 40);
    let policy = |text: &str| serde_saphyr::from_str::<Policy>(text).unwrap();
    assert_eq!(kept(&policy("keep_last: 3"), &group, now), [37, 38, 39]);
    // 21:00 is the last of each day.
    assert_eq!(kept(&policy("keep_daily: 3"), &group, now), [31, 35, 39]);
    assert_eq!(kept(&policy("keep_hourly: 2"), &group, now), [38, 39]);
    // The 24th is a Tuesday: Sunday the 22nd ends the week before.
    assert_eq!(kept(&policy("keep_weekly: 2"), &group, now), [31, 39]);
    assert_eq!(kept(&policy("keep_monthly: 12"), &group, now), [39]);
    assert_eq!(kept(&policy("keep_within: 1d"), &group, now), [35, 36, 37, 38, 39]);
    let reasons = policy("{keep_last: 1, keep_weekly: 1}").decide(&group, now)[39]
        .reasons
        .join(", ");
    assert_eq!(reasons, "the newest good one, last 1 of 1, weekly 2026-W48");
}

#[test]
fn years_end_where_the_calendar_says() {
    let times = ["2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"];
    let group: Vec<Candidate> = (0u8..)
        .zip(times)
        .map(|(number, time)| backup(number, at(time)))
        .collect();
    let policy = Policy {
        keep_yearly: 5,
        ..Policy::default()
    };
    assert_eq!(kept(&policy, &group, at("2026-07-01T00:00:00Z")), [0, 2]);
    // ISO week 1 of 2026 has days of both years.
    let policy = Policy {
        keep_weekly: 5,
        ..Policy::default()
    };
    assert_eq!(kept(&policy, &group, at("2026-07-01T00:00:00Z")), [1, 2]);
}

#[test]
fn a_damaged_backup_takes_no_good_ones_place_and_ages_as_it_would() {
    let now = at("2026-11-24T21:00:00Z");
    let mut group = six_hourly(now, 6);
    group[5].unfit = Some("damaged".to_owned());
    group[4].unfit = Some("damaged".to_owned());
    let policy = Policy {
        keep_last: 2,
        ..Policy::default()
    };
    assert_eq!(kept(&policy, &group, now), [2, 3, 4, 5]);
    group.iter_mut().for_each(|one| one.unfit = Some("damaged".to_owned()));
    assert_eq!(kept(&policy, &group, now), [4, 5]);
}

#[test]
fn what_is_bound_tagged_or_from_the_future_stays_and_the_future_displaces_nothing() {
    let now = at("2026-11-24T21:00:00Z");
    let mut group = six_hourly(now, 6);
    group[0].bound = Some("held: audit".to_owned());
    group[1].tags.insert("why".to_owned(), "release".to_owned());
    group.push(backup(99, at("2031-01-01T00:00:00Z")));
    let policy = Policy {
        keep_last: 1,
        keep_tags: vec!["why=release".to_owned()],
        ..Policy::default()
    };
    assert_eq!(kept(&policy, &group, now), [0, 1, 5, 99]);
}

#[test]
fn a_policy_of_nothing_is_known_as_such() {
    assert!(Policy::default().is_empty());
    let tags = Policy {
        keep_tags: vec!["a=b".to_owned()],
        ..Policy::default()
    };
    assert!(tags.is_empty());
    let weekly = Policy {
        keep_weekly: 1,
        ..Policy::default()
    };
    assert!(!weekly.is_empty());
}

fn policies() -> impl Strategy<Value = Policy> {
    let count = 0u32..4;
    (
        (count.clone(), count.clone(), count.clone()),
        (count.clone(), count.clone(), count),
        0i64..60,
    )
        .prop_map(
            |((keep_last, keep_hourly, keep_daily), (keep_weekly, keep_monthly, keep_yearly), days)| Policy {
                keep_last,
                keep_hourly,
                keep_daily,
                keep_weekly,
                keep_monthly,
                keep_yearly,
                keep_within: (days > 0).then(|| Age(jiff::Span::new().days(days))),
                ..Policy::default()
            },
        )
}

fn groups() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0i64..70_000_000, 0u8..5, 0u8..20);
    proptest::collection::vec(one, 1..40).prop_map(|list| {
        let candidate = |(number, (seconds, unfit, bound)): (usize, (i64, u8, u8))| Candidate {
            unfit: (unfit == 0).then(|| "damaged".to_owned()),
            bound: (bound == 0).then(|| "held".to_owned()),
            ..backup(number as u8, Timestamp::from_second(1_700_000_000 + seconds).unwrap())
        };
        list.into_iter().enumerate().map(candidate).collect()
    })
}

proptest! {
    #[test]
    fn the_newest_good_one_and_the_bound_stay_and_everyone_is_told_why(policy in policies(), group in groups(), now in 0i64..80_000_000) {
        let now = Timestamp::from_second(1_700_000_000 + now).unwrap();
        let verdicts = policy.decide(&group, now);
        prop_assert_eq!(verdicts.len(), group.len());
        let past = || group.iter().filter(|one| one.time <= now);
        let newest = past().filter(|one| one.unfit.is_none()).map(|one| one.time).max().or(past().map(|one| one.time).max());
        let mut newest_stays = newest.is_none();
        for (one, verdict) in group.iter().zip(&verdicts) {
            prop_assert!(!verdict.reasons.is_empty());
            prop_assert!(verdict.keep || (one.bound.is_none() && one.time <= now));
            newest_stays |= Some(one.time) == newest && verdict.keep && (one.unfit.is_none() || past().all(|one| one.unfit.is_some()));
        }
        prop_assert!(newest_stays);
    }

    #[test]
    fn forgetting_twice_removes_nothing_more(policy in policies(), group in groups()) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let stays = |group: &[Candidate]| -> Vec<Candidate> {
            let verdicts = policy.decide(group, now);
            group.iter().zip(verdicts).filter(|(_, verdict)| verdict.keep).map(|(one, _)| one.clone()).collect()
        };
        let once = stays(&group);
        prop_assert_eq!(stays(&once), once);
    }

    #[test]
    fn a_larger_count_keeps_all_that_a_smaller_one_keeps(policy in policies(), group in groups()) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let larger = Policy {
            keep_last: policy.keep_last + 1,
            keep_daily: policy.keep_daily + 2,
            keep_yearly: policy.keep_yearly + 1,
            ..policy.clone()
        };
        let (few, many) = (kept(&policy, &group, now), kept(&larger, &group, now));
        prop_assert!(few.iter().all(|one| many.contains(one)));
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(policy in policies(), group in groups(), seed: u64) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut mixed = group.clone();
        mixed.sort_by_key(|one| seed.wrapping_mul(u64::from(one.id.0[0]) + 1).rotate_left(17));
        let sorted = |mut ids: Vec<u8>| { ids.sort_unstable(); ids };
        prop_assert_eq!(sorted(kept(&policy, &group, now)), sorted(kept(&policy, &mixed, now)));
    }
}
