//! Settings that are wrong in every way that people and platforms know: each is refused with a sentence and a code of its own.

use std::{fs, os::unix::fs::PermissionsExt};

use mobility_tests::dice::Dice;
use serde_json::{Value, json};

use crate::rig::{CERTIFICATE, Certificate, Machine};

/// The code for what whoever wrote the settings has to mend.
const WRONG: i32 = 53;
const SERVICE: &str = "https://recovery.example.org";

fn settings(public: &Value, protected: &Value, thumbprint: &Value) -> Vec<u8> {
    let handler = json!({
        "publicSettings": public, "protectedSettings": protected, "protectedSettingsCertThumbprint": thumbprint,
    });
    json!({"runtimeSettings": [{"handlerSettings": handler}]}).to_string().into_bytes()
}

/// Settings, and what has to be said of them.
fn wrong_settings() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let public = json!({"serviceUrl": SERVICE});
    let own = json!(CERTIFICATE.thumbprint);
    let sealed = |text: &str| settings(&public, &json!(CERTIFICATE.seal(text)), &own);
    let one = String::from_utf8(Machine::plain(SERVICE, "{}")).unwrap();
    let two = one.replace("}}]}", "}},{\"handlerSettings\":{}}]}");
    let stranger = Certificate::of("stranger");
    let foreign = settings(&public, &json!(stranger.seal("{}")), &own);
    let unknown = settings(&public, &json!(stranger.seal("{}")), &json!(stranger.thumbprint));
    let url = |text: &str| settings(&json!({"serviceUrl": text}), &Value::Null, &Value::Null);
    let mut huge = one.clone().into_bytes();
    huge.resize(3 << 20, b' ');
    let latin = one.replace("recovery.", "récovery.").chars().map(|c| c as u8).collect();
    vec![
        ("empty", Vec::new(), "serviceUrl"),
        ("blanks", b" \r\n".to_vec(), "serviceUrl"),
        ("no JSON", b"{\"runtimeSettings\"".to_vec(), "no JSON"),
        ("a list", b"[]".to_vec(), "no list"),
        ("deep", [b"[".repeat(200_000), Vec::new()].concat(), "no JSON"),
        ("none", br#"{"runtimeSettings":[]}"#.to_vec(), "0 entries"),
        ("two", two.into_bytes(), "2 entries"),
        ("null", br#"{"runtimeSettings":[null]}"#.to_vec(), "handlerSettings"),
        ("nulls", settings(&Value::Null, &Value::Null, &Value::Null), "serviceUrl"),
        ("huge", huge, "longer than"),
        ("not UTF-8", latin, "no JSON"),
        ("plain HTTP", url("http://recovery.example.org"), "https://"),
        ("an option", url("--state-dir=/x"), "https://"),
        ("a line too many", url("https://a\nhttps://b"), "control characters"),
        ("a number", settings(&json!({"serviceUrl": 7}), &Value::Null, &Value::Null), "must be a text"),
        (
            "a public token",
            settings(&json!({"token": "mobility-token-abc"}), &Value::Null, &Value::Null),
            "public settings",
        ),
        ("no protected settings", url(SERVICE), "no token"),
        ("no base64", settings(&public, &json!("*"), &own), "no base64"),
        ("no CMS", settings(&public, &json!("AAAA"), &own), "cannot be decrypted"),
        ("no thumbprint", settings(&public, &json!("AAAA"), &Value::Null), "no thumbprint"),
        (
            "a path",
            settings(&public, &json!("AAAA"), &json!("../../../../../../../../etc/ssl/private/server1")),
            "no thumbprint",
        ),
        ("for another machine", foreign, "cannot be decrypted"),
        ("for a key that is gone", unknown, "does not hold the certificate"),
        ("no token", sealed("{}"), "no token"),
        ("a token of two lines", sealed(r#"{"token":"mobility-token-abc\nx"}"#), "control characters"),
        ("a token that is none", sealed(r#"{"token":["mobility-token-abc"]}"#), "must be a text"),
        ("a long token", sealed(&json!({"token": "x".repeat(300)}).to_string()), "not one line"),
        ("a misspelt token", sealed(r#"{"tokn":"mobility-token-abc"}"#), "'tokn'"),
        ("no JSON inside", sealed("mobility-token-abc"), "no JSON"),
    ]
}

#[test]
fn each_kind_of_wrong_settings_is_told_apart() {
    let machine = Machine::installed();
    for (sequence, (name, content, said)) in (0..).zip(wrong_settings()) {
        machine.settings(sequence, &content);
        let ended = machine.run("enable", sequence);
        assert_eq!(ended.code, Some(WRONG), "{name}: {}", ended.said);
        assert!(ended.said.contains(said), "{name}: {}", ended.said);
        let (level, code, message) = machine.level(sequence);
        assert_eq!((level.as_str(), code), ("error", WRONG as u64), "{name}");
        assert!(message.contains(said) && message.len() < 1024, "{name}: {message}");
        assert!(!ended.said.contains("mobility-token"), "{name}: {}", ended.said);
        assert_eq!(machine.heartbeat()["status"], "NotReady", "{name}");
    }
    assert!(!machine.calls().contains("enroll"), "{}", machine.calls());
    // And none of that is in the way of what is right.
    machine.settings(99, &Machine::plain(SERVICE, r#"{"token":"mobility-token-abc"}"#));
    assert_eq!(machine.run("enable", 99).code, Some(0));
}

#[test]
fn what_is_only_unusual_is_taken() {
    for change in
        ["a mark of byte order", "old OpenSSL", "a name that means nothing", "a list", "lines in the base64"]
    {
        let machine = Machine::installed();
        let mut content: Value =
            serde_json::from_slice(&Machine::plain(SERVICE, r#"{"token":"mobility-token-abc"}"#)).unwrap();
        let handler = &mut content["runtimeSettings"][0]["handlerSettings"];
        let mut mark = "";
        match change {
            "a mark of byte order" => mark = "\u{feff}",
            // It knows no CMS.
            "old OpenSSL" => {
                let stand_in = machine.scratch.path("state/bin");
                fs::create_dir(&stand_in).unwrap();
                fs::write(
                    stand_in.join("openssl"),
                    "#!/bin/sh\n[ \"$1\" != cms ] || exit 1\nexec /usr/bin/openssl \"$@\"\n",
                )
                .unwrap();
                fs::set_permissions(stand_in.join("openssl"), fs::Permissions::from_mode(0o755)).unwrap();
            }
            "a name that means nothing" => handler["publicSettings"]["forceUpdateTag"] = json!("x"),
            "a list" => {
                handler["publicSettings"]["serviceUrl"] = json!([SERVICE, "https://other.example.org"])
            }
            _ => {
                let text = handler["protectedSettings"].as_str().unwrap().to_owned();
                handler["protectedSettings"] = json!(format!("{}\r\n{}", &text[..64], &text[64..]));
            }
        }
        machine.settings(0, format!("{mark}{content}").as_bytes());
        let mut command = machine.command("enable", 0);
        let path = machine.own_variables().into_iter().find(|(name, _)| name == "PATH").unwrap().1;
        command.env("PATH", format!("{}:{path}", machine.scratch.path("state/bin").display()));
        let ended = machine.finish(command);
        assert_eq!(ended.code, Some(0), "{change}: {}", ended.said);
        assert_eq!(machine.level(0).0, "success", "{change}");
        if change == "a name that means nothing" {
            assert!(ended.said.contains("'forceUpdateTag'"), "{}", ended.said);
        }
    }
}

/// Whatever a platform, a disk or a cosmic ray makes of a settings file: a status that can be read, and a code that is meant.
#[test]
fn settings_changed_by_chance_are_taken_or_refused() {
    let machine = Machine::installed();
    let plain = Machine::plain(SERVICE, r#"{"token":"mobility-token-abc"}"#);
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut content = plain.clone();
        match dice.below(4) {
            0 => content.truncate(dice.index(content.len())),
            1 => content = (0..dice.below(300)).map(|_| dice.number() as u8).collect(),
            2 => {
                let (from, length) = (dice.index(content.len()), dice.within(1, 40) as usize);
                content.drain(from..(from + length).min(plain.len()));
            }
            _ => {
                for _ in 0..dice.within(1, 4) {
                    let at = dice.index(content.len());
                    content[at] = dice.number() as u8;
                }
            }
        }
        machine.settings(0, &content);
        let ended = machine.run("enable", 0);
        let (level, code, message) = machine.level(0);
        assert!(matches!(ended.code, Some(0 | 53)), "seed {seed}: {ended:?}");
        assert_eq!(code, ended.code.unwrap() as u64, "seed {seed}");
        assert_eq!(level == "success", code == 0, "seed {seed}: {message}");
        if code == 0 {
            machine.succeed("uninstall");
            machine.succeed("install");
        }
    }
}

#[test]
fn without_its_environment_the_handler_says_so_and_ends() {
    let machine = Machine::new();
    let file = machine.base.join("HandlerEnvironment.json");
    let good = fs::read(&file).unwrap();
    for bad in [
        None,
        Some(&b""[..]),
        Some(b"[]"),
        Some(b"\xff\xfe"),
        Some(b"[{\"handlerEnvironment\":{\"logFolder\":1}}]"),
    ] {
        match bad {
            None => fs::remove_file(&file).unwrap(),
            Some(content) => fs::write(&file, content).unwrap(),
        }
        let mut command = machine.command("enable", 0);
        command.env("MOBILITY_EXTENSION_LIMIT", "0.3");
        let ended = machine.finish(command);
        assert!(
            ended.code == Some(1) && ended.said.contains("HandlerEnvironment.json"),
            "{bad:?}: {}",
            ended.said
        );
    }
    // It comes late, as when the guest agent is still at it.
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    let mut command = machine.command("install", 0);
    let mut child = machine.start(&mut command);
    fs::write(&file, &good).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_is_no_command_and_what_cannot_be_executed() {
    let machine = Machine::new();
    for name in ["", "remove", "--help"] {
        let ended = machine.run(name, 0);
        assert!(ended.code == Some(2) && ended.said.contains("install | enable"), "{name}: {ended:?}");
    }
    machine.succeed("reset");
    // The guest agent's files are on a disk that is full.
    let mut full = machine.command("reset", 0);
    let file = || fs::File::options().write(true).open("/dev/full").unwrap();
    assert!(full.stdout(file()).stderr(file()).status().unwrap().success());
    let program = machine.base.join(format!("bin/mobility-extension-{}", std::env::consts::ARCH));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    let ended = machine.run("install", 0);
    assert!(ended.code == Some(126) && ended.said.contains("noexec"), "{ended:?}");
    fs::remove_file(&program).unwrap();
    let ended = machine.run("install", 0);
    assert!(ended.code == Some(51) && ended.said.contains("processor"), "{ended:?}");
}
