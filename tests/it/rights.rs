//! Owners: who may attach, what the broker does in an owner's name and no longer than it may, and what belongs to whoever
//! first used it.

use anyhow::Context as _;
use prost::Message as _;
use serde_json::json;
use tidegate_client::{Event, SubscribeError};
use tidegate_tests::{BrokerProcess, RawClient, Setup, guest, within};
use tidegate_wire::pb::{self, ErrorCode};

use crate::support::{
    code_of, consume, header_values, next, publish, publish_events, take_numbers,
};

/// Everything for `local` and for `maker`, who owns things here; `other` may receive the same topics.
const ALL: &str = r#"
[[policy.grants]]
principals = ["local"]
publish = [">"]
subscribe = [">"]
admin = [">"]

[[policy.grants]]
principals = ["uri:spiffe://tidegate.test/maker"]
publish = [">"]
subscribe = [">"]
"#;

const OTHERS: &str = r#"
[[policy.grants]]
principals = ["uri:spiffe://tidegate.test/other"]
publish = [">"]
subscribe = [">"]

[[policy.grants]]
principals = ["uri:spiffe://tidegate.test/helper"]
consume = ["bill*"]
"#;

/// The same without anything for `maker`.
const WITHOUT_MAKER: &str = r#"
[[policy.grants]]
principals = ["local"]
publish = [">"]
subscribe = [">"]
admin = [">"]
"#;

const MAKER: &str = "uri:spiffe://tidegate.test/maker";

#[tokio::test]
async fn a_route_stops_when_its_owner_may_not_and_loses_nothing() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::grants(format!("{ALL}{OTHERS}"))).await?;
    let admin = broker.admin();
    admin
        .create(json!({"name": "copies", "topics": ["copy"]}))
        .await?;
    let route =
        json!({"name": "copy", "topics": ["in"], "outputs": {"out": "copy"}, "owner": MAKER});
    let route = admin.create(route).await?;
    assert_eq!(
        route.spec.owner.map(|owner| owner.to_string()),
        Some(MAKER.to_owned())
    );
    let other = broker.client_as(&broker.pki.client("other")?).await?;
    publish(&other, "in", [1]).await?;
    admin.wait_drained("copy").await?;

    broker.stop().await?;
    broker.set_grants(format!("{WITHOUT_MAKER}{OTHERS}"));
    broker.restart().await?;
    let admin = broker.admin();
    let other = broker.client_as(&broker.pki.client("other")?).await?;
    publish(&other, "in", [2, 3]).await?;
    let route = admin.evaluated("copy").await?;
    assert_eq!((route.depth, route.in_flight), (2, 0));
    let stopped = route.stopped.context("it says that it stopped")?;
    assert!(
        stopped.contains(MAKER) && stopped.contains("subscribe"),
        "{stopped}"
    );
    let metrics = admin.metrics().await?;
    assert!(metrics.contains("tidegate_subscription_stopped{subscription=\"copy\"} 1"));
    assert_eq!(admin.subscription("copies").await?.depth, 1);

    // Somebody else takes it over, and it goes on where it stopped.
    let taken = admin.try_chown("copy", Some("local")).await?;
    let taken = taken.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    assert_eq!(taken.stopped, None);
    admin.wait_drained("copy").await?;
    let mut copies = consume(&other, "copies").await?;
    assert_eq!(take_numbers(&mut copies, [1, 2, 3]).await?, 0);
    Ok(())
}

