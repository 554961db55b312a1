//! Who gets in and who may do what: certificates of every kind, and a policy that denies what it does not grant.

use std::path::Path;
use std::time::Duration;

use rcgen::SanType;
use serde_json::json;
use tidegate_client::{Client, ClientOptions};
use tidegate_tests::{BrokerProcess, Setup, TestIdentity, TestPki};
use tidegate_wire::pb::ErrorCode;

use crate::support::{code_of, consume, publish, take_numbers};

/// A policy with one right each.
const NARROW: &str = r#"
[[policy.grants]]
principals = ["local"]
publish = ["open.>", "dead.reader"]
subscribe = ["open.>"]
admin = ["open.>"]

[[policy.grants]]
principals = ["uri:spiffe://tidegate.test/writer"]
publish = ["open.>"]

[[policy.grants]]
principals = ["uri:spiffe://tidegate.test/reader"]
subscribe = ["open.>"]

[[policy.grants]]
principals = ["dns:sensor.example.org"]
publish = ["open.sensor"]

[[policy.grants]]
principals = ["cn:press 4"]
publish = ["open.press"]
"#;

#[tokio::test]
async fn only_certificates_of_the_authority_get_in() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let foreign = TestPki::new()?.client("everybody")?;
    let expired = broker.pki.expired_client("everybody")?;
    let cases: [(&str, Option<&TestIdentity>); 3] = [
        ("without a certificate", None),
        ("with a foreign authority's", Some(&foreign)),
        ("with an expired one", Some(&expired)),
    ];
    for (what, identity) in cases {
        let refused = Client::connect(quick(broker.client_options(identity)?)).await;
        let error = refused.err().unwrap_or_else(|| panic!("{what}: got in"));
        let text = format!("{:#}", anyhow::Error::from(error)).to_lowercase();
        assert!(text.contains("certificate"), "{what}: {text}");
    }
    publish(&broker.client().await?, "t", [1]).await?;
    Ok(())
}

#[tokio::test]
async fn a_client_refuses_a_broker_it_does_not_trust() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let other = TestPki::new()?;
    let identity = broker.everybody();
    let options = ClientOptions::new(broker.quic_addr())
        .server_name("localhost")
        .roots_pem(other.ca_pem().as_bytes())?
        .identity_pem(identity.cert_pem.as_bytes(), identity.key_pem.as_bytes())?;
    assert!(Client::connect(quick(options)).await.is_err());
    Ok(())
}

#[tokio::test]
async fn principals_are_typed_by_the_names_in_the_certificate() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let uri = |text: &str| anyhow::Ok(SanType::URI(text.try_into()?));
    let dns = |text: &str| anyhow::Ok(SanType::DnsName(text.try_into()?));
    let cases = [
        (
            vec![uri("spiffe://a/b")?, dns("c.example.org")?],
            "uri:spiffe://a/b",
        ),
        (
            vec![dns("c.example.org")?, dns("d.example.org")?],
            "dns:c.example.org",
        ),
        (vec![], "cn:uri:spiffe://a/b"),
    ];
    for (names, principal) in cases {
        // The common name tries to pass for a URI.
        let identity = broker.pki.client_with_names("uri:spiffe://a/b", names)?;
        assert_eq!(broker.client_as(&identity).await?.principal(), principal);
    }
    let two = vec![uri("spiffe://a/b")?, uri("spiffe://a/c")?];
    let identity = broker.pki.client_with_names("x", two)?;
    let refused = Client::connect(quick(broker.client_options(Some(&identity))?)).await;
    assert!(refused.is_err(), "two URIs name nobody");
    Ok(())
}

#[tokio::test]
async fn what_is_not_granted_is_denied() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::grants(NARROW)).await?;
    broker
        .admin()
        .create(json!({"name": "reader", "topics": ["open.>"]}))
        .await?;
    let writer = broker.client_as(&broker.pki.client("writer")?).await?;
    let reader = broker.client_as(&broker.pki.client("reader")?).await?;
    let nobody = broker.client_as(&broker.pki.client("nobody")?).await?;

    publish(&writer, "open.a", [1]).await?;
    take_numbers(&mut consume(&reader, "reader").await?, [1]).await?;
    const DENIED: &str = "tidegate_refusals_total{code=\"permission denied\"}";
    let before = broker.admin().metric(DENIED).await?;
    // Whoever has no right to publish at all is refused before there is a topic.
    let none = "no publish right at all";
    for (client, topic, named) in [
        (&writer, "closed.a", "closed.a"),
        (&writer, "open", "`open`"),
        (&reader, "open.a", none),
        (&nobody, "open.a", none),
    ] {
        let error = publish(client, topic, [2]).await.expect_err(topic);
        assert_eq!(
            code_of(&error),
            Some(ErrorCode::PermissionDenied),
            "{topic}: {error:#}"
        );
        assert!(format!("{error:#}").contains(named), "{error:#}");
    }
    for client in [&writer, &nobody] {
        let error = consume(client, "reader")
            .await
            .expect_err("may not consume");
        assert_eq!(
            code_of(&error),
            Some(ErrorCode::PermissionDenied),
            "{error:#}"
        );
    }
    assert_eq!(broker.admin().metric(DENIED).await? - before, 6.0);
    Ok(())
}

