//! `tidegate pub`: one event from the command line, or many from lines, NDJSON or a file, pipelined. How answers are taken and how
//! long they are waited for at the end is in `answers`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tidegate_client::{Client, Event, PublishError, PublishTicket, Publisher, PublisherOptions};
use tokio::io::{AsyncRead, BufReader};

use self::answers::{Answers, Unanswered};
use self::totals::Totals;
use super::bounded_lines::{BoundedLines, Reader, all_of};
use super::connect::connect;
use super::connection_flags::{CertificateFlags, PathFlags, QuicFlags};
use super::obstacles::LinkWatch;
use super::output::{self, Format, OutputFlags};
use super::signals::{INTERRUPTED, Signals};
use super::time_limit::TimeLimit;
use super::wait_notices::{self, Patience};
use super::wrong_usage::wrong_usage;
use super::{event_lines, human_values};
use crate::domain::{TopicName, UniqueKeys};
use crate::locks::lock;

mod answers;
mod totals;

/// How long nothing is answered before that is odd.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to
    topic: TopicName,
    /// The payload. Without it and without another source, every line of standard input is an event
    #[arg(group = "source")]
    message: Option<String>,
    /// One event with the content of this file (-: standard input)
    #[arg(long, group = "source", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Every line of standard input is an event
    #[arg(long, group = "source")]
    lines: bool,
    /// Every line of this file (-: standard input) is a JSON payload. One with a name twice in an object is refused
    #[arg(long, group = "source", value_name = "FILE")]
    ndjson: Option<PathBuf>,
    /// Every line of this file (-: standard input) is an event as `tidegate sub --ndjson` prints it. Headers that the broker
    /// sets (`tidegate-…`) are left out
    #[arg(long, group = "source", value_name = "FILE")]
    events: Option<PathBuf>,
    /// Header of every event. Repeatable
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = human_values::pair)]
    header: Vec<(String, String)>,
    /// Key of every event
    #[arg(long)]
    key: Option<String>,
    /// Media type of every payload [default: application/json with --ndjson, else none]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// End with an error (exit code 124) when an event is not answered for this long
    #[arg(long, value_name = "TIME", value_parser = human_values::limit_ms)]
    timeout: Option<u64>,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    quic: QuicFlags,
    #[command(flatten)]
    path: PathFlags,
    #[command(flatten)]
    certificates: CertificateFlags,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut source = Source::open(&args).await?;
    let limit = TimeLimit::new(args.timeout);
    let connecting = connect(&args.quic, &args.certificates, limit, |options| {
        args.path.on(options)
    });
    let broker = connecting.await?;
    let client = &broker.client;
    let options = PublisherOptions {
        delivery_timeout: limit.get(),
        ..PublisherOptions::default()
    };
    let publisher = limit.of("the broker takes no publisher", client.publisher(options));
    let mut sender = Sender {
        publisher: publisher.await??,
        answers: Answers::new(Totals {
            topic: args.topic.to_string(),
            ..Totals::default()
        }),
        progress: progress(&source),
    };
    let result = sender.send_all(client, &mut source, &args).await;
    sender.progress.finish_and_clear();
    let result = match result {
        Ok(interrupted) => Ok(interrupted),
        Err(error) => Err(broker.explained(error).await),
    };
    client.close().await;
    let totals = &sender.answers.totals;
    let interrupted = match result {
        Err(error) if totals.events > 0 => {
            return Err(error.context(format!(
                "{} events were published before this",
                totals.events
            )));
        }
        result => result?,
    };
    if interrupted {
        sender.say_what_is_left();
    }
    // Without an answer there is nothing to sum up.
    let format = args.output.format();
    if !interrupted || format == Format::Json || totals.events > 0 {
        output::either(format, totals, Totals::told)?;
    }
    if totals.unkept > 0 {
        let Totals { unkept, events, .. } = totals;
        output::note(&format!(
            "note: {unkept} of {events} not kept, since no subscription is for it"
        ));
    }
    Ok(if interrupted {
        ExitCode::from(INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

struct Sender {
    publisher: Publisher,
    answers: Answers<PublishTicket>,
    progress: ProgressBar,
}

/// Looks after what is in the way of events that were sent.
struct Watch<'a> {
    link: LinkWatch<'a>,
    publisher: Publisher,
    unanswered: Unanswered,
}

impl Watch<'_> {
    fn obstacle(&mut self) -> Option<String> {
        let quiet = self.unanswered.lasts();
        let link = self.link.obstacle(quiet);
        let refused = || self.publisher.obstacle();
        let silent = || {
            let no_answer = "the broker has not answered what was sent".to_owned();
            (quiet >= SILENCE).then_some(no_answer)
        };
        link.or_else(refused).or_else(silent)
    }
}

impl Sender {
    // Whether a signal ended it. What was sent until then is waited for a little, unless the broker takes nothing now.
    async fn send_all(
        &mut self,
        client: &Client,
        source: &mut Source,
        args: &Args,
    ) -> anyhow::Result<bool> {
        let mut signals = Signals::new()?;
        let publisher = self.publisher.clone();
        let is_hindered = || publisher.obstacle().is_some() || client.trouble().is_some();
        let mut watch = Watch {
            link: LinkWatch::new(client),
            publisher: publisher.clone(),
            unanswered: self.answers.unanswered(),
        };
        let latest = Arc::new(Mutex::new(None));
        let why = {
            let latest = Arc::clone(&latest);
            move || {
                let why = watch.obstacle();
                lock(&latest).clone_from(&why);
                why
            }
        };
        let mut patience = Patience::default();
        let ended = {
            let mut said = std::pin::pin!(wait_notices::say_why(&mut patience, why));
            let (sent, interrupted) = tokio::select! {
                sent = self.send_each(source, args) => (sent, false),
                never = &mut said => match never {},
                _ = signals.next() => (Ok(()), true),
            };
            // After an error too: what was sent before it is on its way, and counts.
            let until = answers::patience(interrupted, is_hindered);
            tokio::select! {
                biased;
                settled = self.answers.all() => sent.and(settled.map_err(Into::into)).map(|()| interrupted),
                never = &mut said => match never {},
                _ = signals.next() => sent.map(|()| true),
                () = tokio::time::sleep(until) => sent.map(|()| true),
            }
        };
        if let Ok(false) = ended {
            patience.is_over();
        }
        ended.map_err(|error| match error.downcast_ref() {
            Some(PublishError::TimedOut { after }) => {
                let why = lock(&latest).take();
                let over = TimeLimit::after(*after).check(*after, "no answer", why.as_deref());
                over.err().map_or(error, |over| {
                    anyhow::Error::new(over).context("events may or may not be published")
                })
            }
            _ => error,
        })
    }

    fn say_what_is_left(&self) {
        let due = self.answers.due();
        if due > 0 {
            output::note(&format!(
                "note: interrupted; {due} were sent and not answered, so they may be published or not; to publish them once more may publish them twice"
            ));
        }
    }

    async fn send_each(&mut self, source: &mut Source, args: &Args) -> anyhow::Result<()> {
        let Self {
            publisher,
            answers,
            progress,
        } = self;
        let event_max = publisher.event_bytes_max();
        while let Some((event, bytes)) = answers.while_waiting(source.next(event_max)).await?? {
            let sending = publisher.send(args.topic.as_str(), decorated(event, args));
            let ticket = answers.while_waiting(sending).await??;
            answers.push(ticket).await?;
            progress.inc(bytes);
        }
        Ok(())
    }
}

fn decorated(mut event: Event, args: &Args) -> Event {
    event.headers.extend(args.header.iter().cloned());
    if let Some(key) = &args.key {
        event.key = Some(key.clone().into());
    }
    if let Some(content_type) = &args.content_type {
        event.content_type.clone_from(content_type);
    }
    event
}

// Where events come from.
enum Source {
    One(Option<Event>),
    File {
        content: Option<Reader>,
        path: PathBuf,
    },
    Lines {
        lines: BoundedLines,
        kind: LineKind,
        number: u64,
        length: Option<u64>,
    },
}

#[derive(Clone, Copy)]
enum LineKind {
    Text,
    Json,
    Envelope,
}

impl LineKind {
    // What a line may have in which an event of so many bytes is. Somebody may write each of its bytes as `\u0000`, and the
    // broker says more of an event than a publisher does.
    fn line_bytes_max(self, event_max: usize) -> usize {
        match self {
            Self::Text | Self::Json => event_max.saturating_add("\r".len()),
            Self::Envelope => event_max.saturating_mul(6).saturating_add(64 * 1024),
        }
    }
}

impl Source {
    async fn open(args: &Args) -> anyhow::Result<Self> {
        if let Some(message) = &args.message {
            return Ok(Self::One(Some(Event::new(message.clone()))));
        }
        if let Some(path) = &args.file {
            let (reader, _) = open(path).await?;
            return Ok(Self::File {
                content: Some(reader),
                path: path.clone(),
            });
        }
        let (path, kind) = match (&args.ndjson, &args.events) {
            (Some(path), _) => (path.as_path(), LineKind::Json),
            (None, Some(path)) => (path.as_path(), LineKind::Envelope),
            (None, None) => (Path::new("-"), LineKind::Text),
        };
        let implicit = !args.lines && args.ndjson.is_none() && args.events.is_none();
        if implicit && std::io::stdin().is_terminal() {
            wrong_usage!(
                "say what to publish: a MESSAGE, --file, --ndjson, or --lines to type events line by line"
            );
        }
        let (reader, length) = open(path).await?;
        Ok(Self::Lines {
            lines: BoundedLines::new(reader),
            kind,
            number: 0,
            length,
        })
    }

    // The next event, and what it adds to the progress, for a broker that takes events of so many bytes. Cancel-safe but for a file,
    // as reading a line is.
    async fn next(&mut self, event_max: usize) -> anyhow::Result<Option<(Event, u64)>> {
        match self {
            Self::One(event) => Ok(event.take().map(|event| (event, 1))),
            Self::File { content, path } => match content.take() {
                None => Ok(None),
                Some(reader) => {
                    let content = all_of(reader, event_max).await;
                    let content =
                        content.with_context(|| format!("cannot read {}", path.display()))?;
                    Ok(Some((Event::new(content), 1)))
                }
            },
            Self::Lines {
                lines,
                kind,
                number,
                length,
            } => loop {
                *number += 1;
                let line = lines.next(kind.line_bytes_max(event_max)).await;
                let Some(line) = line.with_context(|| format!("line {number}"))? else {
                    return Ok(None);
                };
                let line = text_of(line).with_context(|| format!("line {number}"))?;
                if line.trim().is_empty() && !matches!(kind, LineKind::Text) {
                    continue;
                }
                let step = if length.is_some() {
                    line.len() as u64 + 1
                } else {
                    1
                };
                let event = parse(line, *kind).with_context(|| format!("line {number}"))?;
                return Ok(Some((event, step)));
            },
        }
    }
}

// Without the carriage return that some systems end lines with.
fn text_of(mut line: Vec<u8>) -> anyhow::Result<String> {
    line.pop_if(|last| *last == b'\r');
    String::from_utf8(line).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!(
            "this is not UTF-8 text, from byte {} of the line on; one event with the content of a file is published with --file",
            at + 1
        )
    })
}