#[tokio::test]
async fn dead_letters_wait_for_an_owner_who_may_write_them() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::grants(format!("{ALL}{OTHERS}"))).await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["in"], "owner": MAKER}))
        .await?;
    broker
        .admin()
        .create(json!({"name": "letters", "topics": ["dead.s"]}))
        .await?;
    let maker = broker.client_as(&broker.pki.client("maker")?).await?;
    publish(&maker, "in", [1]).await?;
    // It may receive, but not publish there any more.
    let reads = WITHOUT_MAKER.to_owned()
        + "[[policy.grants]]\nprincipals = [\"uri:spiffe://tidegate.test/maker\"]\nsubscribe = [\">\"]\n";
    broker.stop().await?;
    broker.set_grants(format!("{reads}{OTHERS}"));
    broker.restart().await?;
    let admin = broker.admin();
    let maker = broker.client_as(&broker.pki.client("maker")?).await?;
    let mut consumer = consume(&maker, "s").await?;
    next(&mut consumer).await?.term("no use");
    let waiting = admin
        .wait_subscription("s", "to have given it up", |info| info.in_flight == 0)
        .await?;
    assert_eq!(waiting.depth, 1, "it is kept");
    assert!(waiting.stopped.is_some_and(|why| why.contains("dead.s")));
    assert!(
        admin
            .try_chown("s", Some("local"))
            .await?
            .is_ok_and(|info| info.stopped.is_none())
    );
    admin.wait_drained("s").await?;
    assert_eq!(admin.subscription("letters").await?.depth, 1);
    Ok(())
}

#[tokio::test]
async fn only_the_owner_and_who_is_named_attach() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::grants(format!("{ALL}{OTHERS}"))).await?;
    let admin = broker.admin();
    admin
        .create(json!({"name": "bills", "topics": ["in"], "owner": MAKER}))
        .await?;
    admin
        .create(json!({"name": "free", "topics": ["in"]}))
        .await?;
    let maker = broker.client_as(&broker.pki.client("maker")?).await?;
    let other = broker.client_as(&broker.pki.client("other")?).await?;
    let helper = broker.client_as(&broker.pki.client("helper")?).await?;
    publish(&maker, "in", [1, 2]).await?;

    for (client, subscription, missing) in [(&other, "bills", "balls"), (&helper, "free", "fret")] {
        let refused = async |name: &str| {
            let error = consume(client, name).await.expect_err("not theirs");
            (code_of(&error), format!("{error:#}").replace(name, "NAME"))
        };
        let told = refused(subscription).await;
        let denials = [ErrorCode::PermissionDenied, ErrorCode::NotFound].map(Some);
        assert!(denials.contains(&told.0), "{told:?}");
        assert_eq!(told, refused(missing).await, "as if there were none");
    }
    take_numbers(&mut consume(&other, "free").await?, [1, 2]).await?;
    let mut theirs = consume(&maker, "bills").await?;
    next(&mut theirs).await?.ack();
    theirs.flush_acks().await?;
    drop(theirs);
    take_numbers(&mut consume(&helper, "bills").await?, [2]).await?;

    // Given away, it ends for who had it.
    let mut theirs = consume(&maker, "bills").await?;
    let given = admin
        .try_chown("bills", Some("uri:spiffe://tidegate.test/other"))
        .await?;
    assert!(given.is_ok(), "{given:?}");
    let ended = within("the end of the consumer", async { Ok(theirs.next().await) }).await?;
    assert!(
        matches!(&ended, Some(Err(SubscribeError::Refused(refusal))) if refusal.code == ErrorCode::PermissionDenied),
        "{ended:?}"
    );
    consume(&other, "bills").await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_refused_like_what_one_may_not_consume() -> anyhow::Result<()> {
    let grants = format!("{WITHOUT_MAKER}{OTHERS}")
        .replace("subscribe = [\">\"]", "subscribe = [\"open.>\"]");
    let grants = grants.replacen("subscribe = [\"open.>\"]", "subscribe = [\">\"]", 1);
    let broker = BrokerProcess::start_with(Setup::grants(grants)).await?;
    let route = json!({"name": "route", "topics": ["closed"], "outputs": {"out": "copy"}});
    broker.admin().create(route).await?;
    broker
        .admin()
        .create(json!({"name": "closed", "topics": ["closed"]}))
        .await?;
    let other = broker.client_as(&broker.pki.client("other")?).await?;
    let mut told = Vec::new();
    for name in ["closed", "route", "nobody"] {
        let error = consume(&other, name).await.expect_err(name);
        assert_eq!(
            code_of(&error),
            Some(ErrorCode::PermissionDenied),
            "{error:#}"
        );
        told.push(format!("{error:#}").replace(name, "NAME"));
    }
    assert!(told.iter().all(|text| *text == told[0]), "{told:#?}");
    Ok(())
}

