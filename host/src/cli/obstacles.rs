//! What is in the way of a command that waits: its connection, or the subscription that it reads. Found out now and then while
//! nothing happens, and not at all while something does.

use std::net::ToSocketAddrs;
use std::time::Duration;

use tidegate_client::Client;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::Instant;

use super::admin_client::Api;
use super::connection_flags::{AdminFlag, CertificateFlags, QuicFlags};
use super::door::Door;
use super::failed_connection::PortProbe;
use super::subscription;
use super::subscription::going_on::going_on;
use crate::domain::{Name, SubscriptionInfo};

/// What was asked for has to be unanswered for so long before that is odd, and the port is asked whether there is still a broker.
const QUIET: Duration = Duration::from_secs(1);
/// How often it is asked then.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How long nothing comes before it is asked how the subscription stands, and how often after that: ever more seldom, since each look is
/// worth many keep-alives, and least where nothing is in the way. What pauses a subscription meanwhile, the broker tells by itself.
const LOOK_AFTER: Duration = Duration::from_secs(2);
const LOOK_EVERY_MIN: Duration = Duration::from_secs(5);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY_MAX_WELL: Duration = Duration::from_secs(10 * 60);

/// Looks after the connection to the broker.
pub(super) struct LinkWatch<'a> {
    client: &'a Client,
    address: Option<String>,
    port: PortWatch,
}

impl<'a> LinkWatch<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self {
            client,
            address: None,
            port: PortWatch::default(),
        }
    }

    /// What is in the way. Nothing that was asked for has been answered for `quiet`, as far as the command knows.
    pub(super) fn obstacle(&mut self, quiet: Duration) -> Option<String> {
        let trouble = self.client.trouble();
        let unanswered = self.client.unanswered();
        let is_closed = self.is_closed(quiet.max(unanswered));
        let address = self.address();
        match (trouble, is_closed) {
            (_, true) => Some(format!(
                "nothing listens at {address} any more; connecting again once the broker is back"
            )),
            (Some(error), false) => {
                let error = anyhow::Error::msg(error);
                Some(format!(
                    "there is no connection to {address}; connecting again ({error:#})"
                ))
            }
            (None, false) => (unanswered >= QUIET).then(|| nothing_comes(address)),
        }
    }

    /// What is in the way of one connection that is not made anew, when nothing has come over it for `quiet`.
    pub(super) fn silence(&mut self, quiet: Duration) -> String {
        let is_closed = self.is_closed(quiet);
        let address = self.address();
        match is_closed {
            true => format!("nothing listens at {address} any more"),
            false => nothing_comes(address),
        }
    }

    // Where the broker is, or was when it was last connected to.
    fn address(&self) -> &str {
        self.address.as_deref().unwrap_or_default()
    }

    // Whether nothing listens there any more, after nothing has happened for `quiet`.
    fn is_closed(&mut self, quiet: Duration) -> bool {
        if let Some(address) = self.client.address()
            && self.address.as_ref() != Some(&address)
        {
            self.port = PortWatch::new(&address);
            self.address = Some(address);
        }
        (quiet >= QUIET || self.client.trouble().is_some()) && self.port.is_closed()
    }
}

fn nothing_comes(address: &str) -> String {
    format!("nothing comes from {address}")
}

/// Looks whether there is a broker at a port.
#[derive(Default)]
pub(super) struct PortWatch {
    /// Its address is being found out, which may take a resolver long.
    resolving: Option<oneshot::Receiver<PortProbe>>,
    probe: Option<PortProbe>,
    probed: Option<Instant>,
    refusals: Refusals,
}

/// Whether a port is closed, as far as is known from what came of asking.
#[derive(Debug, Default)]
struct Refusals {
    is_closed: bool,
    /// So many times in a row nothing was refused.
    silent: u32,
}

impl Refusals {
    /// A machine says that nobody listens, if at all: such a word may be lost, or be one too many, as where a client tries to connect.
    const SILENT_MAX: u32 = 4;

    fn asked(&mut self, is_refused: bool) {
        self.silent = match is_refused {
            true => 0,
            false => self.silent.saturating_add(1),
        };
        self.is_closed = is_refused || self.is_closed && self.silent <= Self::SILENT_MAX;
    }
}

