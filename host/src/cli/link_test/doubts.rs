//! What of a test's numbers is not to be relied on: too little went over the link, something was in the way meanwhile, or the counts may
//! mean something else. Pure: from what was found.

use super::findings::{Direction, Findings};

/// Fewer echoes say little of the slowest one in a hundred, and of jitter.
const ECHOES_FEW: usize = 20;

/// Of fewer datagrams, a loss of one in three hundred is not seen for sure.
const DATAGRAMS_FEW: u64 = 1_000;

/// In fewer round trips congestion control does not find what the path carries, nor discovery the largest datagram.
const ROUND_TRIPS_FEW: f64 = 25.0;

/// Seconds that a direction may be given at most.
const SECONDS_MAX: f64 = 10.0;

/// Where so many seem late, it matters whether they are, in percent.
const LATE_PERCENT: f64 = 1.0;

/// In the order of the numbers.
pub(super) fn doubts(found: &Findings) -> Vec<String> {
    let mut doubts = Vec::new();
    let echoes = found.round_trip.echoes;
    if echoes < ECHOES_FEW {
        doubts.push(format!(
            "{echoes} echoes are few: the average, the 99th of a hundred and the jitter may be an accident; a longer --time brings more"
        ));
    }
    doubts.extend(of_direction("up", &found.up, found.round_trip.min_ms));
    doubts.extend(of_direction("down", &found.down, found.round_trip.min_ms));
    doubts.extend(found.outages.iter().map(|outage| {
        format!(
            "nothing came from the broker for {:.1} s, while {}: what was lost then counts as lost, and what was measured then is slower than the link",
            outage.seconds,
            outage.step.told()
        )
    }));
    doubts
}

fn of_direction(way: &str, direction: &Direction, round_trip_ms: f64) -> Vec<String> {
    let mut doubts = Vec::new();
    let Direction {
        seconds, datagrams, ..
    } = *direction;
    let round_trips = seconds * 1e3 / round_trip_ms;
    if round_trips < ROUND_TRIPS_FEW {
        let longer = match seconds < SECONDS_MAX {
            true => "; a longer --time finds more",
            false => "",
        };
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
        check(|found| found.round_trip.echoes = 19, &["19 echoes"]);
        let far = |found: &mut Findings| found.round_trip.min_ms = 600.0;
        let words = ["3.0 s up are 5 round trips", "3.0 s down are 5 round trips"];
        check(far, &words);
        let long = |found: &mut Findings| {
            found.round_trip.min_ms = 600.0;
            found.up.seconds = 10.4;
            found.down.seconds = 16.0;
        };
        check(long, &["17 round trips, too few"]);
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
