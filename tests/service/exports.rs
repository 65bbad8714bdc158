//! Points as resources: any range of any disk is what a restore gives, for whoever shows the key, for as long as it is good.
//!
//! Deliberately not here: the tools that read them (`tests/export`).

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use mobility_tests::dice::Dice;
use reqwest::{StatusCode, blocking::Client, header::HeaderMap};
use serde_json::Value;

use crate::{
    agent::Agent,
    commits::{ready, taken_in},
    rig::{Rig, wait_for},
};

/// An export of the newest point of a machine that has a few, and what its disks held then.
struct Exported {
    made: Value,
    disks: Vec<(String, Vec<u8>)>,
}

impl Exported {
    fn new(rig: &Rig, agent: &Agent, more: &[&str]) -> Exported {
        let machine = agent.machine.to_string();
        let made = rig.admin(&[&["export", "create", "--machine", &machine], more].concat());
        let address = |id: &str| {
            let disks = made["disks"].as_array().unwrap();
            let disk = disks.iter().find(|disk| disk["id"] == id).unwrap();
            disk["address"].as_str().unwrap().to_owned()
        };
        let disks = agent.disks.iter().map(|disk| (address(&disk.id.to_string()), disk.content.clone()));
        let disks = disks.collect();
        Exported { made, disks }
    }

    fn text(&self, name: &str) -> &str {
        self.made[name].as_str().unwrap()
    }
}

fn protected(rig: &Rig, seed: u64, epochs: u64) -> Agent {
    let mut agent = ready(rig, seed);
    for _ in 0..epochs {
        agent.write(40);
        agent.commit();
    }
    taken_in(rig, &agent, epochs);
    agent
}

fn part(client: &Client, address: &str, range: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
    let answer = client.get(address).header("range", range).send().unwrap();
    (answer.status(), answer.headers().clone(), answer.bytes().unwrap().to_vec())
}

#[test]
fn every_range_is_what_the_disk_held() {
    let rig = Rig::new();
    let agent = protected(&rig, 71, 4);
    let exported = Exported::new(&rig, &agent, &[]);
    let client = rig.builder().build().unwrap();
    let mut dice = Dice::new(72);
    for (address, content) in &exported.disks {
        let size = content.len() as u64;
        let mut ranges = vec![(0, 0), (0, size - 1), (size - 1, size - 1), (size / 2, size + 77)];
        ranges.extend((0..60).map(|_| {
            let first = dice.below(size);
            (first, first + dice.below(size - first + 9))
        }));
        // Around the borders of windows, where pieces are put together.
        ranges.extend((1..size >> 20).map(|window| ((window << 20) - 1, window << 20)));
        for (first, last) in ranges {
            let (status, headers, bytes) = part(&client, address, &format!("bytes={first}-{last}"));
            assert_eq!(status, StatusCode::PARTIAL_CONTENT);
            let end = (last + 1).min(size);
            let said = headers["content-range"].to_str().unwrap();
            assert_eq!(said, format!("bytes {first}-{}/{size}", end - 1));
            assert!(bytes == content[first as usize..end as usize], "{first}-{last} differs");
        }
        let (status, headers, bytes) = part(&client, address, &format!("bytes={size}-"));
        assert_eq!((status, bytes.len()), (StatusCode::RANGE_NOT_SATISFIABLE, 0));
        assert_eq!(headers["content-range"], format!("bytes */{size}").as_str());
        let whole = client.get(address).send().unwrap();
        assert_eq!(
            (whole.status(), &whole.headers()["accept-ranges"]),
            (StatusCode::OK, &"bytes".parse().unwrap())
        );
        let tag = whole.headers()["etag"].clone();
        assert!(whole.bytes().unwrap() == content[..]);
        let head = client.head(address).send().unwrap();
        assert_eq!(head.headers()["content-length"], size.to_string().as_str());
        assert_eq!((&head.headers()["etag"], head.headers().get("content-range")), (&tag, None));
        let if_range = |tag: &str| {
            let asked = client.get(address).header("range", "bytes=0-0").header("if-range", tag);
            asked.send().unwrap().status()
        };
        assert_eq!(if_range(tag.to_str().unwrap()), StatusCode::PARTIAL_CONTENT);
        assert_eq!(if_range("\"another\""), StatusCode::OK);
        let same = client.get(address).header("if-none-match", &tag).send().unwrap();
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    }
    // And all of it is as the document says.
    let held = rig.client(None);
    assert_eq!(held.get(exported.text("address")).send().unwrap().status(), StatusCode::OK);
    for (address, content) in &exported.disks {
        assert!(held.get(address).send().unwrap().bytes() == content);
    }
}

