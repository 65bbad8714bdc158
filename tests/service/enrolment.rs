//! Who gets an identity, who keeps it and who loses it.
//!
//! Deliberately not here: what is done with it.

use std::time::{Duration, SystemTime};

use mobility_format::control::{Enrolled, ErrorCode, RenewRequest, Renewed};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use reqwest::{Method, StatusCode};

use crate::{
    agent::{Agent, Keys, Refused, ask},
    rig::{Rig, wait_for},
};

fn enrol(rig: &Rig, keys: &Keys, token: &str) -> Result<Enrolled, Refused> {
    let url = format!("{}/v1/enrol", rig.address);
    ask(&rig.client(None), Method::POST, &url, Some(&keys.request(token)))
}

#[test]
fn a_token_is_good_for_its_uses_and_a_repeated_request_for_the_same_machine() {
    let rig = Rig::new();
    let token = rig.token(2);
    let (first, second, third) = (Keys::new(1), Keys::new(2), Keys::new(3));
    let machine = enrol(&rig, &first, &token).unwrap().machine;
    assert_eq!(enrol(&rig, &first, &token).unwrap().machine, machine);
    let other = enrol(&rig, &second, &token).unwrap().machine;
    assert_ne!(other, machine);
    let refused = enrol(&rig, &third, &token).unwrap_err();
    assert_eq!((refused.code, refused.status), (ErrorCode::TokenRefused, StatusCode::UNAUTHORIZED));
    // The lost answer of one that used the token up before.
    assert_eq!(enrol(&rig, &second, &token).unwrap().machine, other);
    let kept = std::fs::read(rig.data().join("service.db")).unwrap_or_default();
    assert!(!kept.windows(token.len()).any(|window| window == token.as_bytes()), "the token itself is kept");
}

#[test]
fn tokens_that_are_no_good_are_told_from_one_another_by_nobody() {
    let rig = Rig::new();
    let good = rig.token(1);
    let revoked = rig.admin(&["token", "create"]);
    rig.admin(&["token", "revoke", revoked["id"].as_str().unwrap()]);
    let used_up = rig.token(1);
    enrol(&rig, &Keys::new(1), &used_up).unwrap();
    let expired = expired_token(&rig);
    let tokens = [
        ("empty", String::new()),
        ("guessed", good.replace(|c: char| c.is_ascii_digit(), "0")),
        ("cut", good[..good.len() - 1].to_owned()),
        ("with something behind it", format!("{good} ")),
        ("revoked", revoked["token"].as_str().unwrap().to_owned()),
        ("used up", used_up),
        ("expired", expired),
    ];
    let mut said = Vec::new();
    for (number, (name, token)) in tokens.iter().enumerate() {
        let refused = enrol(&rig, &Keys::new(10 + number as u64), token).expect_err(name);
        said.push((refused.code, refused.status));
    }
    said.dedup();
    assert_eq!(said, [(ErrorCode::TokenRefused, StatusCode::UNAUTHORIZED)]);
    enrol(&rig, &Keys::new(99), &good).unwrap();
}

/// A token whose time is over.
fn expired_token(rig: &Rig) -> String {
    let url = format!("{}/v1/admin/tokens", rig.address);
    let request = rig.client(None).post(url).bearer_auth(&rig.secret());
    let made = request.json(&serde_json::json!({ "valid_s": 1 })).send().unwrap();
    let made: serde_json::Value = made.json();
    let expires: jiff::Timestamp = made["expires"].as_str().unwrap().parse().unwrap();
    wait_for("the token's end", || (jiff::Timestamp::now() > expires).then_some(()));
    made["token"].as_str().unwrap().to_owned()
}

