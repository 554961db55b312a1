//! A client of the admin API that keeps status and text of a refusal, which is what tests look at.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate::domain::{LogLine, PluginInfo, PluginName, SubscriptionInfo, TopicInfo};
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::wait_for;

/// How long one request may take; uploads compile a component first.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The admin API of one broker.
#[derive(Clone, Debug)]
pub struct AdminApi {
    base: String,
    agent: Agent,
}

/// A request that the broker refused.
#[derive(Clone, Debug)]
pub struct AdminRefusal {
    /// HTTP status.
    pub status: u16,
    /// The body: JSON with the message, as text.
    pub text: String,
}

impl AdminApi {
    /// The API at `base`, such as `http://127.0.0.1:4480`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build();
        let base = base.trim_start_matches("http://").trim_end_matches('/');
        Self {
            base: format!("http://{base}"),
            agent: config.new_agent(),
        }
    }

    /// Whether the broker serves.
    pub async fn is_ready(&self) -> bool {
        self.get_text("/readyz").await.is_ok()
    }

    /// Creates a subscription or route from JSON.
    ///
    /// # Errors
    /// The broker could not be asked, or refused.
    pub async fn create(&self, spec: Value) -> anyhow::Result<SubscriptionInfo> {
        accepted(self.try_create(spec).await?)
    }

    /// Creates a subscription or route from JSON, or says how it was refused.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn try_create(
        &self,
        spec: Value,
    ) -> anyhow::Result<Result<SubscriptionInfo, AdminRefusal>> {
        self.post("/v1/subscriptions", spec).await
    }

    /// Changes a subscription or route, or says how that was refused.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn try_update(
        &self,
        name: &str,
        patch: Value,
    ) -> anyhow::Result<Result<SubscriptionInfo, AdminRefusal>> {
        let path = format!("/v1/subscriptions/{name}");
        let sent = self
            .ask(&path, move |agent, url| agent.patch(url).send_json(patch))
            .await?;
        parsed(text_of(sent))
    }

    /// Changes a subscription or route. Waits while too many changes are pending.
    ///
    /// # Errors
    /// The broker could not be asked, or refused for good.
    pub async fn update(&self, name: &str, patch: Value) -> anyhow::Result<SubscriptionInfo> {
        wait_for(format!("`{name}` to take a change"), async || {
            match self.try_update(name, patch.clone()).await? {
                Err(refusal) if refusal.status == 503 => Ok(None),
                answer => accepted(answer).map(Some),
            }
        })
        .await
    }

    /// Gives a subscription or route to an owner, or to nobody, or says how that was refused.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn try_chown(
        &self,
        name: &str,
        owner: Option<&str>,
    ) -> anyhow::Result<Result<SubscriptionInfo, AdminRefusal>> {
        let path = format!("/v1/subscriptions/{name}/chown");
        self.post(&path, serde_json::json!({ "owner": owner }))
            .await
    }

    /// Gives a plugin to an owner.
    ///
    /// # Errors
    /// The broker could not be asked, or refused.
    pub async fn give_plugin(&self, name: &str, owner: &str) -> anyhow::Result<()> {
        let path = format!("/v1/plugins/{name}/chown");
        let given: Result<serde_json::Value, _> = self
            .post(&path, serde_json::json!({ "owner": owner }))
            .await?;
        accepted(given).map(drop)
    }

    /// What was lately said of the failures of a subscription's plugins.
    ///
    /// # Errors
    /// The broker could not be asked, or refused.
    pub async fn plugin_log(&self, name: &str) -> anyhow::Result<Vec<LogLine>> {
        let text = self
            .get_text(&format!("/v1/subscriptions/{name}/log"))
            .await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Deletes a plugin, or says how that was refused.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn try_delete_plugin(&self, name: &str) -> anyhow::Result<Result<(), AdminRefusal>> {
        let path = format!("/v1/plugins/{name}");
        let sent = self
            .ask(&path, move |agent, url| agent.delete(url).call())
            .await?;
        Ok(text_of(sent).map(drop))
    }

    /// Names of plugins, with the highest version of each.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn plugin_names(&self) -> anyhow::Result<Vec<(String, u32)>> {
        let text = self.get_text("/v1/plugin-names").await?;
        let names: Vec<PluginName> = serde_json::from_str(&text)?;
        let names = names.into_iter();
        Ok(names
            .map(|known| (known.name, known.last_version))
            .collect())
    }

    /// A subscription or route as it stands.
    ///
    /// # Errors
    /// The broker could not be asked, or has no such subscription.
    pub async fn subscription(&self, name: &str) -> anyhow::Result<SubscriptionInfo> {
        let text = self.get_text(&format!("/v1/subscriptions/{name}")).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// All subscriptions and routes.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn subscriptions(&self) -> anyhow::Result<Vec<SubscriptionInfo>> {
        let (mut all, mut next) = (Vec::new(), Some("/v1/subscriptions".to_owned()));
        while let Some(path) = next {
            let sent = self
                .ask(&path, move |agent, url| agent.get(url).call())
                .await?;
            let link = sent.headers().get("link").map(|link| link.to_str());
            let link = link.transpose()?.and_then(|link| link.strip_prefix('<'));
            next = link.and_then(|link| Some(link.split_once('>')?.0.to_owned()));
            let page: Vec<SubscriptionInfo> = serde_json::from_str(&accepted(text_of(sent))?)?;
            all.extend(page);
        }
        Ok(all)
    }

    /// Deletes a subscription or route.
    ///
    /// # Errors
    /// The broker could not be asked, or refused.
    pub async fn delete_subscription(&self, name: &str) -> anyhow::Result<()> {
        let path = format!("/v1/subscriptions/{name}");
        let sent = self
            .ask(&path, move |agent, url| agent.delete(url).call())
            .await?;
        accepted(text_of(sent)).map(drop)
    }

    /// Lets a paused subscription or route go on.
    ///
    /// # Errors
    /// The broker could not be asked, or refused.
    pub async fn resume(&self, name: &str) -> anyhow::Result<()> {
        let path = format!("/v1/subscriptions/{name}/resume");
        let sent = self
            .ask(&path, move |agent, url| agent.post(url).send_empty())
            .await?;
        accepted(text_of(sent)).map(drop)
    }

    /// Creates a topic from JSON, or says how it was refused.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn try_create_topic(
        &self,
        spec: Value,
    ) -> anyhow::Result<Result<TopicInfo, AdminRefusal>> {
        self.post("/v1/topics", spec).await
    }

    /// A topic as it stands.
    ///
    /// # Errors
    /// The broker could not be asked, or has no such topic.
    pub async fn topic(&self, name: &str) -> anyhow::Result<TopicInfo> {
        let text = self.get_text(&format!("/v1/topics/{name}")).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Deletes a topic and its events.
    ///
    /// # Errors
    /// The broker could not be asked, or refused.
    pub async fn delete_topic(&self, name: &str) -> anyhow::Result<()> {
        let path = format!("/v1/topics/{name}");
        let sent = self
            .ask(&path, move |agent, url| agent.delete(url).call())
            .await?;
        accepted(text_of(sent)).map(drop)
    }

    /// Uploads a component, or says how it was refused.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn try_upload(
        &self,
        name: &str,
        bytes: Vec<u8>,
    ) -> anyhow::Result<Result<PluginInfo, AdminRefusal>> {
        let path = format!("/v1/plugins/{name}");
        let send = move |agent: &Agent, url: &str| {
            let request = agent.post(url).header("content-type", "application/wasm");
            request.send(&bytes[..])
        };
        parsed(text_of(self.ask(&path, send).await?))
    }

    /// Uploads a component.
    ///
    /// # Errors
    /// The broker could not be asked, or refused.
    pub async fn upload(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<PluginInfo> {
        accepted(self.try_upload(name, bytes).await?)
    }

    /// The metrics, in the Prometheus text format.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        self.get_text("/metrics").await
    }

    /// All metrics as a scraper gets them that asks for OpenMetrics.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn open_metrics(&self) -> anyhow::Result<String> {
        let sent = self.ask("/metrics", |agent, url| {
            let request = agent.get(url);
            let accept = "application/openmetrics-text; version=1.0.0";
            request.header("accept", accept).call()
        });
        accepted(text_of(sent.await?))
    }

    /// The value of a metric, named with its labels as the page has it; 0 when the page does not have it.
    ///
    /// # Errors
    /// The broker could not be asked, or the value is no number.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let page = self.metrics().await?;
        let value = page.lines().find_map(|line| {
            let (found, value) = line.rsplit_once(' ')?;
            (found == name).then_some(value)
        });
        Ok(value.unwrap_or("0").trim().parse()?)
    }

    /// The status of a GET request with this header.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn status_with_header(
        &self,
        path: &str,
        name: &'static str,
        value: &'static str,
    ) -> anyhow::Result<u16> {
        let sent = self
            .ask(path, move |agent, url| {
                agent.get(url).header(name, value).call()
            })
            .await?;
        Ok(sent.status().as_u16())
    }

    /// Waits until the subscription has nothing left to do: nothing pending, nothing to be evaluated.
    ///
    /// # Errors
    /// It does not come to rest.
    pub async fn wait_drained(&self, name: &str) -> anyhow::Result<SubscriptionInfo> {
        self.wait_subscription(name, "to be drained", |info| {
            info.depth == 0 && info.unevaluated == 0 && info.in_flight == 0
        })
        .await
    }

    /// The subscription once everything that was published before this call has been decided: its depth is exact then.
    ///
    /// # Errors
    /// It does not come to that.
    pub async fn evaluated(&self, name: &str) -> anyhow::Result<SubscriptionInfo> {
        self.wait_subscription(name, "to be evaluated", |info| info.unevaluated == 0)
            .await
    }

    /// Waits until the subscription is as `wanted`; `what` says how that is.
    ///
    /// # Errors
    /// It does not get there.
    pub async fn wait_subscription(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&SubscriptionInfo) -> bool,
    ) -> anyhow::Result<SubscriptionInfo> {
        let waited = wait_for(format!("`{name}` {what}"), async || {
            let info = self.subscription(name).await?;
            Ok(wanted(&info).then_some(info))
        });
        match waited.await {
            Ok(info) => Ok(info),
            Err(error) => Err(error.context(format!("last: {:?}", self.subscription(name).await))),
        }
    }

    async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let sent = self
            .ask(path, move |agent, url| agent.get(url).call())
            .await;
        accepted(text_of(sent.with_context(|| path.to_owned())?)).with_context(|| path.to_owned())
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Value,
    ) -> anyhow::Result<Result<T, AdminRefusal>> {
        let sent = self
            .ask(path, move |agent, url| agent.post(url).send_json(body))
            .await?;
        parsed(text_of(sent))
    }

    // Sends a request on a thread that may wait for its answer.
    async fn ask<F>(&self, path: &str, send: F) -> anyhow::Result<Response<Body>>
    where
        F: FnOnce(&Agent, &str) -> Result<Response<Body>, ureq::Error> + Send + 'static,
    {
        let (agent, url) = (self.agent.clone(), format!("{}{path}", self.base));
        Ok(tokio::task::spawn_blocking(move || send(&agent, &url)).await??)
    }
}

fn text_of(mut response: Response<Body>) -> Result<String, AdminRefusal> {
    let status = response.status();
    let text = response.body_mut().read_to_string().unwrap_or_default();
    if status.is_success() {
        Ok(text)
    } else {
        Err(AdminRefusal {
            status: status.as_u16(),
            text,
        })
    }
}

fn parsed<T: DeserializeOwned>(
    answer: Result<String, AdminRefusal>,
) -> anyhow::Result<Result<T, AdminRefusal>> {
    match answer {
        Ok(text) => Ok(Ok(serde_json::from_str(&text).with_context(|| text)?)),
        Err(refusal) => Ok(Err(refusal)),
    }
}

fn accepted<T>(answer: Result<T, AdminRefusal>) -> anyhow::Result<T> {
    match answer {
        Ok(value) => Ok(value),
        Err(refusal) => bail!("refused with {}: {}", refusal.status, refusal.text),
    }
}