#[tokio::test]
async fn what_ones_plugins_fail_on_is_in_ones_own_log() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    admin
        .upload("odd", guest("misbehaving_filter").await?)
        .await?;
    let filter = json!([{"plugin": "odd", "config": "trap \"n\":2}", "on_failure": "drop"}]);
    admin
        .create(json!({"name": "s", "topics": ["in"], "filters": filter}))
        .await?;
    admin
        .create(json!({"name": "sound", "topics": ["in"]}))
        .await?;
    publish(&broker.client().await?, "in", [1, 2, 3]).await?;
    assert_eq!(admin.evaluated("s").await?.depth, 2);
    let log = admin.plugin_log("s").await?;
    assert!(
        log.iter()
            .any(|line| line.text.contains("odd") && line.text.contains("position 2 ")),
        "{log:?}"
    );
    assert!(admin.plugin_log("sound").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_the_broker_says_in_headers_publishers_do_not() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    admin.create(json!({"name": "s", "topics": ["in"]})).await?;
    admin
        .create(json!({"name": "letters", "topics": ["dead.s"]}))
        .await?;
    let client = broker.client().await?;
    // By a client that does not look at it itself.
    let (raw, _) = RawClient::hello(&broker).await?;
    let opened = raw.publish_stream(None, 0).await?;
    let (mut stream, _) = opened.map_err(|error| anyhow::anyhow!("{error}"))?;
    for name in ["tidegate-dead-reason", "Tidegate-Hops"] {
        let header = pb::Header {
            name: name.into(),
            value: "1".into(),
        };
        let event = pb::Event {
            headers: vec![header],
            ..pb::Event::default()
        };
        stream.send(&batch(0, &event)).await?;
        let refusal = stream.receive_refusal().await?;
        assert_eq!(refusal.code(), ErrorCode::InvalidArgument, "{refusal:?}");
        assert!(refusal.message.contains(name), "{refusal:?}");
    }
    publish(&client, "in", [1]).await?;
    next(&mut consume(&client, "s").await?)
        .await?
        .term("no use");
    let letter = next(&mut consume(&client, "letters").await?).await?;
    assert!(header_values(&letter).contains("tidegate-dead-reason: "));
    let event: Event = letter.event().clone();
    publish_events(&client, "in", [event.clone()])
        .await
        .expect_err("as it came");
    publish_events(&client, "in", [event.without_broker_headers()]).await?;
    take_numbers(&mut consume(&client, "s").await?, [1]).await?;
    Ok(())
}

#[tokio::test]
async fn a_producer_id_is_its_first_principals() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["in"]}))
        .await?;
    let (ours, theirs) = (broker.pki.client("ours")?, broker.pki.client("theirs")?);
    for restarted in [false, true] {
        if restarted {
            broker.kill()?;
            broker.restart().await?;
        }
        let (us, _) = RawClient::hello_as(&broker, &ours).await?;
        let (them, _) = RawClient::hello_as(&broker, &theirs).await?;
        let opened = us.publish_stream(Some([7; 16]), 1).await?;
        let (mut stream, ready) = opened.map_err(|error| anyhow::anyhow!("{error}"))?;
        assert_eq!(
            ready.last_number,
            u64::from(restarted),
            "nobody moved it on"
        );
        for epoch in [0, 2, u32::MAX] {
            let refused = them.publish_stream(Some([7; 16]), epoch).await?;
            let error = refused.err().context("it is not theirs")?;
            assert_eq!(error.code(), ErrorCode::PermissionDenied, "{error:?}");
        }
        // Ours is not fenced by that.
        stream
            .send(&batch(ready.last_number + 1, &pb::Event::default()))
            .await?;
        let reply: pb::PublishReply = stream.receive().await?;
        assert!(
            matches!(reply.result, Some(pb::publish_reply::Result::Ack(_))),
            "{reply:?}"
        );
    }
    Ok(())
}

fn batch(first_number: u64, event: &pb::Event) -> pb::PublishBatch {
    pb::PublishBatch {
        correlation: 1,
        topic: "in".into(),
        first_number,
        resolved_through: 0,
        events: vec![event.encode_to_vec().into()],
        ..Default::default()
    }
}