#[tokio::test]
async fn the_kind_of_a_name_is_part_of_a_grant() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::grants(NARROW)).await?;
    let sensor = vec![SanType::DnsName("sensor.example.org".try_into()?)];
    let sensor = broker
        .client_as(&broker.pki.client_with_names("x", sensor)?)
        .await?;
    publish(&sensor, "open.sensor", [1]).await?;
    let press = broker
        .client_as(&broker.pki.client_with_names("press 4", vec![])?)
        .await?;
    publish(&press, "open.press", [1]).await?;
    let pretender = broker
        .client_as(&broker.pki.client_with_names("sensor.example.org", vec![])?)
        .await?;
    let error = publish(&pretender, "open.sensor", [1])
        .await
        .expect_err("a common name is no DNS name");
    assert_eq!(
        code_of(&error),
        Some(ErrorCode::PermissionDenied),
        "{error:#}"
    );
    Ok(())
}

#[tokio::test]
async fn creating_needs_the_rights_of_what_is_created() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::grants(NARROW)).await?;
    let denied = [
        ("topics", json!({"name": "reader", "topics": ["closed.>"]})),
        (
            "wider than the grant",
            json!({"name": "reader", "topics": [">"]}),
        ),
        (
            "its dead-letter topic",
            json!({"name": "other", "topics": ["open.>"]}),
        ),
        (
            "its dead-letter topic, by name",
            json!({"name": "reader", "topics": ["open.>"], "delivery": {"dead_letter": "closed.dead"}}),
        ),
        (
            "an output",
            json!({
                "name": "reader",
                "topics": ["open.>"],
                "outputs": {"out": "closed.out"},
                "transforms": [{"plugin": "json-reshape", "config": "{}"}],
            }),
        ),
    ];
    for (what, spec) in denied {
        let refusal = broker.admin().try_create(spec).await?.expect_err(what);
        assert_eq!(refusal.status, 403, "{what}: {refusal:?}");
    }
    broker
        .admin()
        .create(json!({"name": "reader", "topics": ["open.>"]}))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_listener_without_certificates_has_anonymous_clients_only() -> anyhow::Result<()> {
    let grants = r#"
        [[policy.grants]]
        principals = ["local", "*"]
        publish = [">"]
        subscribe = [">"]
        admin = [">"]

        [[policy.grants]]
        principals = ["anonymous"]
        publish = ["drop-box"]
    "#;
    let setup = Setup {
        grants: grants.to_owned(),
        listen: "anonymous = \"127.0.0.1:0\"".to_owned(),
        ..Setup::default()
    };
    let broker = BrokerProcess::start_with(setup).await?;
    broker
        .admin()
        .create(json!({"name": "box", "topics": ["drop-box"]}))
        .await?;
    let addr = broker.anonymous_addr().expect("the listener is open");
    let options = ClientOptions::new(addr)
        .server_name("localhost")
        .roots_pem(broker.pki.ca_pem().as_bytes())?;
    let client = Client::connect(options).await?;
    assert_eq!(client.principal(), "anonymous");
    publish(&client, "drop-box", [1]).await?;
    let error = publish(&client, "elsewhere", [2])
        .await
        .expect_err("only the box is granted");
    assert_eq!(
        code_of(&error),
        Some(ErrorCode::PermissionDenied),
        "{error:#}"
    );
    let error = consume(&client, "box")
        .await
        .expect_err("may not read it either");
    assert_eq!(
        code_of(&error),
        Some(ErrorCode::PermissionDenied),
        "{error:#}"
    );
    take_numbers(&mut consume(&broker.client().await?, "box").await?, [1]).await?;
    Ok(())
}

#[tokio::test]
async fn the_plain_admin_port_refuses_what_a_web_page_could_send() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    for (name, value) in [
        ("host", "attacker.example"),
        ("origin", "http://attacker.example"),
    ] {
        let status = broker
            .admin()
            .status_with_header("/v1/subscriptions", name, value)
            .await?;
        assert!([400, 403, 421].contains(&status), "{name}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_stored_is_for_the_brokers_user_alone() -> anyhow::Result<()> {
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    let mut broker = BrokerProcess::start().await?;
    let of = |path: &Path| metadata(path).map(|found| found.permissions().mode() & 0o777);
    let folders =
        ["store", "plugins", "plugin-cache"].map(|name| broker.data_directory().join(name));
    let key = broker.data_directory().join("reset.key");
    for folder in &folders {
        assert_eq!(of(folder)?, 0o700, "{}", folder.display());
    }
    assert_eq!(of(&key)?, 0o600);
    // As an older broker left them.
    broker.stop().await?;
    for folder in &folders[..2] {
        set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    set_permissions(&key, Permissions::from_mode(0o644))?;
    broker.restart().await?;
    for folder in &folders {
        assert_eq!(of(folder)?, 0o700, "{}", folder.display());
    }
    assert_eq!(of(&key)?, 0o600);
    let said = "others on this machine could read this";
    assert_eq!(broker.log().matches(said).count(), 3, "{}", broker.log());
    Ok(())
}

// What must fail need not be tried again.
fn quick(options: ClientOptions) -> ClientOptions {
    options
        .reconnect(false)
        .connect_timeout(Duration::from_secs(3))
}
