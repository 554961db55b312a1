//! `tidegate sub`: prints the events of a subscription, and acks them once they are printed.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tidegate_client::{Client, Consumer, ConsumerOptions, Delivery, SubscribeError};
use tokio::time::Instant;

use super::admin_client::Api;
use super::connect::connect;
use super::connection_flags::{AdminFlag, CertificateFlags, PathFlags, QuicFlags};
use super::event_lines::{self, Place};
use super::obstacles::{LinkWatch, SubscriptionWatch};
use super::output::{self, Format, OutputFlags};
use super::signals::{INTERRUPTED, Signals};
use super::time_limit::{self, TimeLimit};
use super::wait_notices::{self, Patience};
use super::{human_values, subscription};
use crate::domain::{Name, StartAt, SubscriptionInfo, SubscriptionSpec, TopicPattern};
use crate::runtime::Random;

/// How long the last acks may take at the end. What is not confirmed comes again.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What did not happen then, and what comes of it.
const UNCONFIRMED: &str = "the last acks were not confirmed";
const COME_AGAIN: &str = "the events of the last acks may come again";

/// After so much time without this command a temporary subscription goes by itself: enough for a restart of the broker or a lost
/// network, and what it keeps meanwhile is bounded.
const TEMPORARY_IDLE_MS: u64 = 10 * 60 * 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which subscription
    #[arg(required_unless_present = "temporary")]
    subscription: Option<Name>,
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
    /// End with an error (exit code 124) when no event has come for this long
    #[arg(long, value_name = "TIME", value_parser = human_values::limit_ms)]
    timeout: Option<u64>,
    /// Print one JSON object per event; the same as --output json
    #[arg(long, conflicts_with = "output")]
    ndjson: bool,
    /// Create the subscription if there is none of this name. It stays, and keeps events, until it is deleted
    #[arg(long, requires = "topic", group = "makes")]
    create: bool,
    /// Create a subscription for this once, and delete it at the end. Without a name it gets one
    ///
    /// If this program is killed without warning (SIGKILL), cannot reach the broker at its end, or is interrupted again while it ends,
    /// the broker deletes it ten minutes later. So it does if the program cannot reach the broker for that long meanwhile.
    #[arg(long, requires = "topic", group = "makes")]
    temporary: bool,
    /// Topics of the subscription to create: `*` stands for one token, a final `>` for the rest. Repeatable
    #[arg(long, short, value_name = "PATTERN", requires = "makes")]
    topic: Vec<TopicPattern>,
    /// Where the subscription to create starts: new or earliest
    #[arg(long, default_value = "new", value_parser = human_values::word::<StartAt>, requires = "makes")]
    start: StartAt,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    quic: QuicFlags,
    #[command(flatten)]
    path: PathFlags,
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
    if args.create || args.temporary {
        args.admin.check_beside(&args.quic, &args.certificates)?;
    }
    let limit = TimeLimit::new(args.timeout);
    let connecting = connect(&args.quic, &args.certificates, limit, |options| {
        args.path.on(options)
    });
    let broker = connecting.await?;
    let name = match &args.subscription {
        Some(name) => name.clone(),
        None => format!(
            "temporary-{:08x}",
            u32::from_be_bytes(Random::of_system().bytes())
        )
        .parse()?,
    };
    // Before there is something to put away.
    let mut signals = match args.temporary {
        true => Signals::with_hangups()?,
        false => Signals::new()?,
    };
    let args = Arc::new(args);
    // Only now: a subscription that nobody can consume would keep events for nobody.
    if (args.create || args.temporary) && create(&args, &name, limit, &mut signals).await? {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let received = receive_all(&args, &broker.client, &name, limit, &mut signals).await;
    tokio::select! {
        () = broker.client.close() => {}
        _ = signals.next() => {}
    }
    let put_away = match args.temporary {
        true => delete_temporary(&args, &name, limit, &mut signals).await,
        false => ExitCode::SUCCESS,
    };
    match received {
        Ok(true) => Ok(ExitCode::from(INTERRUPTED)),
        Ok(false) => Ok(put_away),
        Err(error) => Err(broker.explained(error).await),
    }
}

