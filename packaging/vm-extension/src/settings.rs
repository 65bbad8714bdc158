//! What whoever deploys the extension has asked for: which recovery service, and how to get to it.
//!
//! Settings come from people, through portals and templates, so everything that can be wrong with them is said in their words.
//! What is encrypted is only opened when it is needed (`protected`). Deliberately not here: what is done with them.

use std::{io, path::Path};

use serde_json::{Map, Value};

use crate::{failure::Failure, files, secrets::Secrets};

/// The longest settings.
const LONGEST: u64 = 1 << 20;
/// The most addresses of a service, and the longest of them.
const MOST_ADDRESSES: usize = 16;
const LONGEST_TEXT: usize = 2048;
/// The longest token that the agent takes.
const LONGEST_TOKEN: usize = 256;
/// All that may stand in the settings that everybody can read.
const PUBLIC: [&str; 3] = ["serviceUrl", "caFingerprint", "proxy"];
/// All that may stand in those that nobody can read.
const PROTECTED: [&str; 2] = ["token", "proxy"];

/// What is still encrypted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) content: String,
    /// Which certificate it is for.
    pub(crate) thumbprint: String,
}

/// What everybody may read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where the service can be reached.
    pub(crate) services: Vec<String>,
    pub(crate) ca_fingerprint: Option<String>,
    pub(crate) proxy: Option<String>,
    pub(crate) sealed: Option<Sealed>,
    /// Names that mean nothing here.
    pub(crate) strange: Vec<String>,
}

/// What was encrypted.
#[derive(Default)]
pub(crate) struct Protected {
    pub(crate) token: Option<String>,
    pub(crate) proxy: Option<String>,
}

impl Settings {
    /// Reads the file at `path`. One that is empty, or not there, says nothing.
    pub(crate) fn read(path: &Path, secrets: &mut Secrets) -> Result<Settings, Failure> {
        let bytes = match files::read(path, LONGEST) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(err) => return Err(Failure::settings(format!("the settings cannot be read: {err}"))),
            Ok(bytes) => bytes,
        };
        Settings::parse(&bytes, secrets)
    }

    fn parse(bytes: &[u8], secrets: &mut Secrets) -> Result<Settings, Failure> {
        let wrong = |what: &str| Failure::settings(format!("the settings are not as they should be: {what}"));
        if bytes.trim_ascii().is_empty() {
            return Ok(Settings::default());
        }
        // The message of the parser says where, and nothing of what is there.
        let file: Value = serde_json::from_slice(bytes).map_err(|err| wrong(&format!("no JSON: {err}")))?;
        let all = file["runtimeSettings"].as_array().ok_or_else(|| wrong("no list 'runtimeSettings'"))?;
        let [one] = all.as_slice() else {
            return Err(wrong(&format!("'runtimeSettings' has {} entries and must have one", all.len())));
        };
        let handler = &one["handlerSettings"];
        if !handler.is_object() {
            return Err(wrong("no object 'handlerSettings'"));
        }
        let sealed = sealed(handler, secrets)?;
        let public =
            object(&handler["publicSettings"]).ok_or_else(|| wrong("'publicSettings' is no object"))?;
        if let Some(token) = public.get("token") {
            secrets.learn(token.as_str().unwrap_or_default());
            return Err(Failure::settings(
                "'token' is in the public settings, which anybody who may look at the machine can read: create another, \
                 put it into the protected settings and revoke this one",
            ));
        }
        let services = services(public.get("serviceUrl").unwrap_or(&Value::Null))?;
        let ca_fingerprint = text(&public, "caFingerprint")?;
        let proxy = proxy(&public, secrets)?;
        Ok(Settings { services, ca_fingerprint, proxy, sealed, strange: strange(&public, &PUBLIC) })
    }
}

