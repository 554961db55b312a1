//! `tidegate sub`: prints the events of a subscription, and acks them once they are printed.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use tidegate_client::{Consumer, ConsumerOptions, Delivery, SubscribeError};

use super::admin_client::Api;
use super::connection_flags::{AdminFlag, CertificateFlags, QuicFlags, connect};
use super::event_lines::{self, Place};
use super::signals::Signals;
use super::wait_notices::{self, Patience};
use super::{human_values, output, subscription};
use crate::domain::{Name, StartAt, SubscriptionInfo, SubscriptionSpec, TopicPattern};

/// How long the last acks may take at the end. What is not confirmed comes again.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which subscription
    subscription: Name,
    /// Ack every event once it is printed (the default)
    #[arg(long, overrides_with = "no_ack")]
    ack: bool,
    /// Only look: print what is pending, in order, whoever has it in hand. Nothing is acked or kept from others, and
    /// nothing counts as an attempt
    #[arg(long, overrides_with = "ack")]
    no_ack: bool,
    /// End after this many events
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print one JSON object per event
    #[arg(long)]
    ndjson: bool,
    /// Create the subscription if there is none of this name
    #[arg(long, requires = "topic")]
    create: bool,
    /// Topics of the subscription to create: `*` stands for one token, a final `>` for the rest. Repeatable
    #[arg(long, short, value_name = "PATTERN", requires = "create")]
    topic: Vec<TopicPattern>,
    /// Where the subscription to create starts: new or earliest
    #[arg(long, default_value = "new", value_parser = human_values::word::<StartAt>, requires = "create")]
    start: StartAt,
    #[command(flatten)]
    quic: QuicFlags,
    #[command(flatten)]
    admin: AdminFlag,
    #[command(flatten)]
    certificates: CertificateFlags,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Nothing would be printed, and no write would fail.
    anyhow::ensure!(
        !output::was_closed(),
        "standard output is closed, so no event could be printed; to discard what comes, say `> /dev/null`"
    );
    if args.create {
        args.admin.check_beside(&args.quic)?;
    }
    let client = connect(&args.quic, &args.certificates).await?;
    // Only now: a subscription that nobody can consume would keep events for nobody.
    if args.create {
        create_if_missing(&args)?;
    }
    let name = args.subscription.as_str();
    let mut consumer = match args.no_ack {
        true => client.look(name, options(&args)).await?,
        false => client.subscribe(name, options(&args)).await?,
    };
    if std::io::stderr().is_terminal() {
        eprintln!("receiving from {name}; Ctrl-C ends");
    }
    let received = receive(&mut consumer, &args).await;
    // Also after an error: what was printed has been handled.
    let flushed = tokio::time::timeout(FLUSH_TIMEOUT, confirm_acks(&consumer)).await;
    consumer.close().await;
    client.close().await;
    received?;
    flushed.context("the last acks were not confirmed in time; their events may come again")??;
    Ok(ExitCode::SUCCESS)
}

// Waits until the acks are durable. Those that went down with a connection since are said at once: their events come again,
// mostly have already, and that is no failure of this end.
async fn confirm_acks(consumer: &Consumer) -> Result<(), SubscribeError> {
    if let Some(Err(error @ SubscribeError::AcksLost)) = consumer.flush_acks().now_or_never() {
        eprintln!("warning: {error}");
    }
    consumer.flush_acks().await
}

async fn receive(consumer: &mut Consumer, args: &Args) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut patience = Patience::default();
    let mut looks = tokio::time::interval(wait_notices::LOOK_EVERY);
    while left > 0 {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            _ = looks.tick() => {
                patience.say(consumer.obstacle());
                continue;
            }
            _ = signals.next() => return Ok(()),
        };
        let Some(delivery) = delivery else {
            return Ok(());
        };
        let delivery = delivery?;
        print(&delivery, args.ndjson)?;
        if !args.no_ack {
            delivery.ack();
        }
        left -= 1;
    }
    Ok(())
}

// With a count, no more is asked for than will be printed: what is only buffered here would count as handed
// out once.
fn options(args: &Args) -> ConsumerOptions {
    let default = ConsumerOptions::default();
    let credit_events = args.count.map_or(default.credit_events, |count| {
        count.min(default.credit_events)
    });
    ConsumerOptions {
        credit_events,
        ..default
    }
}

fn print(delivery: &Delivery, ndjson: bool) -> anyhow::Result<()> {
    let parts = delivery.parts();
    for (part, event) in parts.iter().enumerate() {
        let place = Place {
            topic: &delivery.topic,
            sequence: delivery.sequence,
            position: delivery.position,
            attempt: delivery.attempt,
            time_ms: delivery.time_ms,
            part,
            parts: parts.len(),
        };
        let line = if ndjson {
            event_lines::to_json(&place, event)?
        } else {
            event_lines::to_human(&place, event)
        };
        output::line(&line)?;
    }
    Ok(())
}

fn create_if_missing(args: &Args) -> anyhow::Result<()> {
    let api = Api::new(&args.admin, &args.certificates)?;
    let name = &args.subscription;
    match api.get::<SubscriptionInfo>(&subscription::path(name.as_str())) {
        Ok(info) if info.spec.topics != args.topic => {
            let topics: Vec<&str> = info.spec.topics.iter().map(TopicPattern::as_str).collect();
            eprintln!(
                "note: subscription {name} is there already, with topics {}; yours are not used",
                topics.join(" ")
            );
            return Ok(());
        }
        Ok(_) => return Ok(()),
        Err(error) if !error.is_not_found() => return Err(error.into()),
        Err(_) => {}
    }
    let spec = SubscriptionSpec {
        start: args.start,
        ..SubscriptionSpec::new(name.clone(), args.topic.clone())
    };
    match api.post::<SubscriptionInfo>("/v1/subscriptions", &spec) {
        Ok(_) => eprintln!("created subscription {name}"),
        // Somebody else was faster.
        Err(error) if error.is_already_there() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