impl PortWatch {
    /// Of a broker at `host:port`; of its first address, if it has several.
    pub(super) fn new(address: &str) -> Self {
        let (sender, resolving) = oneshot::channel();
        let address = address.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut addresses = address.to_socket_addrs().into_iter().flatten();
            let probe = addresses.next().map(PortProbe::new);
            if let Some(Ok(probe)) = probe {
                // Nobody may wait for it any more.
                let _ = sender.send(probe);
            }
        });
        Self {
            resolving: Some(resolving),
            ..Self::default()
        }
    }

    /// What is in the way.
    pub(super) fn obstacle(&mut self, door: &Door) -> String {
        let Door { address, from } = door;
        match self.is_closed() {
            true => format!("nothing listens at {address} (from {from}) yet"),
            false => format!("no answer from {address} (from {from}) yet"),
        }
    }

    /// Whether it was closed, as far as is known from what was asked so far.
    pub(super) fn was_closed(&self) -> bool {
        self.refusals.is_closed
    }

    // Whether the port was closed when it was last asked.
    fn is_closed(&mut self) -> bool {
        if let Some(resolving) = &mut self.resolving
            && let Ok(probe) = resolving.try_recv()
        {
            (self.probe, self.resolving) = (Some(probe), None);
        }
        let is_due = self
            .probed
            .is_none_or(|probed| probed.elapsed() >= PROBE_EVERY);
        if is_due && let Some(probe) = &mut self.probe {
            self.probed = Some(Instant::now());
            self.refusals.asked(probe.is_closed());
        }
        self.refusals.is_closed
    }
}

/// Looks after a subscription by the admin API, if that is the same broker's. Whoever may not ask there is told nothing more.
pub(super) struct SubscriptionWatch {
    ask: Option<Ask>,
    asking: Option<oneshot::Receiver<Option<String>>>,
    /// When it was asked last, since an event has come last, and how long after that it is asked again.
    asked_at: Option<Instant>,
    again_after: Duration,
    found: Option<String>,
}

struct Ask {
    name: Name,
    admin: AdminFlag,
    certificates: CertificateFlags,
}

impl SubscriptionWatch {
    pub(super) fn new(
        name: &Name,
        quic: &QuicFlags,
        admin: &AdminFlag,
        certificates: &CertificateFlags,
    ) -> Self {
        let is_one = admin.check_beside(quic, certificates).is_ok();
        let ask = is_one.then(|| Ask {
            name: name.clone(),
            admin: admin.clone(),
            certificates: certificates.clone(),
        });
        Self {
            ask,
            asking: None,
            asked_at: None,
            again_after: LOOK_EVERY_MIN,
            found: None,
        }
    }

    /// From now on nothing is found out.
    pub(super) fn ask_nothing(&mut self) {
        self.ask = None;
    }

    /// An event has come: whatever was found, and whatever is answered to what was asked before, is out of date.
    pub(super) fn is_flowing(&mut self) {
        (self.asked_at, self.found) = (None, None);
    }

    /// What is in the way, as far as it is known, after nothing has come for `idle`.
    pub(super) fn obstacle(&mut self, idle: Duration) -> Option<String> {
        if idle < LOOK_AFTER {
            return None;
        }
        let ask = self.ask.as_ref()?;
        if let Some(asking) = &mut self.asking {
            match asking.try_recv() {
                Ok(found) if self.asked_at.is_some() => self.found = found,
                // A broker that is slow to answer is not asked again meanwhile.
                Err(TryRecvError::Empty) => return self.found.clone(),
                Ok(_) | Err(TryRecvError::Closed) => {}
            }
            self.asking = None;
        }
        let is_due = |at: Instant| at.elapsed() >= self.again_after;
        if self.asked_at.is_none_or(is_due) {
            self.again_after = again_after(self.asked_at.map(|_| self.again_after), &self.found);
            (self.asked_at, self.asking) = (Some(Instant::now()), Some(ask.look()));
        }
        self.found.clone()
    }
}

