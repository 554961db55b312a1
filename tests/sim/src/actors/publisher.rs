//! A publisher: publishes what the plan says, one request for each event, and hears of each by itself.

use std::time::Duration;

use tidegate_client::{Event, PublishError, Publisher, PublisherOptions};
use tokio::time::sleep;

use super::{AGAIN, Came, Phase, Process, code};
use crate::history::What;
use crate::plan::payload::{hash, payload};
use crate::plan::{Publishing, Timed};
use crate::simulation::{self, Handed};

/// Does what is left of `does` from `from` on. What is not done when the run drains is left out.
pub(super) async fn run(process: Process, does: Vec<Timed<Publishing>>, from: usize) -> Came {
    let client = process.client().await;
    let publisher = loop {
        match client.publisher(PublisherOptions::default()).await {
            Ok(publisher) => break publisher,
            Err(_) => sleep(AGAIN).await,
        }
    };
    let mut hears = Vec::new();
    for (at, timed) in does.iter().enumerate().skip(from) {
        sleep(Duration::from_millis(timed.after_ms)).await;
        if *process.scene.phase.borrow() >= Phase::Drains {
            break;
        }
        match &timed.does {
            Publishing::Publish {
                topic,
                events,
                bytes,
            } => {
                for _ in 0..*events {
                    hears.extend(publish(&process, &publisher, topic, *bytes).await);
                }
            }
            Publishing::Flush => {
                let hears = std::mem::take(&mut hears);
                all(hears).await;
            }
            Publishing::Die => {
                process.die();
                return Came::ToDie(at + 1);
            }
        }
    }
    all(hears).await;
    client.close().await;
    Came::ToItsEnd
}

async fn all(hears: Vec<Handed<()>>) {
    for heard in hears {
        heard.await;
    }
}

// Whoever waits for the answer, in a strand of its own.
async fn publish(
    process: &Process,
    publisher: &Publisher,
    topic: &str,
    bytes: u64,
) -> Option<Handed<()>> {
    let (op, n) = (process.scene.op(), process.scene.number());
    let payload = payload(n, bytes);
    process.note(What::Publishes {
        op,
        producer: format!("{}.{}", process.actor.name, process.incarnation).into(),
        topic: topic.into(),
        n,
        hash: hash(&payload),
    });
    let ticket = match publisher.send(topic, Event::new(payload)).await {
        Ok(ticket) => ticket,
        Err(error) => {
            failed(process, op, &error);
            return None;
        }
    };
    let process = process.clone();
    let hears = async move {
        match ticket.await {
            Ok(published) => process.note(What::Published {
                op,
                sequence: published.sequence,
                is_duplicate: published.duplicate,
            }),
            Err(error) => failed(&process, op, &error),
        }
    };
    Some(simulation::start("hears", hears))
}

fn failed(process: &Process, op: u64, error: &PublishError) {
    let is_sure = match error {
        PublishError::Event(_) | PublishError::TopicName { .. } => true,
        // It may have been taken before a connection was lost, and refused when it was sent again.
        PublishError::Refused(_) => process.scene.is_calm(),
        _ => false,
    };
    let code = code(error).into();
    process.note(What::NotPublished { op, code, is_sure });
}
