//! A consumer: takes what its subscription has, answers as the plan says, and asks now and then whether its answers are on disk. When the
//! run drains it acks everything.

use std::time::Duration;

use tidegate_client::{Client, Consumer, ConsumerOptions, Delivery, SubscribeError};
use tokio::time::sleep;

use super::{AGAIN, Came, Phase, Process, subscribe_code};
use crate::history::{Answer, What};
use crate::plan::failing::Fails;
use crate::plan::payload::{hash, number};
use crate::plan::{Consuming, Operation};

/// After how many answers it asks for them at least while the run drains.
const DRAINS_AFTER: u64 = 20;
/// How often it listens to what it is told while nothing comes.
const LISTENS_EVERY: Duration = Duration::from_millis(500);

/// Consumes until the run ends.
pub(super) async fn run(process: Process, consuming: Consuming) -> Came {
    let client = process.client().await;
    let mut taken = Taken::default();
    while *process.scene.phase.borrow() < Phase::Ends {
        let Some(consumer) = attach(&process, &client, &consuming).await else {
            sleep(AGAIN).await;
            continue;
        };
        match consume(&process, &consuming, consumer, &mut taken).await {
            Ended::ToDie => return Came::ToDie(0),
            Ended::Detached => sleep(AGAIN).await,
        }
    }
    client.close().await;
    Came::ToItsEnd
}

#[derive(Default)]
struct Taken {
    deliveries: u64,
    answers: u64,
}

enum Ended {
    ToDie,
    Detached,
}

async fn attach(process: &Process, client: &Client, consuming: &Consuming) -> Option<Consumer> {
    let op = process.scene.op();
    let subscription = consuming.subscription.as_str();
    process.note(What::Attaches {
        op,
        subscription: subscription.into(),
    });
    let options = ConsumerOptions {
        credit_events: consuming.credit,
        ..ConsumerOptions::default()
    };
    match client.subscribe(subscription, options).await {
        Ok(consumer) => {
            process.note(What::Attached { op });
            Some(consumer)
        }
        Err(error) => {
            let code = subscribe_code(&error).into();
            process.note(What::NotAttached { op, code });
            None
        }
    }
}

async fn consume(
    process: &Process,
    consuming: &Consuming,
    mut consumer: Consumer,
    taken: &mut Taken,
) -> Ended {
    let mut heard = None;
    let listens = listens(process, consuming);
    loop {
        if listens {
            hear(process, consuming, &consumer, &mut heard);
        }
        let next = tokio::select! {
            biased;
            next = consumer.next() => next,
            () = process.scene.is_at(Phase::Ends) => None,
            () = sleep(LISTENS_EVERY), if listens => continue,
        };
        let Some(Ok(delivery)) = next else {
            break;
        };
        note(process, consuming, &delivery);
        taken.deliveries += 1;
        let runs = *process.scene.phase.borrow() == Phase::Runs;
        let poison = fails(process, consuming, &delivery);
        if runs && (taken.deliveries == consuming.dies_after || poison == Some(Fails::Dies)) {
            process.die();
            return Ended::ToDie;
        }
        if runs {
            sleep(Duration::from_millis(consuming.takes_ms)).await;
        }
        taken.answers += u64::from(match poison {
            Some(fails) => fail(process, consuming, &delivery, fails),
            None => answer(process, consuming, &delivery),
        });
        let flushes_after = match runs {
            true => consuming.flushes_after,
            false => consuming.flushes_after.min(DRAINS_AFTER),
        };
        if taken.answers >= flushes_after {
            taken.answers = 0;
            flush(process, consuming, &consumer).await;
        }
    }
    process.note(What::Detached {
        subscription: consuming.subscription.as_str().into(),
    });
    consumer.close().await;
    Ended::Detached
}

// Whether its subscription is to stand still some time.
fn listens(process: &Process, consuming: &Consuming) -> bool {
    let mut operations = process.scene.plan.operations.iter();
    let pauses = Operation::Pause {
        subscription: consuming.subscription.clone(),
    };
    operations.any(|operation| operation.does == pauses)
}

// Says what the application is told of why nothing comes, when that has changed.
fn hear(process: &Process, consuming: &Consuming, consumer: &Consumer, heard: &mut Option<String>) {
    let obstacle = consumer.obstacle();
    if obstacle == *heard {
        return;
    }
    heard.clone_from(&obstacle);
    process.note(What::Hears {
        subscription: consuming.subscription.as_str().into(),
        why: obstacle.unwrap_or_default().into(),
    });
}

