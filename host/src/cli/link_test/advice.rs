//! What whoever runs the broker, or writes the client, should set on a link or look at. Pure: from what was found. What is chosen
//! by itself and fits is not spoken of.

use super::findings::{Direction, Findings, LostBy, Outcome};

/// The part of what the credit allows from which on it is taken for what holds publishing up.
const CREDIT_USED: f64 = 0.8;
/// From here on a link is said to reorder much, in percent.
const LATE_PERCENT: f64 = 1.0;

/// The smallest datagram that QUIC has.
const MTU_MIN: u16 = 1_200;

/// In the order of what it may bring.
pub(super) fn advice(found: &Findings) -> Vec<String> {
    let Findings {
        up, down, chosen, ..
    } = found;
    let mut advice = Vec::new();
    let is_long = found.round_trip.min_ms >= chosen.long_path_from_ms;
    match down.congestion.as_str() {
        "cubic" if is_long => advice.push(
            "listen.quic_congestion = \"auto\" (or listen.anonymous_congestion): the broker takes every lost packet for congestion, which is slow on a path as long as this"
                .to_owned(),
        ),
        "bbr" => advice.push(
            "listen.quic_congestion = \"auto\" (or listen.anonymous_congestion): bbr fills queues, and sends much of what it sends again"
                .to_owned(),
        ),
        _ => {}
    }
    let credit_per_second =
        chosen.publish_credit_bytes as f64 / (found.round_trip.min_ms / 1e3).max(1e-6);
    if up.bytes_per_second >= CREDIT_USED * credit_per_second {
        advice.push(format!(
            "limits.publish_credit_bytes: more than {} would let a publisher have more under way",
            chosen.publish_credit_bytes
        ));
    }
    // The window follows what was written, so that of a path whose speed still rises lies somewhat behind.
    let carried = down
        .congestion_window_bytes
        .min(chosen.send_window_bytes_max);
    let wanted = carried / 2;
    if (chosen.send_window_bytes_free..wanted).contains(&down.send_window_bytes) {
        advice.push(
            "limits.send_window_total_bytes: more would let the broker have as much under way as this path carries"
                .to_owned(),
        );
    }
    let longer = found.may_be_longer();
    advice.extend(of_path("up", up, longer));
    advice.extend(of_path("down", down, longer));
    if found.address_change.outcome == Outcome::Lost {
        advice.push(
            "a connection does not outlive a change of the client's address here: nothing is to be set, but clients connect anew then, which takes them some seconds"
                .to_owned(),
        );
    }
    advice
}

fn of_path(way: &str, direction: &Direction, longer: bool) -> Vec<String> {
    let mut advice = Vec::new();
    // What a full queue drops is no fault of the link, and nothing is to be set about it.
    if direction.lost_by() == LostBy::Link {
        advice.push(format!(
            "look at the link: it loses {:.1} % of the datagrams {way} while next to nothing is under way",
            direction.at_rest.lost_percent
        ));
    }
    if direction.late_percent >= LATE_PERCENT {
        advice.push(format!(
            "look at the link: {:.1} % of the datagrams {way} come so late that they are sent again, as where packets overtake each other",
            direction.late_percent
        ));
    }
    if direction.mtu <= MTU_MIN {
        let longer = match longer {
            true => "; a test with a longer --time may find more",
            false => "",
        };
        advice.push(format!(
            "look at the MTU of the link: datagrams {way} have {} bytes, the least that QUIC works with{longer}",
            direction.mtu
        ));
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::super::findings::{AddressChange, AtRest, Chosen, RoundTrips};
    use super::*;

    fn good(round_trip_ms: f64) -> Findings {
        let direction = || Direction {
            bytes_per_second: 1e6,
            mtu: 1_452,
            congestion: "a model of the path".to_owned(),
            congestion_window_bytes: 200_000,
            send_window_bytes: 400_000,
            ..Direction::default()
        };
        Findings {
            round_trip: RoundTrips {
                min_ms: round_trip_ms,
                ..RoundTrips::default()
            },
            up: direction(),
            down: direction(),
            address_change: AddressChange {
                outcome: Outcome::Kept,
                ..AddressChange::default()
            },
            chosen: Chosen {
                long_path_from_ms: 8.0,
                publish_credit_bytes: 32 << 20,
                send_window_bytes_free: 4 << 20,
                send_window_bytes_max: 32 << 20,
                ..Chosen::default()
            },
            ..Findings::default()
        }
    }

    #[test]
    fn each_fault_has_its_advice_and_nothing_else_has_any() {
        #[track_caller]
        fn check(round_trip_ms: f64, change: fn(&mut Findings), word: Option<&str>) {
            let mut found = good(round_trip_ms);
            change(&mut found);
            let advice = advice(&found);
            match word {
                None => assert_eq!(advice, Vec::<String>::new()),
                Some(word) => {
                    assert_eq!(advice.len(), 1, "{advice:?}");
                    assert!(advice[0].contains(word), "{advice:?}");
                }
            }
        }
        check(100.0, |_| {}, None);
        let cubic = |found: &mut Findings| found.down.congestion = "cubic".to_owned();
        check(100.0, cubic, Some("quic_congestion"));
        check(1.0, cubic, None);
        let bbr = |found: &mut Findings| found.down.congestion = "bbr".to_owned();
        check(1.0, bbr, Some("quic_congestion"));
        let at_credit = |found: &mut Findings| found.up.bytes_per_second = 300e6;
        check(100.0, at_credit, Some("publish_credit_bytes"));
        check(10.0, at_credit, None);
        let held = |found: &mut Findings| {
            found.down.congestion_window_bytes = 9 << 20;
            found.down.send_window_bytes = 4 << 20;
        };
        check(100.0, held, Some("send_window_total_bytes"));
        let at_most = |found: &mut Findings| {
            found.down.congestion_window_bytes = 99 << 20;
            found.down.send_window_bytes = 32 << 20;
        };
        check(100.0, at_most, None);
        let behind = |found: &mut Findings| {
            found.down.congestion_window_bytes = 50 << 20;
            found.down.send_window_bytes = 31 << 20;
        };
        check(100.0, behind, None);
        fn lost(found: &mut Findings, lost_percent: f64, lost_at_rest: u32) {
            found.up.lost_percent = lost_percent;
            found.up.at_rest = AtRest {
                datagrams: 100,
                lost: lost_at_rest.into(),
                lost_percent: lost_at_rest.into(),
            };
        }
        check(100.0, |found| lost(found, 9.0, 8), Some("loses 8.0 %"));
        check(100.0, |found| lost(found, 30.0, 0), None);
        check(100.0, |found| found.down.late_percent = 2.0, Some("late"));
        check(100.0, |found| found.down.mtu = 1_200, Some("MTU"));
        check(
            100.0,
            |found| found.address_change.outcome = Outcome::Lost,
            Some("address"),
        );
    }
}