fn parse(line: String, kind: LineKind) -> anyhow::Result<Event> {
    match kind {
        LineKind::Text => Ok(Event::new(line)),
        LineKind::Json => {
            UniqueKeys::check(line.as_bytes()).map_err(not_as_json)?;
            Ok(Event::json(line))
        }
        // What the broker said of it when it was delivered it will say anew.
        LineKind::Envelope => event_lines::from_json(&line).map(Event::without_broker_headers),
    }
}

fn not_as_json(error: serde_json::Error) -> anyhow::Error {
    let what = match error.is_data() {
        true => {
            "consumers would read this in different ways; to publish it as it is, use --lines --content-type application/json"
        }
        false => "this is not JSON",
    };
    event_lines::in_a_line(error).context(what)
}

async fn open(path: &Path) -> anyhow::Result<(Reader, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((buffered(tokio::io::stdin()), None));
    }
    let context = || format!("cannot read {}", path.display());
    let file = tokio::fs::File::open(path).await.with_context(context)?;
    let metadata = file.metadata().await.with_context(context)?;
    // Pipes and devices have no length.
    let length = metadata.is_file().then_some(metadata.len());
    Ok((buffered(file), length))
}

fn buffered(reader: impl AsyncRead + Send + Unpin + 'static) -> Reader {
    Box::new(BufReader::with_capacity(256 * 1024, reader))
}

