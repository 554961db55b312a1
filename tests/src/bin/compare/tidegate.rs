//! Tidegate as one of the brokers: this program itself, or a build that was named, in a process of its own, with the configuration it comes with
//! except for what a workload says, used through its public client and its admin API.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tidegate_client::{Client, ConsumerOptions, PublisherOptions};
use tidegate_tests::{AdminApi, BrokerProcess, Setup};

use crate::broker::{self, Kind, PREFETCH, Places, Subscription};

pub(crate) use tidegate_client::{Consumer, Delivery, PublishTicket as Ticket, Publisher};

/// Bytes that publishers may have outstanding: more than what the number of events allows, so that it is what counts.
const OUTSTANDING_BYTES_MAX: usize = 256 << 20;

/// Everything, in words that older builds know too.
const GRANTS: &str = r#"
[[policy.grants]]
principals = ["local", "*"]
publish = [">"]
subscribe = [">"]
admin = [">"]
"#;

/// A running Tidegate.
pub(crate) struct Tidegate {
    process: BrokerProcess,
}

impl Tidegate {
    /// Starts one with these sections of the configuration.
    pub(crate) async fn start(places: &Places, config: &str) -> anyhow::Result<Self> {
        Self::start_build(Kind::Tidegate, places, config).await
    }

    /// Starts this build of it.
    pub(crate) async fn start_build(
        kind: Kind,
        places: &Places,
        config: &str,
    ) -> anyhow::Result<Self> {
        let setup = Setup {
            program: Some(places.tidegate(kind)?),
            grants: GRANTS.to_owned(),
            parent: Some(places.directory.clone()),
            lasting_ports: true,
            ..Setup::config(config)
        };
        Ok(Self {
            process: BrokerProcess::start_with(setup).await?,
        })
    }

    /// Its admin API.
    pub(crate) fn admin(&self) -> AdminApi {
        self.process.admin()
    }

    pub(crate) async fn subscribe(&self, subscription: &Subscription) -> anyhow::Result<()> {
        subscribe(&self.admin(), subscription).await
    }

    /// Events of a subscription that may still be delivered or are not acked.
    pub(crate) async fn depth(&self, subscription: &str) -> anyhow::Result<u64> {
        let info = self.admin().subscription(subscription).await?;
        Ok(info.depth + info.unevaluated)
    }

    pub(crate) async fn publisher(&self, outstanding: usize) -> anyhow::Result<broker::Publisher> {
        let options = PublisherOptions {
            outstanding_events_max: outstanding,
            outstanding_bytes_max: OUTSTANDING_BYTES_MAX,
            ..PublisherOptions::default()
        };
        let client = self.process.client().await?;
        Ok(broker::Publisher::Tidegate(
            client.publisher(options).await?,
        ))
    }

    pub(crate) async fn consumer(&self, subscription: &str) -> anyhow::Result<broker::Consumer> {
        let options = ConsumerOptions {
            credit_events: PREFETCH as u64,
            ..ConsumerOptions::default()
        };
        let client = self.process.client().await?;
        let consumer = client.subscribe(subscription, options).await?;
        Ok(broker::Consumer::Tidegate(consumer))
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        self.process.client().await
    }

    /// Kills its process without warning.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Starts it again on its data and addresses, and waits until it serves.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.restart().await
    }

    /// Most memory its process ever had resident, in bytes.
    pub(crate) fn resident_bytes_max(&self) -> anyhow::Result<u64> {
        self.process.resident_bytes_max()
    }

    pub(crate) async fn reopen(&mut self) -> anyhow::Result<Duration> {
        self.process.stop().await?;
        let begin = Instant::now();
        self.process.restart().await?;
        Ok(begin.elapsed())
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.process.disk_bytes()
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.process.pid().context("the broker runs no longer")
    }
}

/// Makes a subscription through the admin API.
pub(crate) async fn subscribe(admin: &AdminApi, subscription: &Subscription) -> anyhow::Result<()> {
    let filters: Vec<_> = subscription
        .filter
        .iter()
        .map(|(plugin, config)| json!({"plugin": plugin, "config": config}))
        .collect();
    let spec = json!({
        "name": subscription.name,
        "topics": [subscription.topic],
        "filters": filters,
    });
    admin.create(spec).await.map(drop)
}
