//! Controllers on emulated links: what is promised of `auto`, with quinn's own beside it. Numbers are those of a link with a share of
//! room for chance; the same seed brings the same ones each time.

use std::time::Duration;

use self::emulation::{Link, Outcome, SetUp, run};
use super::super::reordering;
use super::Congestion::{self, Auto, Bbr, Cubic};

mod emulation;

const MBIT: f64 = 125_000.0;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// 20 Mbit/s, 100 ms there and back, a queue of as much.
const LINK: Link = Link {
    delay: ms(50),
    jitter: ms(0),
    reorders: false,
    loss: 0.0,
    rate: 20.0 * MBIT,
    queue: ms(100),
};
const SATELLITE: Link = Link {
    delay: ms(300),
    loss: 0.01,
    rate: 10.0 * MBIT,
    queue: ms(200),
    ..LINK
};
const MOBILE: Link = Link {
    delay: ms(100),
    jitter: ms(50),
    reorders: false,
    loss: 0.02,
    rate: MBIT,
    queue: ms(200),
};

fn set_up(congestion: Congestion) -> SetUp {
    match congestion {
        Auto => |transport| _ = transport.congestion_controller_factory(Auto.factory()),
        Cubic => |transport| _ = transport.congestion_controller_factory(Cubic.factory()),
        Bbr => |transport| _ = transport.congestion_controller_factory(Bbr.factory()),
    }
}

fn alone(link: Link, congestion: Congestion, seconds: u64) -> Outcome {
    run(link, vec![set_up(congestion)], Duration::from_secs(seconds))[0]
}

fn together(link: Link, both: [Congestion; 2]) -> [f64; 2] {
    let senders = both.map(set_up).to_vec();
    let outcomes = run(link, senders, Duration::from_secs(24));
    [outcomes[0].goodput, outcomes[1].goodput]
}

#[test]
fn a_name_means_the_controller_that_has_it() {
    for congestion in Congestion::ALL {
        assert_eq!(congestion.name().parse(), Ok(congestion));
    }
    assert!("reno".parse::<Congestion>().is_err());
}

#[test]
fn a_controller_says_what_it_goes_by() {
    // Nothing is known yet of the path, so `auto` takes it for a short one.
    for (congestion, words, is_long) in [
        (Auto, "cubic", Some(false)),
        (Cubic, "cubic", None),
        (Congestion::Bbr, "bbr", None),
    ] {
        for factory in [congestion.factory(), congestion.factory_for_reordering()] {
            let controller = factory.build(std::time::Instant::now(), 1_200);
            assert_eq!(super::takes_path_for_long(controller.clone_box()), is_long);
            assert_eq!(super::in_use(controller), words);
        }
    }
}

#[test]
fn a_path_is_filled_whatever_it_loses_and_little_is_sent_twice() {
    let lossy = |loss| Link { loss, ..LINK };
    let cases = [
        ("nothing lost", LINK, 0.9),
        ("one in fifty lost", lossy(0.02), 0.85),
        ("one in ten lost", lossy(0.1), 0.75),
        ("three in ten lost", lossy(0.3), 0.45),
        (
            "almost no queue",
            Link {
                queue: ms(10),
                ..LINK
            },
            0.85,
        ),
        ("satellite", SATELLITE, 0.8),
        ("mobile", MOBILE, 0.85),
    ];
    for (name, link, least) in cases {
        let outcome = alone(link, Auto, 16);
        let share = outcome.goodput / link.rate;
        assert!(share >= least, "{name}: {share:.2} of the link");
        // What is lost has to be sent again; beyond that, a fifth.
        let most = 1.2 / (1.0 - link.loss);
        let bytes = outcome.bytes_per_byte;
        assert!(bytes <= most, "{name}: {bytes:.2} bytes for a byte");
    }
}

#[test]
fn a_path_with_loss_gives_several_times_of_what_it_gives_cubic() {
    let link = Link { loss: 0.02, ..LINK };
    let [auto, cubic] = [Auto, Cubic].map(|one| alone(link, one, 20).goodput);
    assert!(
        auto > 5.0 * cubic,
        "{auto:.0} and {cubic:.0} bytes a second"
    );
}

#[test]
fn a_queue_stays_short_however_long_it_may_be() {
    let link = Link {
        queue: ms(1_000),
        ..LINK
    };
    let round_trip = alone(link, Auto, 20).round_trip;
    assert!(
        round_trip < 0.15,
        "{round_trip:.3} s where 0.1 s is the least"
    );
}

#[test]
fn whoever_shares_a_path_has_a_fifth_at_least() {
    for both in [[Auto, Auto], [Auto, Cubic], [Cubic, Auto]] {
        let [first, second] = together(LINK, both);
        let least = first.min(second) / (first + second);
        assert!(
            least >= 0.2,
            "{both:?}: {first:.0} and {second:.0} bytes a second"
        );
    }
}

#[test]
fn who_expects_packets_out_of_order_takes_few_for_lost() {
    let link = Link {
        jitter: ms(20),
        reorders: true,
        rate: 1_000.0 * MBIT,
        ..LINK
    };
    let length = Duration::from_secs(10);
    let usual = run(link, vec![set_up(Auto)], length)[0];
    let expecting = run(
        link,
        vec![|transport| reordering::expect(transport, Auto)],
        length,
    )[0];
    let (least, most) = (10.0 * usual.goodput, 1.2);
    assert!(expecting.goodput >= least, "{expecting:?} beside {usual:?}");
    assert!(expecting.bytes_per_byte <= most, "{expecting:?}");
}

#[test]
fn packets_are_seen_to_overtake_others_only_where_they_do() {
    let in_order = [
        LINK,
        Link { loss: 0.1, ..LINK },
        Link { loss: 0.3, ..LINK },
        Link {
            jitter: ms(40),
            ..LINK
        },
        Link {
            queue: ms(10),
            ..LINK
        },
        SATELLITE,
        MOBILE,
    ];
    for link in in_order {
        let outcome = alone(link, Auto, 4);
        assert_eq!(outcome.overtaken, 0, "{link:?}: {outcome:?}");
    }
    for (delay, jitter) in [(50, 20), (80, 30), (50, 5)] {
        let link = Link {
            delay: ms(delay),
            jitter: ms(jitter),
            reorders: true,
            rate: 1_000.0 * MBIT,
            ..LINK
        };
        // Of those that count as lost nothing more is heard.
        let outcome = alone(link, Auto, 2);
        assert!(outcome.overtaken >= 2, "{link:?}: {outcome:?}");
    }
}

#[test]
fn no_controller_has_more_packets_under_way_than_there_may_be_gaps() {
    let link = Link {
        rate: 1_000.0 * MBIT,
        queue: ms(1_000),
        ..LINK
    };
    let bounded: [SetUp; 3] = [
        |transport| reordering::expect(transport, Auto),
        |transport| reordering::expect(transport, Cubic),
        |transport| reordering::expect(transport, Bbr),
    ];
    let length = Duration::from_secs(4);
    // 1,536 packets in a round trip of a tenth of a second.
    let most = 1_536.0 * 1_500.0 / 0.1;
    // The link takes more, which is a matter of seconds to try: once is enough.
    let usual = alone(link, Cubic, 4);
    assert!(usual.goodput > 1.5 * most, "{usual:?}");
    for (congestion, bounded) in [Auto, Cubic, Bbr].into_iter().zip(bounded) {
        let bounded = run(link, vec![bounded], length)[0];
        let is_bounded = (0.5 * most..=most).contains(&bounded.goodput);
        assert!(is_bounded, "{congestion}: {bounded:?}");
    }
}