// How long after this look there is another, when there was one before it that was to be followed by this one after so long.
fn again_after(before: Option<Duration>, found: &Option<String>) -> Duration {
    let most = match found {
        Some(_) => LOOK_EVERY_MAX,
        None => LOOK_EVERY_MAX_WELL,
    };
    before.map_or(LOOK_EVERY_MIN, |before| (before * 2).min(most))
}

impl Ask {
    fn look(&self) -> oneshot::Receiver<Option<String>> {
        let (sender, answer) = oneshot::channel();
        let Self {
            name,
            admin,
            certificates,
        } = self;
        let (name, admin, certificates) = (name.clone(), admin.clone(), certificates.clone());
        tokio::task::spawn_blocking(move || {
            let info = Api::new(&admin, &certificates).and_then(|api| {
                let info: SubscriptionInfo = api.get(&subscription::path(name.as_str()))?;
                Ok(info)
            });
            // Nobody may wait for it any more.
            let _ = sender.send(info.ok().and_then(|info| standing(&info)));
        });
        answer
    }
}

// Why nothing comes of a subscription, if something should.
fn standing(info: &SubscriptionInfo) -> Option<String> {
    let name = &info.spec.name;
    if let Some(reason) = &info.paused {
        return Some(format!(
            "subscription {name} is paused ({reason}); to let it go on: {}",
            going_on(info)
        ));
    }
    if let Some(position) = info.stands_at {
        return Some(format!(
            "subscription {name} stands at position {position}, which cannot be read; see `tidegate loss list`"
        ));
    }
    if let Some(denied) = &info.stopped {
        return Some(format!(
            "dead letters of subscription {name} wait: {denied}"
        ));
    }
    match (info.depth, info.in_flight) {
        (0, _) => None,
        (depth, in_flight) if in_flight >= depth => Some(format!(
            "all {depth} pending events of subscription {name} are in the hands of consumers, until their ack deadline"
        )),
        (depth, in_flight) => Some(format!(
            "{} of the {depth} pending events of subscription {name} are not handed out now: they wait for another attempt, or for a plugin; see \
             `tidegate subscription show {name}`",
            depth - in_flight
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_a_subscription_become_ever_more_seldom() {
        let looks = |found: Option<String>| {
            let mut every = vec![again_after(None, &found)];
            for _ in 0..20 {
                every.push(again_after(every.last().copied(), &found));
            }
            let seconds: Vec<u64> = every.iter().map(Duration::as_secs).collect();
            (seconds[..4].to_vec(), seconds[20])
        };
        assert_eq!(looks(None), (vec![5, 10, 20, 40], 600));
        assert_eq!(looks(Some("paused".to_owned())), (vec![5, 10, 20, 30], 30));
    }

    #[test]
    fn a_port_is_closed_until_that_is_not_heard_any_more() {
        let mut refusals = Refusals::default();
        let mut asked = |is_refused| {
            refusals.asked(is_refused);
            refusals.is_closed
        };
        assert!(!asked(false));
        for most in [1, Refusals::SILENT_MAX] {
            assert!(asked(true));
            assert!((0..most).all(|_| asked(false)), "{most}");
        }
        assert!(!asked(false) && !asked(false) && asked(true));
    }

    #[test]
    fn why_nothing_comes_is_said_if_something_should() {
        let mut info: SubscriptionInfo = serde_json::from_value(serde_json::json!({
            "name": "s", "topics": ["t"], "depth": 0, "unevaluated": 0, "in_flight": 0, "oldest_unacked_ms": 0, "consumers": 1,
            "redelivered": 0, "dead_lettered": 0, "paused": null,
        }))
        .expect("a subscription");
        assert_eq!(standing(&info), None);
        (info.depth, info.in_flight) = (3, 3);
        assert!(
            standing(&info)
                .expect("said")
                .contains("hands of consumers")
        );
        info.in_flight = 1;
        assert!(standing(&info).expect("said").starts_with("2 of the 3"));
        info.paused = Some("by me".to_owned());
        let said = standing(&info).expect("said");
        assert!(
            said.contains("paused (by me)") && said.contains("resume s"),
            "{said}"
        );
    }
}
