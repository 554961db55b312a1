//! The commands as processes: how they end. What their arguments mean is tested beside them.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tidegate_tests::{BrokerProcess, wait_for};

use crate::support::publish;

#[tokio::test]
async fn sub_ends_on_a_signal_however_much_there_is_to_print() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    publish(&broker.client().await?, "t", 0..100_000).await?;
    let mut sub = Running::new(broker.command_line(&["sub", "s"])?)?;
    broker
        .admin()
        .wait_subscription("s", "to be drained in part", |s| s.depth < 100_000)
        .await?;
    sub.signal(Signal::INT)?;
    assert_eq!(sub.code().await?, 0);
    Ok(())
}

#[tokio::test]
async fn sub_that_outlived_its_broker_ends_well() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let mut sub = Running::new(broker.command_line(&["sub", "s"])?)?;
    publish(&broker.client().await?, "t", 0..1).await?;
    broker.admin().wait_drained("s").await?;
    broker.kill()?;
    broker.restart().await?;
    publish(&broker.client().await?, "t", 1..2).await?;
    broker.admin().wait_drained("s").await?;
    sub.signal(Signal::INT)?;
    assert_eq!(sub.code().await?, 0);
    Ok(())
}

#[tokio::test]
async fn pub_ends_on_a_second_signal_although_no_answer_comes() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let mut lines = Running::new({
        let mut yes = Command::new("yes");
        yes.stdout(Stdio::piped());
        yes
    })?;
    let mut command = broker.command_line(&["pub", "t"])?;
    command.stdin(lines.0.stdout.take().expect("it is piped"));
    let mut publishing = Running::new(command)?;
    broker
        .admin()
        .wait_subscription("s", "to have something", |s| s.depth > 0)
        .await?;
    broker.kill()?;
    publishing.signal(Signal::INT)?;
    // One may be all that it takes, if everything was answered.
    wait_for("the command to end", async || {
        if publishing.0.try_wait()?.is_some() {
            return Ok(Some(()));
        }
        publishing.signal(Signal::TERM)?;
        Ok(None)
    })
    .await?;
    assert_eq!(publishing.code().await?, 130);
    Ok(())
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn new(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self(command.spawn()?))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    async fn code(&mut self) -> anyhow::Result<i32> {
        let status = wait_for("the command to end", async || Ok(self.0.try_wait()?)).await?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