// Whether a signal ended it before it was done.
async fn receive_all(
    args: &Args,
    client: &Client,
    name: &Name,
    limit: TimeLimit,
    signals: &mut Signals,
) -> anyhow::Result<bool> {
    let options = options(args.count);
    let opening = async {
        match args.no_ack {
            true => client.look(name.as_str(), options).await,
            false => client.subscribe(name.as_str(), options).await,
        }
    };
    let mut consumer = tokio::select! {
        opened = limit.of("the subscription is not opened", opening) => opened??,
        // The broker may have it already, and so look to others as if it were open.
        _ = signals.next() => return Ok(args.count.is_some()),
    };
    if std::io::stderr().is_terminal() {
        output::note(&format!("receiving from {name}; Ctrl-C ends"));
    }
    let received = receive(&mut consumer, client, args, name, limit, signals).await;
    // Also after an error: what was printed has been handled. An answer counts against the limit like an event, if that is shorter.
    let waited = limit.get().unwrap_or(FLUSH_TIMEOUT).min(FLUSH_TIMEOUT);
    let last_words = async {
        let confirmed = confirm_acks(&consumer);
        let flushed = TimeLimit::after(waited).of(UNCONFIRMED, confirmed).await;
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, consumer.close()).await;
        flushed
    };
    let flushed = tokio::select! {
        biased;
        flushed = last_words => flushed,
        // Whoever says it a second time does not want to wait for that.
        _ = signals.next() => {
            output::note("note: interrupted before the last acks were confirmed; their events may come again");
            return received.map(|_| true);
        }
    };
    let unconfirmed = match flushed {
        Ok(Ok(())) => return received,
        Ok(Err(error)) => anyhow::Error::new(error),
        // Without a limit of the user's it is a failure like others.
        Err(over) if limit.get().is_none() => anyhow::Error::msg(over.to_string()),
        Err(over) => over.into(),
    };
    end_unconfirmed(received, unconfirmed)
}

// How it ends that the last acks are not confirmed. By what it was ended before goes first, and the other is only said then.
fn end_unconfirmed(
    received: anyhow::Result<bool>,
    unconfirmed: anyhow::Error,
) -> anyhow::Result<bool> {
    if let Ok(false) = received {
        return Err(unconfirmed.context(COME_AGAIN));
    }
    output::note(&format!("warning: {unconfirmed:#}; {COME_AGAIN}"));
    received
}

// Waits until the acks are durable. What was too late, or went down with a connection before, is only said: these events come again,
// mostly have already, and that is no failure of this end.
async fn confirm_acks(consumer: &Consumer) -> Result<(), SubscribeError> {
    // Both may be known already.
    if let Some(Err(error @ (SubscribeError::AcksLost | SubscribeError::NotHeld { .. }))) =
        consumer.flush_acks().now_or_never()
    {
        output::note(&format!("warning: {error}"));
    }
    match consumer.flush_acks().await {
        Err(error @ SubscribeError::NotHeld { .. }) => {
            output::note(&format!("warning: {error}"));
            Ok(())
        }
        confirmed => confirmed,
    }
}

// Whether a signal ended it before it was done: without a count, that is how it ends.
async fn receive(
    consumer: &mut Consumer,
    client: &Client,
    args: &Args,
    name: &Name,
    limit: TimeLimit,
    signals: &mut Signals,
) -> anyhow::Result<bool> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut patience = Patience::default();
    let mut looks = tokio::time::interval(wait_notices::LOOK_EVERY);
    let mut link = LinkWatch::new(client);
    let mut standing = SubscriptionWatch::new(name, &args.quic, &args.admin, &args.certificates);
    if args.no_ack {
        // What was looked at stays, and is no sign of anything.
        standing.ask_nothing();
    }
    let mut idle_since = Instant::now();
    while left > 0 {
        let delivery = tokio::select! {
            biased;
            _ = signals.next() => return Ok(args.count.is_some()),
            delivery = consumer.next() => delivery,
            _ = looks.tick() => {
                let idle = idle_since.elapsed();
                // That no event comes is nothing odd, and no reason to ask for the broker.
                let why = link.obstacle(Duration::ZERO);
                // It says what lets it go on, which the consumer is not told.
                let why = why.or_else(|| standing.obstacle(idle)).or_else(|| consumer.obstacle());
                patience.say(why);
                limit.check(idle, "no event came", patience.obstacle())?;
                continue;
            }
        };
        let Some(delivery) = delivery else {
            return Ok(false);
        };
        let delivery = delivery?;
        print(&delivery, args.format())?;
        if !args.no_ack {
            delivery.ack();
        }
        left -= 1;
        idle_since = Instant::now();
        standing.is_flowing();
    }
    patience.is_over();
    Ok(false)
}

impl Args {
    fn format(&self) -> Format {
        match self.ndjson {
            true => Format::Json,
            false => self.output.format(),
        }
    }
}

// No more is asked for than will be printed, so that others get the rest.
fn options(count: Option<u64>) -> ConsumerOptions {
    ConsumerOptions {
        events_max: count.unwrap_or(0),
        ..ConsumerOptions::default()
    }
}

fn print(delivery: &Delivery, format: Format) -> anyhow::Result<()> {
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
        let line = match format {
            Format::Json => event_lines::to_json(&place, event)?,
            Format::Table => event_lines::to_human(&place, event),
            Format::Wide => {
                let time = human_values::moment(delivery.time_ms);
                let line = event_lines::to_human(&place, event);
                format!("{time} @{} {line}", delivery.position)
            }
        };
        output::line(&line)?;
    }
    Ok(())
}