#[test]
fn only_the_key_of_an_export_that_is_good_opens_it() {
    let rig = Rig::new();
    let agent = protected(&rig, 73, 1);
    let client = rig.client(None);
    let (exported, other) = (Exported::new(&rig, &agent, &[]), Exported::new(&rig, &agent, &[]));
    let (address, _) = &exported.disks[0];
    let (id, key) = (exported.text("id"), exported.text("key"));
    let status = |address: &str, secret: Option<&str>| {
        let asking = client.get(address);
        secret.map_or(asking, |secret| client.get(address).bearer_auth(secret)).send().unwrap().status()
    };
    assert_eq!(status(address, None), StatusCode::OK);
    let by_id = address.replace(key, id);
    assert_eq!(status(&by_id, Some(key)), StatusCode::OK);
    let flipped = format!("{}{}", if key.starts_with('0') { '1' } else { '0' }, &key[1..]);
    let refused = [
        (address.replace(key, &flipped), None),
        (address.replace(key, &key[1..]), None),
        (by_id.clone(), None),
        (by_id.clone(), Some(flipped.as_str())),
        (by_id.clone(), Some(other.text("key"))),
        (by_id, Some(rig.secret().leak() as &str)),
        (address.replace(key, &rig.secret()), None),
    ];
    for (address, secret) in refused {
        assert_eq!(status(&address, secret), StatusCode::FORBIDDEN, "{address} {secret:?}");
    }
    let listed = rig.admin(&["export", "list"]);
    assert_eq!(listed["exports"].as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains(key), "a key is shown again");
    rig.admin(&["export", "end", id]);
    assert_eq!(status(address, None), StatusCode::FORBIDDEN);
    assert_eq!(status(&other.disks[0].0, None), StatusCode::OK);
    assert!(rig.try_admin(&["export", "end", id]).is_err());
    // One that ends by its time: over the interface, where that may be short.
    let url = format!("{}/v1/admin/machines/{}/exports", rig.address, agent.machine);
    let asking = client.post(url).bearer_auth(&rig.secret());
    let short: Value = asking.json(&serde_json::json!({ "valid_s": 2 })).send().unwrap().json();
    let address = short["disks"][0]["address"].as_str().unwrap();
    wait_for("its end", || (status(address, None) == StatusCode::FORBIDDEN).then_some(()));
    assert_eq!(rig.admin(&["export", "list"])["exports"].as_array().unwrap().len(), 1);
    for bad in [["--point", "nothing"], ["--hours", "0"], ["--hours", "169"]] {
        let machine = agent.machine.to_string();
        let made = rig.try_admin(&["export", "create", "--machine", &machine, bad[0], bad[1]]);
        assert!(made.is_err(), "{bad:?}");
    }
}