fn note(process: &Process, consuming: &Consuming, delivery: &Delivery) {
    let event = delivery.event();
    let payload = &event.payload;
    let (subscription, topic) = (
        consuming.subscription.as_str().into(),
        (*delivery.topic).into(),
    );
    let (position, sequence) = (delivery.position, delivery.sequence);
    let attempt = delivery.attempt.into();
    let (n, hash) = (number(payload).unwrap_or(u64::MAX), hash(payload));
    let says = |name: &str| {
        let mut headers = event.headers.iter();
        let header = headers.find(|(header, _)| header == name);
        header.map(|(_, value)| value.as_str())
    };
    let counts = |name: &str| {
        says(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(u64::MAX)
    };
    process.note(match says("tidegate-dead-reason") {
        None if says("tidegate-hops").is_some() => What::Output {
            subscription,
            topic,
            position,
            sequence,
            attempt,
            n,
            hash,
        },
        None => What::Delivered {
            subscription,
            topic,
            position,
            sequence,
            attempt,
            n,
            hash,
        },
        Some(why) => What::Letter {
            subscription,
            topic,
            position,
            sequence,
            attempt,
            n,
            hash,
            of: says("tidegate-dead-subscription")
                .unwrap_or_default()
                .into(),
            from: says("tidegate-dead-topic").unwrap_or_default().into(),
            was: counts("tidegate-dead-sequence"),
            attempts: counts("tidegate-dead-attempts"),
            why: why.into(),
        },
    });
}

// How it fails on what is poison for it. Nothing is without an end: when the run drains, it takes what is handed out again and again.
fn fails(process: &Process, consuming: &Consuming, delivery: &Delivery) -> Option<Fails> {
    let number = number(&delivery.event().payload)?;
    let poison = consuming.poison.filter(|poison| poison.is_in(number))?;
    let runs = *process.scene.phase.borrow() == Phase::Runs;
    let mut subscriptions = process.scene.plan.subscriptions.iter();
    let of = subscriptions.find(|of| of.name == consuming.subscription)?;
    let ends = runs
        || match poison.does {
            Fails::Nack | Fails::NackAfter(_) => of.attempts.max > 0,
            Fails::Term => true,
            Fails::Silent | Fails::Dies => false,
        };
    ends.then_some(poison.does)
}

// Whether it says anything.
fn fail(process: &Process, consuming: &Consuming, delivery: &Delivery, fails: Fails) -> bool {
    let (answer, delay) = match fails {
        Fails::Silent | Fails::Dies => return false,
        Fails::Term => {
            say(process, consuming, delivery, Answer::Term);
            delivery.term(&format!("poison for {}", process.actor.name));
            return true;
        }
        Fails::Nack => (Answer::Nack, None),
        Fails::NackAfter(ms) => (Answer::Nack, Some(ms)),
    };
    waits(process, consuming, delivery, delay);
    say(process, consuming, delivery, answer);
    delivery.nack(delay.map(Duration::from_millis));
    true
}

// Says for how long it wants to be left alone, if not at once.
fn waits(process: &Process, consuming: &Consuming, delivery: &Delivery, delay_ms: Option<u64>) {
    let mut subscriptions = process.scene.plan.subscriptions.iter();
    let of = subscriptions.find(|of| of.name == consuming.subscription);
    let backoff = of.map_or(&[][..], |of| &of.attempts.backoff_ms);
    // How often it has failed before only the broker knows.
    let delay_ms = delay_ms.or(backoff.iter().min().copied());
    if let Some(delay_ms @ 1..) = delay_ms {
        process.note(What::Waits {
            subscription: consuming.subscription.as_str().into(),
            position: delivery.position,
            delay_ms,
        });
    }
}

fn say(process: &Process, consuming: &Consuming, delivery: &Delivery, answer: Answer) {
    process.note(What::Says {
        subscription: consuming.subscription.as_str().into(),
        position: delivery.position,
        answer,
    });
}

// Whether it says anything.
fn answer(process: &Process, consuming: &Consuming, delivery: &Delivery) -> bool {
    let says = &consuming.says;
    let position = delivery.position;
    let note = |answer| say(process, consuming, delivery, answer);
    let sum = says.ack + says.nack + says.extend + says.nothing + says.later + says.term;
    let drawn = process.draw("says", position * 64 + u64::from(delivery.attempt), sum);
    let is_over = *process.scene.phase.borrow() > Phase::Runs;
    if is_over || drawn < says.ack {
        note(Answer::Ack);
        delivery.ack();
    } else if drawn < says.ack + says.nack {
        note(Answer::Nack);
        delivery.nack(Some(Duration::ZERO));
    } else if drawn < says.ack + says.nack + says.extend {
        note(Answer::Extend);
        delivery.extend();
        note(Answer::Ack);
        delivery.ack();
    } else if drawn < sum - says.nothing - says.term {
        return fail(process, consuming, delivery, Fails::Nack);
    } else if drawn < sum - says.nothing {
        return fail(process, consuming, delivery, Fails::Term);
    } else {
        return false;
    }
    true
}

async fn flush(process: &Process, consuming: &Consuming, consumer: &Consumer) {
    let op = process.scene.op();
    process.note(What::Flushes {
        op,
        subscription: consuming.subscription.as_str().into(),
    });
    match consumer.flush_acks().await {
        Ok(()) => process.note(What::Confirmed { op }),
        Err(SubscribeError::NotHeld {
            positions,
            more: false,
        }) => {
            for position in positions.into_iter().flatten() {
                process.note(What::Late { op, position });
            }
            process.note(What::Confirmed { op });
        }
        Err(error) => {
            let code = subscribe_code(&error).into();
            process.note(What::NotConfirmed { op, code });
        }
    }
}
