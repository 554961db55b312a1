//! What is made reads back as what was asked for, and a development set-up is whole however it was interrupted.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::auth::principal_of;
use crate::domain::Principal;

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .expect("PEM")
        .1
        .contents
}

fn authority() -> Authority {
    Authority::new("test CA", Validity::days(1)).expect("an authority")
}

#[test]
fn a_client_certificate_names_the_principal_that_was_asked_for() {
    let authority = authority();
    let check = |name: ClientName, expected: Principal| {
        let pair = authority
            .issue_client(&name, Validity::days(30))
            .expect("a certificate");
        assert_eq!(
            principal_of(&der(&pair.cert)).expect("a principal"),
            expected
        );
    };
    check(
        ClientName::Uri("spiffe://plant/press-4".into()),
        Principal::uri("spiffe://plant/press-4"),
    );
    check(
        ClientName::Dns("sensor-7.example.org".into()),
        Principal::dns("sensor-7.example.org"),
    );
    check(
        ClientName::CommonName("press 4".into()),
        Principal::common_name("press 4"),
    );
}

#[test]
fn certificates_say_what_they_are_for() {
    let authority = authority();
    let validity = Validity::expired();
    let server = authority
        .issue_server(&ServerNames::loopback(), validity)
        .expect("a certificate");
    let server_der = der(&server.cert);
    let (_, cert) = x509_parser::parse_x509_certificate(&server_der).expect("X.509");
    assert_eq!(
        cert.validity().not_after.timestamp(),
        validity.not_after.unix_timestamp()
    );
    assert!(!cert.is_ca());
    let usage = cert
        .extended_key_usage()
        .expect("readable")
        .expect("present")
        .value;
    assert!(usage.server_auth && !usage.client_auth);
    let names = cert
        .subject_alternative_name()
        .expect("readable")
        .expect("present");
    assert_eq!(names.value.general_names.len(), 3);
    let ca_der = der(authority.cert_pem());
    let (_, ca) = x509_parser::parse_x509_certificate(&ca_der).expect("X.509");
    assert!(ca.is_ca());
    assert_eq!(cert.issuer(), ca.subject());
}

#[test]
fn names_that_no_certificate_can_hold_are_refused() {
    let authority = authority();
    let days = Validity::days(1);
    let refused = |name: ClientName, why: &str| {
        let refused = authority.issue_client(&name, days);
        let error = refused.map(|_| ()).expect_err(why).to_string();
        assert!(
            error.contains(why) && error.chars().all(is_plain),
            "{error}"
        );
    };
    refused(ClientName::Uri("spiffe://plänt".into()), "is no URI");
    refused(ClientName::Uri("a:b\u{7f}".into()), "is no URI");
    refused(ClientName::Uri("a:".repeat(1_025)), "is no URI");
    refused(ClientName::CommonName(String::new()), "0 characters");
    refused(ClientName::CommonName("ä".repeat(65)), "X.520");
    refused(ClientName::CommonName("a\nb".into()), r"a\nb");
    refused(ClientName::CommonName("a\u{200b}b".into()), r"a\u{200b}b");
    let long = "a".repeat(64);
    let longest = vec!["a".repeat(63); 4].join(".");
    for no_name in ["", "a b", "a..b", "a.", "ä", "a\nb", &long, &longest, "*"] {
        refused(ClientName::Dns(no_name.into()), "is no DNS name");
        let names = ServerNames {
            dns: vec!["localhost".into(), no_name.into()],
            ips: Vec::new(),
        };
        assert!(authority.issue_server(&names, days).is_err(), "{no_name}");
    }
    assert!(
        authority
            .issue_server(&ServerNames::default(), days)
            .is_err()
    );
    for name in ["", "a\tb", &"a".repeat(65)] {
        assert!(Authority::new(name, days).is_err(), "{name:?}");
    }
}

#[test]
fn long_names_are_whole_where_they_count() {
    let authority = authority();
    let name = format!("spiffe://plant/{}", "press".repeat(100));
    let pair = authority.issue_client(&ClientName::Uri(name.clone()), Validity::days(1));
    let cert = der(&pair.expect("a certificate").cert);
    assert_eq!(
        principal_of(&cert).expect("a principal"),
        Principal::uri(&name)
    );
    let (_, cert) = x509_parser::parse_x509_certificate(&cert).expect("X.509");
    let shown = cert.subject().iter_common_name().next();
    let shown = shown.and_then(|name| name.as_str().ok());
    assert_eq!(shown, Some(&name[..64]));
    for dns in ["*.example.org", "a_b.example", &"a".repeat(63)] {
        let names = ServerNames {
            dns: vec![dns.to_owned()],
            ips: Vec::new(),
        };
        assert!(authority.issue_server(&names, Validity::days(1)).is_ok());
    }
    let most = ClientName::CommonName("ä".repeat(64));
    assert!(authority.issue_client(&most, Validity::days(1)).is_ok());
}

