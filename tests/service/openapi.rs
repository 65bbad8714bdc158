//! The document of all paths and messages is what the service serves.
//!
//! All other tests here hold each of their exchanges to it (`client`, `clerk`). Deliberately not here: that it names every route,
//! which a test beside the routes shows.

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    client::{Asking, Client},
    document::{Document, Exchange, TEXT},
    rig::Rig,
};

#[test]
fn the_document_is_served_to_anybody() {
    let rig = Rig::new();
    let answer = rig.client(None).get(format!("{}/v1/openapi.json", rig.address)).send().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.bytes() == TEXT.as_bytes());
}

#[test]
fn every_operation_of_it_is_known_and_asks_for_the_credential_that_it_names() {
    let rig = Rig::new();
    let agent = Agent::enrol(&rig, 1);
    let (nobody, secret) = (rig.client(None), rig.secret());
    let document: Value = serde_json::from_str(TEXT).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let filled = path.replace(['{', '}'], "");
        let url = format!("{}{filled}", rig.address);
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            // A body that nobody understands, where there has to be one, so that nothing is done.
            let ask = |client: &Client| match operation.get("requestBody") {
                Some(_) => client.request(method.clone(), &url).body("{"),
                None => client.request(method.clone(), &url),
            };
            let scheme = operation["security"][0].as_object().and_then(|scheme| scheme.keys().next());
            // Whether it is known: what is not is not found, whoever asks.
            let status = ask(&nobody).send().unwrap().status();
            let Some(scheme) = scheme else {
                assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path}");
                continue;
            };
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            // Each credential is good for its own operations alone.
            let refused = |asking: Asking| asking.send().unwrap().status() == StatusCode::UNAUTHORIZED;
            let refused = (refused(ask(&agent.client)), refused(ask(&nobody).bearer_auth(&secret)));
            let expected = (scheme == "administrator", scheme == "certificate");
            assert_eq!(refused, expected, "{method} {path}");
        }
    }
}

/// What is wrong with an answer to an agent that waits for commands, once the document was changed.
fn compared(change: impl FnOnce(&mut Value), answer: &Value) -> Result<(), String> {
    let mut json: Value = serde_json::from_str(TEXT).unwrap();
    change(&mut json);
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    let answer = answer.to_string();
    Document::new(json).compare(&Exchange {
        method: "GET",
        target: "/v1/commands?session=0123456789abcdef&wait_s=0",
        request: Some(b""),
        status: 200,
        headers: &headers,
        answer: answer.as_bytes(),
    })
}

#[test]
fn what_the_document_lacks_or_has_too_much_is_found_out() {
    let answer = json!({ "commands": [{ "id": 1, "order": "point", "application": true }] });
    compared(|_| {}, &answer).unwrap();
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 6] = [
        ("a path", |json| drop(json["paths"].as_object_mut().unwrap().remove("/v1/commands"))),
        ("a status", |json| {
            drop(json["paths"]["/v1/commands"]["get"]["responses"].as_object_mut().unwrap().remove("200"));
        }),
        ("a parameter", |json| {
            drop(json["paths"]["/v1/commands"]["get"]["parameters"].as_array_mut().unwrap().remove(1));
        }),
        ("a field", |json| {
            let order = &mut json["components"]["schemas"]["Command"]["oneOf"][0];
            order["properties"].as_object_mut().unwrap().remove("application");
            order["required"] = json!(["id", "order"]);
        }),
        ("a field too much", |json| {
            json["components"]["schemas"]["Commands"]["required"] = json!(["commands", "more"]);
        }),
        ("another type", |json| {
            json["components"]["schemas"]["Command"]["oneOf"][0]["properties"]["application"] =
                json!({ "type": "string" });
        }),
    ];
    for (name, change) in changes {
        assert!(compared(change, &answer).is_err(), "{name}");
    }
    assert!(compared(|_| {}, &json!({ "commands": [], "more": 1 })).is_err());
    assert!(compared(|_| {}, &json!({ "commands": [{ "id": 1, "order": "later" }] })).is_err());
}