impl Protected {
    /// From what was decrypted.
    pub(crate) fn parse(bytes: &[u8], secrets: &mut Secrets) -> Result<Protected, Failure> {
        let wrong = |what: &str| {
            Failure::settings(format!("the protected settings are not as they should be: {what}"))
        };
        // What the parser says could quote a secret.
        let value: Value = serde_json::from_slice(bytes).map_err(|_| wrong("no JSON"))?;
        let map = object(&value).ok_or_else(|| wrong("no object"))?;
        for value in map.values() {
            secrets.learn(value.as_str().unwrap_or_default());
        }
        let token = text(&map, "token")?;
        if let Some(token) = &token {
            let readable = token.bytes().all(|b| b.is_ascii_graphic());
            if !readable || token.len() > LONGEST_TOKEN {
                return Err(wrong("'token' is not one line as `recovery-service token create` showed it"));
            }
        }
        match strange(&map, &PROTECTED).as_slice() {
            [] => Ok(Protected { token, proxy: proxy(&map, secrets)? }),
            names => Err(wrong(&format!("nothing is known of {}", names.join(", ")))),
        }
    }
}

/// An object, which may be `null` where there is nothing to say.
fn object(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Null => Some(Map::new()),
        Value::Object(map) => Some(map.clone()),
        _ => None,
    }
}

/// Names that mean nothing here, of which a few are enough.
fn strange(map: &Map<String, Value>, known: &[&str]) -> Vec<String> {
    let strange = map.keys().filter(|name| !known.contains(&name.as_str()));
    strange
        .take(8)
        .map(|name| format!("'{}'", name.chars().take(40).collect::<String>().escape_debug()))
        .collect()
}

/// A text without spaces around it; nothing where it is missing, `null` or empty.
fn text(map: &Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= LONGEST_TEXT => {
            let text = text.trim();
            let plain = !text.contains(|c: char| c.is_control() || c.is_whitespace());
            match plain {
                true => Ok(Some(text.to_owned()).filter(|text| !text.is_empty())),
                false => Err(Failure::settings(format!(
                    "the setting '{name}' has spaces, lines or control characters in it"
                ))),
            }
        }
        Some(Value::String(_)) => Err(Failure::settings(format!("the setting '{name}' is too long"))),
        Some(_) => Err(Failure::settings(format!("the setting '{name}' must be a text"))),
    }
}

fn proxy(map: &Map<String, Value>, secrets: &mut Secrets) -> Result<Option<String>, Failure> {
    let proxy = text(map, "proxy")?;
    if let Some((name_and_password, _)) = proxy.as_ref().and_then(|proxy| proxy.rsplit_once('@')) {
        secrets.learn(name_and_password);
        secrets.learn(name_and_password.rsplit(':').next().unwrap_or_default());
    }
    Ok(proxy)
}

/// One address or a list of them.
fn services(value: &Value) -> Result<Vec<String>, Failure> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list.clone(),
        one => vec![one.clone()],
    };
    if list.len() > MOST_ADDRESSES {
        return Err(Failure::settings(format!("'serviceUrl' names more than {MOST_ADDRESSES} addresses")));
    }
    let mut found = Vec::new();
    for value in list {
        let map = Map::from_iter([("serviceUrl".to_owned(), value)]);
        found.extend(text(&map, "serviceUrl")?);
    }
    if let Some(bad) = found.iter().find(|address| !is_https(address)) {
        return Err(Failure::settings(format!(
            "'serviceUrl' must be an address such as https://recovery.example.org:8443, and not '{bad}'"
        )));
    }
    Ok(found)
}

fn is_https(address: &str) -> bool {
    let rest = address.strip_prefix("https://").unwrap_or_default();
    !rest.is_empty() && !rest.contains(['@', '?', '#', '\'', '"', '\\'])
}