fn progress(source: &Source) -> ProgressBar {
    let length = match source {
        Source::Lines { length, .. } if std::io::stderr().is_terminal() => *length,
        _ => return ProgressBar::hidden(),
    };
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos} events {per_sec}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_events_of_their_kind() {
        let event = |line: &str, kind| parse(line.to_owned(), kind);
        assert_eq!(
            event("a b", LineKind::Text).expect("text"),
            Event::new("a b")
        );
        assert_eq!(
            event("{\"a\":1}", LineKind::Json).expect("JSON"),
            Event::json("{\"a\":1}")
        );
        assert!(event("{", LineKind::Json).is_err());
        assert_eq!(
            event("{\"text\":\"x\"}", LineKind::Envelope).expect("an event"),
            Event::new("x")
        );
        assert!(event("[]", LineKind::Envelope).is_err());
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_line_is_said_with_its_number() {
        let check = async |content: &'static [u8], kind, expected: &str| {
            let mut source = Source::Lines {
                lines: BoundedLines::new(buffered(content)),
                kind,
                number: 0,
                length: None,
            };
            let wrong = loop {
                match source.next(1_000).await {
                    Ok(more) => assert!(more.is_some(), "{expected}"),
                    Err(error) => break format!("{error:#}"),
                }
            };
            assert!(wrong.starts_with(expected), "{wrong}");
        };
        let binary = b"a\r\nb\nfo\xFFo\n";
        let expected = "line 3: this is not UTF-8 text, from byte 3";
        check(binary, LineKind::Text, expected).await;
        let json = b"1\n\n\xC3(\n";
        let expected = "line 3: this is not UTF-8 text, from byte 1";
        check(json, LineKind::Json, expected).await;
        check(b"\xFF", LineKind::Envelope, "line 1: this is not UTF-8").await;
        let expected = "line 2: this is not JSON: EOF while parsing an object, at byte 1";
        check(b"1\n{", LineKind::Json, expected).await;
        let twice = b"{}\n{\"a\":[{\"b\":1,\"b\":2}]}\n";
        let expected = "line 2: consumers would read this in different ways";
        check(twice, LineKind::Json, expected).await;
        let twice = b"{\"headers\":{\"a\":\"1\",\"a\":\"2\"}}";
        let expected =
            "line 1: this is no event as `tidegate sub --ndjson` prints it: `a` stands twice";
        check(twice, LineKind::Envelope, expected).await;
        let long: &[u8] = Box::leak(vec![b'1'; 1_002].into_boxed_slice());
        check(long, LineKind::Json, "line 1: it has more than 1001 bytes").await;
        assert_eq!(text_of(b"a\r".to_vec()).expect("text"), "a");
    }
}