#[test]
fn the_point_of_an_export_stays_while_others_are_pruned() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 74);
    agent.add_disk("wide", 16 << 8);
    for blocks in [40, 2, 2] {
        agent.write(blocks);
        agent.commit();
    }
    taken_in(&rig, &agent, 3);
    let machine = agent.machine.to_string();
    let exported = Exported::new(&rig, &agent, &["--point", "3"]);
    let client = rig.builder().build().unwrap();
    // From here on the service knows what each disk is made of, and has not looked into most of it: that will be merged.
    for (address, content) in &exported.disks {
        assert!(part(&client, address, "bytes=0-4095").2 == content[..4096]);
    }
    for _ in 0..5 {
        agent.write(40);
        agent.commit();
    }
    taken_in(&rig, &agent, 8);
    let epochs = || {
        let listed = rig.admin(&["point", "list", "--machine", &machine]);
        let points = listed["points"].as_array().unwrap().iter();
        points.map(|point| point["epoch"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    rig.admin(&["policy", "set", "default", "--keep", "1h:1h"]);
    let kept = wait_for("the thinning", || Some(epochs()).filter(|epochs| epochs.len() <= 3));
    wait_for("the end of it", || {
        let events = rig.admin(&["event", "list", "--machine", &machine]);
        events["events"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["kind"] == "points-removed")
            .then_some(())
    });
    assert!(kept.contains(&3) && kept.contains(&8), "{kept:?}");
    assert!(!kept.contains(&2), "{kept:?}");
    for (address, content) in &exported.disks {
        assert!(part(&client, address, "bytes=0-").2 == *content, "what was merged is not the same");
    }
    rig.admin(&["export", "end", exported.text("id")]);
    rig.admin(&["policy", "set", "default", "--keep", "1h:2h"]);
    wait_for("its end", || (!epochs().contains(&3)).then_some(()));
}

#[test]
fn damage_is_an_error_and_an_event_and_never_wrong_bytes() {
    let rig = Rig::new();
    let agent = protected(&rig, 75, 2);
    let machine = agent.machine.to_string();
    let exported = Exported::new(&rig, &agent, &[]);
    let client = rig.builder().build().unwrap();
    let (address, content) = &exported.disks[0];
    let segments = rig.storage().join(format!("target/{machine}"));
    let mut damaged = 0;
    for path in files_below(&segments).iter().filter(|path| path.extension().is_some_and(|e| e == "seg")) {
        let mut bytes = std::fs::read(path).unwrap();
        // Behind the header, before the index: in what the blocks are stored as.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(path, bytes).unwrap();
        damaged += 1;
    }
    assert!(damaged >= 2, "nothing was damaged");
    let mut failed = 0;
    for _ in 0..2 {
        for start in (0..content.len()).step_by(4096) {
            let range = format!("bytes={start}-{}", start + 4095);
            let Ok(answer) = client.get(address).header("range", range).send() else { panic!("no answer") };
            match answer.status() {
                StatusCode::PARTIAL_CONTENT => {
                    assert!(answer.bytes().unwrap() == content[start..start + 4096]);
                }
                status => {
                    assert_eq!(status, StatusCode::CONFLICT);
                    assert!(answer.text().unwrap().contains("choose another point"));
                    failed += 1;
                }
            }
        }
    }
    assert!(failed > 0, "no damage was met");
    // All of it at once is cut off, not filled up.
    let whole = client.get(address).send().unwrap();
    assert!(!whole.status().is_success() || whole.bytes().is_err());
    let events = rig.admin(&["event", "list", "--machine", &machine]);
    let messages =
        events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "storage-damaged");
    let messages: Vec<_> = messages.map(|event| event["message"].as_str().unwrap()).collect();
    let different: std::collections::BTreeSet<_> = messages.iter().collect();
    assert!(!messages.is_empty() && messages.len() == different.len(), "{messages:#?}");
}

fn files_below(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn who_reads_slowly_keeps_nobody_waiting() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 76);
    // More than both sides' buffers hold.
    agent.add_disk("large", 48 << 8);
    agent.write(200);
    agent.commit();
    taken_in(&rig, &agent, 1);
    let exported = Exported::new(&rig, &agent, &[]);
    let (large, others): (Vec<_>, Vec<_>) =
        exported.disks.iter().partition(|(_, content)| content.len() > 40 << 20);
    let (address, content) = large[0];
    let client = rig.builder().build().unwrap();
    // As many as one disk may have, less one, each of which has asked for all of it and takes nothing.
    let slow: Vec<_> = (0..31).map(|_| Slow::ask(&rig, address)).collect();
    let start = Instant::now();
    for round in 0..20 {
        let first = round * 4096;
        let (status, _, bytes) = part(&client, address, &format!("bytes={first}-{}", first + 4095));
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
        assert!(bytes == content[first..first + 4096]);
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    // One more than may be, and the next has to wait or come again, while another disk is not concerned.
    let full = Slow::ask(&rig, address);
    let (other, content) = others[0];
    assert!(part(&client, other, "bytes=0-4095").2 == content[..4096]);
    let busy = client.get(address).header("range", "bytes=0-0").send().unwrap();
    assert_eq!(busy.status(), StatusCode::TOO_MANY_REQUESTS);
    drop((slow, full));
    wait_for("its turn", || {
        (part(&client, address, "bytes=0-0").0 == StatusCode::PARTIAL_CONTENT).then_some(())
    });
}

/// A connection on which all of a disk was asked for, and whose answer nobody takes.
struct Slow {
    _stream: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
}

impl Slow {
    fn ask(rig: &Rig, address: &str) -> Slow {
        let url = reqwest::Url::parse(address).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        let pem = rig.place().authority;
        let der =
            <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
                pem.as_bytes(),
            );
        roots.add(der.unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let host = "127.0.0.1".try_into().unwrap();
        let connection = rustls::ClientConnection::new(config.into(), host).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", url.port().unwrap())).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        write!(stream, "GET {} HTTP/1.1\r\nhost: here\r\n\r\n", url.path()).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        Slow { _stream: stream }
    }
}