#[test]
fn keys_are_secret_and_nothing_is_overwritten_unasked() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = authority();
    authority.save(dir.path(), false).expect("written");
    let mode = |name: &str| {
        fs::metadata(dir.path().join(name))
            .expect(name)
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("ca.key"), 0o600);
    assert_eq!(mode("ca.pem"), 0o644);
    assert!(matches!(
        authority.save(dir.path(), false),
        Err(PkiError::Exists(_))
    ));
    authority.save(dir.path(), true).expect("overwritten");
    let loaded = Authority::load(dir.path()).expect("read back");
    assert_eq!(loaded.cert_pem(), authority.cert_pem());
    assert_eq!(
        fs::read_dir(dir.path()).expect("readable").count(),
        2,
        "nothing is left aside"
    );
}

#[test]
fn the_development_set_up_is_made_once_and_mended() {
    let dir = tempfile::tempdir().expect("a directory");
    let read = |path: &Path| fs::read_to_string(path).expect("readable");
    let pki = ensure_dev_pki(dir.path()).expect("made");
    let (ca, server, client) = (
        read(&pki.ca),
        read(&pki.server_cert),
        read(&pki.client_cert),
    );
    assert_eq!(
        principal_of(&der(&client)).expect("a principal"),
        Principal::uri(DEV_CLIENT_URI)
    );
    let granted = crate::config::Config::development().policy.grants;
    assert!(
        granted
            .iter()
            .any(|grant| grant.selects(&Principal::uri(DEV_CLIENT_URI)))
    );

    assert_eq!(ensure_dev_pki(dir.path()).expect("found"), pki);
    assert_eq!(
        (read(&pki.ca), read(&pki.server_cert)),
        (ca.clone(), server.clone())
    );
    assert_eq!(read(&pki.client_cert), client);

    fs::write(&pki.client_key, "half a k").expect("writable");
    ensure_dev_pki(dir.path()).expect("mended");
    assert_ne!(
        read(&pki.client_cert),
        client,
        "a pair that does not fit is issued anew"
    );
    assert_eq!(read(&pki.server_cert), server, "what is good stays");

    let expired = Authority::load(dir.path())
        .and_then(|ca| ca.issue_server(&ServerNames::loopback(), Validity::expired()))
        .expect("issued");
    save_pair(dir.path(), "server", &expired, true).expect("written");
    ensure_dev_pki(dir.path()).expect("mended");
    assert_ne!(
        read(&pki.server_cert),
        expired.cert,
        "an expired certificate is issued anew"
    );

    fs::remove_file(dir.path().join("ca.key")).expect("removed");
    let before = read(&pki.client_cert);
    ensure_dev_pki(dir.path()).expect("mended");
    assert_ne!(read(&pki.ca), ca);
    assert_ne!(
        read(&pki.client_cert),
        before,
        "what the lost authority signed is replaced"
    );
}

// What the files of one authority are, and of a second one beside which they may have been left.
#[test]
fn what_is_left_of_another_authority_is_never_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = ensure_dev_pki(dir.path()).expect("made");
    let before = fs::read_to_string(&pki.ca).expect("readable");
    let is_whole = || {
        let ca = fs::read_to_string(&pki.ca).expect("readable");
        is_pair_good(&pki.server_cert, &pki.server_key, &ca)
            && is_pair_good(&pki.client_cert, &pki.client_key, &ca)
    };
    assert!(is_whole());

    // Its leaves with another authority.
    authority().save(dir.path(), true).expect("written");
    assert!(!is_whole());
    ensure_dev_pki(dir.path()).expect("mended");
    assert!(is_whole());

    // Its certificate with the key of another one.
    fs::write(&pki.ca, before).expect("writable");
    let refused = ensure_dev_pki(dir.path());
    assert!(matches!(refused, Err(PkiError::Unusable { .. })));
}

// Each file that is written or removed on the way can be the last one.
#[test]
fn an_interrupted_renewal_of_the_authority_is_completed() {
    // What the loss of `ca.key` makes necessary, up to each step.
    for cut in ["server.pem", "client.pem", "ca.pem", "ca.key"] {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = ensure_dev_pki(dir.path()).expect("made");
        fs::remove_file(dir.path().join("ca.key")).expect("removed");
        // A folder in the place of the file lets this step fail, as a crash before it does.
        let at = dir.path().join(cut);
        _ = fs::remove_file(&at);
        fs::create_dir_all(at.join("in the way")).expect("made");
        ensure_dev_pki(dir.path()).expect_err("interrupted");
        fs::remove_dir_all(&at).expect("removed");

        ensure_dev_pki(dir.path()).unwrap_or_else(|error| panic!("{cut}: {error}"));
        let ca = fs::read_to_string(&pki.ca).expect("readable");
        assert!(
            is_pair_good(&pki.server_cert, &pki.server_key, &ca),
            "{cut}"
        );
        assert!(
            is_pair_good(&pki.client_cert, &pki.client_key, &ca),
            "{cut}"
        );
    }
}