#[test]
fn requests_that_break_a_rule_are_refused_whole() {
    let rig = Rig::new();
    let token = rig.token(1);
    let client = rig.client(None);
    let url = format!("{}/v1/enrol", rig.address);
    let keys = Keys::new(1);
    let sound = keys.request(&token);
    let strange = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let strange = rcgen::CertificateParams::default().serialize_request(&strange).unwrap().pem().unwrap();
    let mut long = sound.clone();
    long.inventory.name = "x".repeat(5000);
    let mut other_key = sound.clone();
    other_key.csr = strange;
    let mut no_request = sound.clone();
    no_request.csr =
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".to_owned();
    for (name, request) in [("too long", long), ("a strange key", other_key), ("no request", no_request)] {
        let refused = ask::<Enrolled>(&client, Method::POST, &url, Some(&request)).expect_err(name);
        assert_eq!(refused.code, ErrorCode::BadRequest, "{name}");
    }
    for body in ["", "{", "[]", "{\"token\": 1}"] {
        let answer = client.post(&url).body(body).send().unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let huge = client.post(&url).body(vec![b' '; 5 << 20]).send();
    assert!(huge.is_err() || huge.unwrap().status() == StatusCode::BAD_REQUEST);
    // None of these has used the token up.
    ask::<Enrolled>(&client, Method::POST, &url, Some(&sound)).unwrap();
}

#[test]
fn only_a_machine_of_this_service_is_anybody() {
    let (rig, elsewhere) = (Rig::new(), Rig::new());
    let agent = Agent::enrol(&rig, 1);
    let stranger = Agent::enrol(&elsewhere, 1);
    let renew = RenewRequest { csr: agent.keys.csr() };
    let url = format!("{}/v1/renew", rig.address);
    ask::<Renewed>(&agent.client, Method::POST, &url, Some(&renew)).unwrap();
    let nobody = ask::<Renewed>(&rig.client(None), Method::POST, &url, Some(&renew)).unwrap_err();
    assert_eq!((nobody.code, nobody.status), (ErrorCode::Unauthenticated, StatusCode::UNAUTHORIZED));
    // The certificate of another authority does not get through the handshake.
    assert!(rig.client(Some(&stranger.identity)).post(&url).json(&renew).send().is_err());
    // And who trusts another authority does not speak to this service.
    assert!(elsewhere.client(None).post(&url).json(&renew).send().is_err());
}

#[test]
fn nothing_older_than_tls_1_3_is_spoken() {
    let rig = Rig::new();
    let old = rig.builder().tls_version_min(reqwest::tls::Version::TLS_1_2);
    let old = old.tls_version_max(reqwest::tls::Version::TLS_1_2).build().unwrap();
    assert!(old.get(format!("{}/v1/commands", rig.address)).send().is_err());
    assert!(rig.client(None).get(rig.address.replace("https", "http")).send().is_err());
}

#[test]
fn a_renewed_certificate_is_the_same_machines_and_the_old_one_stays_good() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    let fresh = Keys::new(2);
    let renewed: Renewed = agent.post("/v1/renew", &RenewRequest { csr: fresh.csr() }).unwrap();
    agent.try_heartbeat().unwrap();
    agent.client = rig.client(Some(&format!("{}{}", renewed.certificate, fresh.tls.serialize_pem())));
    agent.try_heartbeat().unwrap();
}

/// What the machine would have if it had been given a certificate at another time.
fn identity_until(rig: &Rig, agent: &Agent, expires: SystemTime) -> String {
    let text = std::fs::read_to_string(rig.data().join("authority.pem")).unwrap();
    let certificate = &text[text.find("-----BEGIN CERTIFICATE").unwrap()..];
    let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(&text).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    let name = format!("mobility://machine/{}", agent.machine);
    params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let since_1970 = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970;
    params.not_before = date_time_ymd(1970, 1, 1) + (since_1970 - Duration::from_secs(86_400));
    let given = params.signed_by(&agent.keys.tls, &issuer).unwrap();
    format!("{}{}", given.pem(), agent.keys.tls.serialize_pem())
}

#[test]
fn an_expired_certificate_is_good_for_its_renewal_alone_and_not_for_ever() {
    const DAY: Duration = Duration::from_secs(86_400);
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    let renew = RenewRequest { csr: agent.keys.csr() };
    let now = SystemTime::now();
    for (expires, renewable) in [(now - DAY / 24, true), (now - 29 * DAY, true), (now - 31 * DAY, false)] {
        agent.client = rig.client(Some(&identity_until(&rig, &agent, expires)));
        for code in [agent.try_heartbeat().unwrap_err().code, agent.commands(0).unwrap_err().code] {
            assert_eq!(code, ErrorCode::Unauthenticated);
        }
        let renewed = agent.post::<Renewed>("/v1/renew", &renew);
        assert_eq!(renewed.is_ok(), renewable);
        if let Err(refused) = renewed {
            assert_eq!(refused.code, ErrorCode::Unauthenticated);
        }
    }
    agent.client = rig.client(Some(&identity_until(&rig, &agent, now + DAY)));
    agent.try_heartbeat().unwrap();
    // Who was revoked renews nothing.
    rig.admin(&["machine", "revoke", &agent.machine.to_string()]);
    agent.client = rig.client(Some(&identity_until(&rig, &agent, now - DAY)));
    wait_for("the revocation", || {
        let refused = agent.post::<Renewed>("/v1/renew", &renew).err()?;
        (refused.code == ErrorCode::Revoked).then_some(())
    });
}

#[test]
fn who_was_revoked_or_has_left_is_refused_soon_and_keeps_its_points() {
    let rig = Rig::new();
    let (mut revoked, mut left) = (Agent::enrol(&rig, 1), Agent::enrol(&rig, 2));
    for agent in [&mut revoked, &mut left] {
        agent.try_session().unwrap();
        agent.new_generation();
        agent.add_disk("disk", 8);
        agent.commit();
    }
    let slot = revoked.slot();
    rig.admin(&["machine", "revoke", &revoked.machine.to_string()]);
    left.post::<()>("/v1/unenrol", &()).unwrap();
    for agent in [&mut revoked, &mut left] {
        let refused = wait_for("the revocation", || agent.try_heartbeat().err());
        assert_eq!((refused.code, refused.status), (ErrorCode::Revoked, StatusCode::FORBIDDEN));
        assert_eq!(agent.try_session().unwrap_err().code, ErrorCode::Revoked);
        assert_eq!(agent.commands(0).unwrap_err().code, ErrorCode::Revoked);
    }
    assert_eq!(revoked.put(&slot.1, b"late"), StatusCode::FORBIDDEN);
}