fn sealed(handler: &Value, secrets: &mut Secrets) -> Result<Option<Sealed>, Failure> {
    let [content, thumbprint] =
        ["protectedSettings", "protectedSettingsCertThumbprint"].map(|name| &handler[name]);
    secrets.learn(thumbprint.as_str().unwrap_or_default());
    let content = match content {
        Value::Null => return Ok(None),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => text.trim().to_owned(),
        _ => {
            return Err(Failure::settings("'protectedSettings' is no text: it is encrypted by the platform"));
        }
    };
    secrets.learn(&content);
    let thumbprint = thumbprint.as_str().unwrap_or_default().to_owned();
    // It becomes part of a path.
    if thumbprint.len() != 40 || !thumbprint.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Failure::settings(
            "there are protected settings, and no thumbprint of the certificate they are for",
        ));
    }
    Ok(Some(Sealed { content, thumbprint: thumbprint.to_ascii_uppercase() }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text.as_bytes(), &mut Secrets::default()).map_err(|failure| failure.message)
    }

    fn with(public: &str, more: &str) -> String {
        format!(r#"{{"runtimeSettings":[{{"handlerSettings":{{"publicSettings":{public}{more}}}}}]}}"#)
    }

    #[test]
    fn settings_say_what_was_asked_for() {
        let thumbprint = "ab".repeat(20);
        let more = format!(r#","protectedSettings":"AAAA","protectedSettingsCertThumbprint":"{thumbprint}""#);
        let public =
            r#"{"serviceUrl":" https://a:8443 ","caFingerprint":"","proxy":null,"forceUpdateTag":1}"#;
        let settings = parse(&with(public, &more)).unwrap();
        assert_eq!((settings.services, settings.ca_fingerprint), (vec!["https://a:8443".to_owned()], None));
        assert_eq!(settings.strange, ["'forceUpdateTag'"]);
        assert_eq!(settings.sealed.unwrap().thumbprint, thumbprint.to_uppercase());
        let several = parse(&with(r#"{"serviceUrl":["https://a","https://b"]}"#, "")).unwrap();
        assert_eq!(several.services, ["https://a", "https://b"]);
        for nothing in
            ["", " \n", &with("null", r#","protectedSettings":null,"protectedSettingsCertThumbprint":null"#)]
        {
            assert_eq!(parse(nothing).unwrap(), Settings::default(), "{nothing}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let one = with("{}", "");
        let two = one.replace("}]}", "},{\"handlerSettings\":{}}]}");
        for (text, said) in [
            ("{", "no JSON"),
            ("[]", "no list"),
            (r#"{"runtimeSettings":[]}"#, "0 entries"),
            (&two, "2 entries"),
            (r#"{"runtimeSettings":[null]}"#, "handlerSettings"),
            (&with("[]", ""), "publicSettings"),
            (&with(r#"{"serviceUrl":7}"#, ""), "must be a text"),
            (&with(r#"{"serviceUrl":"http://a"}"#, ""), "https://"),
            (&with(r#"{"serviceUrl":"https://u:p@a"}"#, ""), "https://"),
            (&with(r#"{"serviceUrl":"--state-dir=/x"}"#, ""), "https://"),
            (&with(r#"{"serviceUrl":"https://a b"}"#, ""), "spaces"),
            (&with(r#"{"token":"mobility-token-x"}"#, ""), "public settings"),
            (&with("{}", r#","protectedSettings":{"token":"x"}"#), "no text"),
            (&with("{}", r#","protectedSettings":"AAAA""#), "no thumbprint"),
            (
                &with("{}", r#","protectedSettings":"AAAA","protectedSettingsCertThumbprint":"../../x""#),
                "no thumbprint",
            ),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(said), "{text}: {message}");
        }
    }

    #[test]
    fn protected_settings_hold_one_token() {
        let parse = |text: &str| Protected::parse(text.as_bytes(), &mut Secrets::default());
        assert_eq!(parse(r#"{"token":"abc\n"}"#).unwrap().token.as_deref(), Some("abc"));
        assert!(parse("null").unwrap().token.is_none());
        for bad in ["", "[]", r#"{"token":"a\nb"}"#, r#"{"token":5}"#, r#"{"tokn":"a"}"#, r#"{"token":"é"}"#]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_wrong_is_not_repeated_where_it_could_be_secret() {
        let mut secrets = Secrets::default();
        let message = Protected::parse(br#"{"token":"secret-one","oops":"secret-two""#, &mut secrets)
            .err()
            .unwrap()
            .message;
        assert!(!message.contains("secret-"), "{message}");
    }

    proptest! {
        #[test]
        fn whatever_is_there_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Settings::parse(&bytes, &mut Secrets::default());
            let _ = Protected::parse(&bytes, &mut Secrets::default());
        }

        #[test]
        fn whatever_was_changed_is_read_or_refused(at in 0_usize..120, byte in any::<u8>()) {
            let mut text = with(r#"{"serviceUrl":"https://a"}"#, r#","protectedSettings":"AAAA""#).into_bytes();
            let at = at % text.len();
            text[at] = byte;
            let _ = Settings::parse(&text, &mut Secrets::default());
        }
    }
}
