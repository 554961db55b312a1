//! What of a test's numbers is not to be relied on: too little went over the link, something was in the way meanwhile, or the counts may
//! mean something else. Pure: from what was found.

use super::findings::{Direction, Findings, LostBy};

/// Fewer echoes say little of the slowest one in a hundred, and of jitter.
const ECHOES_FEW: usize = 20;

/// Of fewer datagrams, a loss of one in three hundred is not seen for sure.
const DATAGRAMS_FEW: u64 = 1_000;

/// In fewer round trips congestion control does not find what the path carries, nor discovery the largest datagram.
const ROUND_TRIPS_FEW: f64 = 25.0;

/// Where so many seem late, it matters whether they are, in percent.
const LATE_PERCENT: f64 = 1.0;

/// In the order of the numbers.
pub(super) fn doubts(found: &Findings) -> Vec<String> {
    let mut doubts = Vec::new();
    let echoes = found.round_trip.echoes;
    let longer = |brings: &str| match found.may_be_longer() {
        true => format!("; a longer --time {brings} more"),
        false => String::new(),
    };
    if echoes < ECHOES_FEW {
        doubts.push(format!(
            "{echoes} echoes are few: the average, the 99th of a hundred and the jitter may be an accident{}",
            longer("brings")
        ));
    }
    let finds = longer("finds");
    for (way, direction) in [("up", &found.up), ("down", &found.down)] {
        doubts.extend(of_direction(
            way,
            direction,
            found.round_trip.min_ms,
            &finds,
        ));
    }
    doubts.extend(found.outages.iter().map(|outage| {
        format!(
            "nothing came from the broker for {:.1} s, while {}: what was lost then counts as lost, and what was measured then is slower than the link",
            outage.seconds,
            outage.step.told()
        )
    }));
    doubts
}

fn of_direction(way: &str, direction: &Direction, round_trip_ms: f64, longer: &str) -> Vec<String> {
    let mut doubts = Vec::new();
    let Direction {
        seconds, datagrams, ..
    } = *direction;
    let round_trips = seconds * 1e3 / round_trip_ms;
    if round_trips < ROUND_TRIPS_FEW {
        doubts.push(format!(
            "{seconds:.1} s {way} are {round_trips:.0} round trips, too few to find what the link carries and its largest datagram{longer}"
        ));
    }
    if datagrams < DATAGRAMS_FEW {
        // Of which at least one is lost in all but 5 of 100 tests.
        let seen = (300.0 / datagrams.max(3) as f64).min(100.0);
        doubts.push(format!(
            "in {datagrams} datagrams {way}, a loss of less than {seen:.1} % may not show, and a greater one is not exact"
        ));
    }
    if direction.lost_by() == LostBy::Either {
        doubts.push(format!(
            "{:.1} % lost {way} are much, and {} datagrams at rest too few to tell whether the link loses them, or a queue that was full of this test{longer}",
            direction.lost_percent, direction.at_rest.datagrams
        ));
    }
    if !direction.counts_frames && direction.late_percent >= LATE_PERCENT {
        doubts.push(format!(
            "this broker is too old to count frames: where the network doubles datagrams, each that came twice {way} hides a lost one, which counts as late then"
        ));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::super::findings::RoundTrips;
    use super::super::watch::{Outage, Step};
    use super::*;

    fn sound() -> Findings {
        let direction = || Direction {
            seconds: 3.0,
            datagrams: 20_000,
            counts_frames: true,
            ..Direction::default()
        };
        Findings {
            round_trip: RoundTrips {
                echoes: 30,
                min_ms: 100.0,
                ..RoundTrips::default()
            },
            up: direction(),
            down: direction(),
            given_seconds: 3.0,
            ..Findings::default()
        }
    }

    #[test]
    fn what_is_too_little_is_said_and_nothing_else() {
        #[track_caller]
        fn check(change: fn(&mut Findings), words: &[&str]) {
            let mut found = sound();
            change(&mut found);
            let doubts = doubts(&found);
            assert_eq!(doubts.len(), words.len(), "{doubts:?}");
            for (doubt, word) in doubts.iter().zip(words) {
                assert!(doubt.contains(word), "{doubt}");
            }
        }
        check(|_| {}, &[]);
        let longer = ["an accident; a longer --time brings more"];
        check(|found| found.round_trip.echoes = 19, &longer);
        let much = |found: &mut Findings| found.down.lost_percent = 7.0;
        check(much, &["much, and 0 datagrams at rest too few"]);
        let far = |found: &mut Findings| found.round_trip.min_ms = 600.0;
        let words = ["3.0 s up are 5 round trips", "3.0 s down are 5 round trips"];
        check(far, &words);
        let long = |found: &mut Findings| {
            found.round_trip.min_ms = 600.0;
            found.up.seconds = 9.4;
            found.down.seconds = 16.0;
            found.given_seconds = 10.0;
            found.round_trip.echoes = 16;
        };
        let no_longer = |doubt: &String| !doubt.contains("longer");
        let mut longest = sound();
        long(&mut longest);
        assert!(doubts(&longest).iter().all(no_longer));
        check(long, &["16 echoes are few", "16 round trips, too few"]);
        let few = |found: &mut Findings| found.down.datagrams = 300;
        check(few, &["in 300 datagrams down, a loss of less than 1.0 %"]);
        check(|found| found.up.datagrams = 0, &["less than 100.0 %"]);
        check(|found| found.down.late_percent = 4.6, &[]);
        let old = |found: &mut Findings| {
            found.down.late_percent = 4.6;
            found.down.counts_frames = false;
        };
        check(old, &["came twice down"]);
        let outage = |found: &mut Findings| {
            found.outages = vec![Outage {
                step: Step::Down,
                seconds: 5.25,
            }];
        };
        let words = ["for 5.2 s, while receiving from the broker"];
        check(outage, &words);
    }
}