// Makes the subscription. Whether a signal came first.
async fn create(
    args: &Arc<Args>,
    name: &Name,
    limit: TimeLimit,
    signals: &mut Signals,
) -> anyhow::Result<bool> {
    let making = asked(args, name, |args, name| match args.temporary {
        true => create_temporary(args, name),
        false => create_if_missing(args, name),
    });
    let made = tokio::select! {
        made = limit.of("the subscription is not created", making) => Some(made),
        _ = signals.next() => None,
    };
    if let Some(Ok(made)) = made {
        return made.map(|()| false);
    }
    output::note(&format!(
        "warning: subscription {name} may be created all the same, and then keeps events until it is deleted with: tidegate \
         subscription delete {name}"
    ));
    made.transpose().map(|_| true).map_err(anyhow::Error::from)
}

// A request to the admin API, which is no task's to wait for.
async fn asked(
    args: &Arc<Args>,
    name: &Name,
    ask: impl FnOnce(&Args, &Name) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let (args, name) = (Arc::clone(args), name.clone());
    tokio::task::spawn_blocking(move || ask(&args, &name)).await?
}

fn create_if_missing(args: &Args, name: &Name) -> anyhow::Result<()> {
    let api = Api::new(&args.admin, &args.certificates)?;
    match api.get::<SubscriptionInfo>(&subscription::path(name.as_str())) {
        Ok(info) if info.spec.topics != args.topic => {
            let topics: Vec<&str> = info.spec.topics.iter().map(TopicPattern::as_str).collect();
            output::note(&format!(
                "note: subscription {name} is there already, with topics {}; yours are not used",
                topics.join(" ")
            ));
            return Ok(());
        }
        Ok(_) => return Ok(()),
        Err(error) if !error.is_not_found() => return Err(error.into()),
        Err(_) => {}
    }
    match api.post::<SubscriptionInfo>("/v1/subscriptions", &args.spec(name)) {
        Ok(_) => output::note(&format!(
            "created subscription {name}; it keeps events until it is deleted with: tidegate subscription delete {name}"
        )),
        // Somebody else was faster.
        Err(error) if error.is_already_there() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

// Never one that is there: it would be deleted at the end.
fn create_temporary(args: &Args, name: &Name) -> anyhow::Result<()> {
    let api = Api::new(&args.admin, &args.certificates)?;
    let created = api.post::<SubscriptionInfo>("/v1/subscriptions", &args.spec(name));
    created.map_err(|error| match error.is_already_there() {
        true => anyhow::Error::new(error).context(
            "a temporary subscription is made and deleted here, so its name has to be a new one",
        ),
        false => error.into(),
    })?;
    output::note(&format!(
        "created subscription {name}, which goes with this command"
    ));
    Ok(())
}

// How the command ends, if all else went well.
async fn delete_temporary(
    args: &Arc<Args>,
    name: &Name,
    limit: TimeLimit,
    signals: &mut Signals,
) -> ExitCode {
    let deleting = asked(args, name, |args, name| {
        let api = Api::new(&args.admin, &args.certificates)?;
        Ok(api.delete(&subscription::path(name.as_str()))?)
    });
    let (error, code) = tokio::select! {
        deleted = limit.of("it is not deleted", deleting) => match deleted {
            Ok(Ok(())) => {
                output::note(&format!("deleted subscription {name}"));
                return ExitCode::SUCCESS;
            }
            Ok(Err(error)) => (error, ExitCode::FAILURE),
            Err(over) => (over.into(), ExitCode::from(time_limit::EXIT_CODE)),
        },
        _ = signals.next() => (anyhow::Error::msg("interrupted"), ExitCode::from(INTERRUPTED)),
    };
    output::note(&format!(
        "warning: subscription {name} stays for ten minutes, or until it is deleted with: tidegate subscription delete {name} ({error:#})"
    ));
    code
}

impl Args {
    fn spec(&self, name: &Name) -> SubscriptionSpec {
        SubscriptionSpec {
            start: self.start,
            delete_after_idle_ms: self.temporary.then_some(TEMPORARY_IDLE_MS),
            ..SubscriptionSpec::new(name.clone(), self.topic.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_asked_for_than_will_be_printed() {
        let asked = |count| (options(count).events_max, options(count).credit_events);
        assert_eq!((asked(Some(1)), asked(Some(60_000))), ((1, 0), (60_000, 0)));
        assert_eq!(asked(None), (0, 0), "any number");
    }

    #[test]
    fn what_ended_it_is_told_before_acks_that_are_not_confirmed() {
        let end = |received| {
            let end = end_unconfirmed(received, anyhow::Error::msg(UNCONFIRMED));
            end.map_err(|error| format!("{error:#}"))
        };
        let both = format!("{COME_AGAIN}: {UNCONFIRMED}");
        assert_eq!(end(Ok(false)), Err(both));
        assert_eq!(end(Ok(true)), Ok(true));
        let over = anyhow::Error::msg("no event came within 2s");
        assert_eq!(end(Err(over)), Err("no event came within 2s".to_owned()));
    }
}
