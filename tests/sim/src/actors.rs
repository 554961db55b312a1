//! Those who use the broker in a run, as users do: with the client for Rust, over links of their own, and each with a seed of its own. What
//! they ask, and what they hear, goes into the history. Each runs in strands that belong to its process, which may be ended at any time.

mod consumer;
mod publisher;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tidegate_client::{Client, ClientOptions, ConnectError, PublishError, SubscribeError};
use tidegate_wire::pb::{self, stream_open};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::history::{History, Kept, What};
use crate::network::SimNetwork;
use crate::plan::{Actor, Plan, Role};
use crate::scheduler::{kill, mix, new_owner, start_owned, text};
use crate::simulation;

/// Where whoever is at work listens.
pub const ADDRESS: u8 = 1;
/// How long somebody waits before it tries again what failed.
const AGAIN: Duration = Duration::from_millis(200);

/// How far the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The operator makes what there is to be.
    Begins,
    /// Things happen.
    Runs,
    /// What is there is consumed.
    Drains,
    /// Nobody publishes any more.
    Settles,
    /// Everybody goes.
    Ends,
}

/// What all actors of a run have.
#[derive(Clone)]
pub struct Scene {
    /// What they are to do.
    pub plan: Arc<Plan>,
    /// What happens.
    pub history: History,
    /// How they reach the broker.
    pub network: SimNetwork,
    /// How far it is.
    pub phase: watch::Receiver<Phase>,
    /// Requests so far.
    ops: Rc<Cell<u64>>,
    /// Events so far.
    numbers: Rc<Cell<u64>>,
}

impl Scene {
    /// The scene of a run that begins, and what says how far it is.
    #[must_use]
    pub fn new(plan: Arc<Plan>, history: Kept) -> (Self, watch::Sender<Phase>) {
        let (sender, phase) = watch::channel(Phase::Begins);
        let scene = Self {
            network: SimNetwork::new(plan.seed),
            history: History::begin(history),
            plan,
            phase,
            ops: Rc::default(),
            numbers: Rc::default(),
        };
        (scene, sender)
    }

    /// The number of a new request.
    #[must_use]
    pub fn op(&self) -> u64 {
        self.ops.set(self.ops.get() + 1);
        self.ops.get()
    }

    /// The number of a new event.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    // Whether nothing goes wrong in this run, so that a refusal is one for sure.
    fn is_calm(&self) -> bool {
        self.plan.faults.is_empty() && self.plan.crashes.is_empty()
    }

    /// Waits until the run is so far.
    pub async fn is_at(&self, phase: Phase) {
        let mut here = self.phase.clone();
        // Without a sender there is nobody left who could say so.
        let _ = here.wait_for(|now| *now >= phase).await;
    }
}

/// What a process of an actor came to.
enum Came {
    /// It has done all that it was to do.
    ToItsEnd,
    /// It is to die, and the next one goes on from here.
    ToDie(usize),
}

/// Plays the part of an actor to its end.
pub async fn play(scene: Scene, actor: Actor) {
    scene.is_at(Phase::Runs).await;
    let (mut from, mut incarnation) = (0, 0);
    loop {
        let process = Process {
            scene: scene.clone(),
            actor: actor.clone(),
            incarnation,
        };
        let owner = new_owner();
        let name = actor.name.clone();
        let came = match &actor.role {
            Role::Publisher(does) => {
                let runs = publisher::run(process, does.clone(), from);
                start_owned(owner, &name, runs).ended().await
            }
            Role::Consumer(consuming) => {
                let runs = consumer::run(process, consuming.clone());
                start_owned(owner, &name, runs).ended().await
            }
        };
        match came {
            Ok(Came::ToDie(next)) => from = next,
            Ok(Came::ToItsEnd) => return,
            // It is told with the run.
            Err(_) => return,
        }
        kill(owner);
        incarnation += 1;
        sleep(AGAIN).await;
    }
}

/// One process of an actor.
#[derive(Clone)]
struct Process {
    scene: Scene,
    actor: Actor,
    incarnation: u64,
}

impl Process {
    /// A client of its own. Tries until there is a connection.
    async fn client(&self) -> Client {
        let name = &self.actor.name;
        let (network, shape) = (&self.scene.network, self.actor.link.shape());
        loop {
            let connector = network.connector(name, "local", shape, &[ADDRESS]);
            let connector = connector.telling(self.opens());
            let connected = Client::connect_over(connector, self.options()).await;
            match connected {
                Ok(client) => return client,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    // Notes when the client asks for a subscription, which it does by itself too.
    fn opens(&self) -> impl Fn(&[u8]) + Send + Sync + 'static {
        let (history, name) = (self.scene.history.clone(), self.actor.name.clone());
        move |first| {
            let open = pb::StreamOpen::decode_length_delimited(first);
            if let Ok(Some(stream_open::Kind::Subscribe(open))) = open.map(|open| open.kind) {
                let subscription = open.subscription.into();
                history.note(&name, What::Opens { subscription });
            }
        }
    }

    fn options(&self) -> ClientOptions {
        let seed = mix(&[
            self.scene.plan.seed,
            text(&self.actor.name),
            self.incarnation,
        ]);
        ClientOptions::new("broker:1")
            .seed(seed)
            .connect_timeout(Duration::from_secs(30))
            .spawner(|task| drop(simulation::start("client", task).detached()))
    }

    /// Ends without a word: nothing that is dropped from now on is heard of.
    fn die(&self) {
        self.note(What::Dies {});
        self.scene.network.die(&self.actor.name);
    }

    fn note(&self, what: What) {
        self.scene.history.note(&self.actor.name, what);
    }

    /// One of `among`, from 0, for what has this number.
    fn draw(&self, what: &str, number: u64, among: u64) -> u64 {
        let who = text(&self.actor.name);
        mix(&[self.scene.plan.seed, who, text(what), number]) % among.max(1)
    }
}

/// A failure in a word.
fn code(error: &PublishError) -> String {
    match error {
        PublishError::Refused(refusal) => format!("refused: {refusal}"),
        PublishError::Event(_) | PublishError::TopicName { .. } => "impossible".to_owned(),
        PublishError::TimedOut { .. } => "timed out".to_owned(),
        PublishError::Connection(error) => connect_code(error),
        error => error.to_string(),
    }
}

fn subscribe_code(error: &SubscribeError) -> String {
    match error {
        SubscribeError::Refused(refusal) => format!("refused: {refusal}"),
        SubscribeError::Connection(error) => connect_code(error),
        SubscribeError::AcksLost => "acks lost".to_owned(),
        SubscribeError::NotHeld { .. } => "not held".to_owned(),
        error => error.to_string(),
    }
}

fn connect_code(error: &ConnectError) -> String {
    format!("no connection: {error}")
}
