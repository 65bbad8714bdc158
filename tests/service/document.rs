//! Holds an exchange with the service to `docs/openapi.json`: what was asked, by which method and path, and what was answered.
//!
//! Deliberately not here: exchanges (`client`), and whether the document names all routes; a test beside these does that.

use std::cell::RefCell;

use boon::{Compiler, Schemas};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

pub(crate) const TEXT: &str = include_str!("../../docs/openapi.json");

/// What the document is known by while schemas refer to one another.
const PLACE: &str = "https://recovery-service/openapi.json";
/// Says of a part of a path that it may have slashes in it.
const SLASHES: &str = "x-has-slashes";

/// What was asked and answered.
#[derive(Clone, Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) method: &'a str,
    /// With all that is said in the address.
    pub(crate) target: &'a str,
    /// Nothing where it is not known any more.
    pub(crate) request: Option<&'a [u8]>,
    pub(crate) status: u16,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) answer: &'a [u8],
}

/// The document, ready to be compared with.
pub(crate) struct Document {
    pub(crate) json: Value,
    compiler: Compiler,
    schemas: Schemas,
}

type Found = Result<(), String>;

impl Document {
    pub(crate) fn new(json: Value) -> Document {
        let mut compiler = Compiler::new();
        compiler.enable_format_assertions();
        compiler.add_resource(PLACE, json.clone()).unwrap();
        Document { json, compiler, schemas: Schemas::new() }
    }

    /// Compares an exchange with the one that is checked in.
    pub(crate) fn check(exchange: &Exchange<'_>) -> Found {
        thread_local! {
            static OWN: RefCell<Document> = RefCell::new(Document::new(serde_json::from_str(TEXT).unwrap()));
        }
        OWN.with_borrow_mut(|document| document.compare(exchange))
    }

    /// What is wrong with an exchange, or with the document.
    pub(crate) fn compare(&mut self, exchange: &Exchange<'_>) -> Found {
        let url = reqwest::Url::parse(&format!("https://service{}", exchange.target)).unwrap();
        let method = exchange.method.to_ascii_lowercase();
        let known = self.path(url.path()).filter(|path| self.json["paths"][path].get(&method).is_some());
        let shown = format!("{} {} -> {}", exchange.method, url.path(), exchange.status);
        let compared = match known {
            Some(path) => {
                self.compare_known(&format!("/paths/{}/{method}", escaped(&path)), &path, &url, exchange)
            }
            None if exchange.status == 404 => self.answer("/components/responses/NotFound", exchange),
            None => Err("the document does not know it".to_owned()),
        };
        compared.map_err(|problem| format!("{shown}: {problem}"))
    }

    /// The path of the document that is meant.
    fn path(&self, asked: &str) -> Option<String> {
        let paths = self.json["paths"].as_object().unwrap();
        let fits = |path: &&String| match path.split_once("{key}") {
            Some((before, _)) => asked.starts_with(before),
            None => {
                let (parts, of_asked) = (path.split('/'), asked.split('/'));
                path.split('/').count() == asked.split('/').count()
                    && parts.zip(of_asked).all(|(part, asked)| part.starts_with('{') || part == asked)
            }
        };
        paths.keys().find(fits).cloned()
    }

    fn compare_known(
        &mut self,
        operation: &str,
        path: &str,
        url: &reqwest::Url,
        exchange: &Exchange<'_>,
    ) -> Found {
        let response = format!("{operation}/responses/{}", exchange.status);
        if self.json.pointer(&response).is_none() {
            return Err("the document does not know this status".to_owned());
        }
        let response = self.resolve(&response);
        self.answer(&response, exchange)?;
        // What was refused may have been wrong in any way.
        if exchange.status < 300 {
            self.parameters(operation, path, url)?;
            self.request(operation, exchange.request)?;
        }
        Ok(())
    }

    /// The place that a reference at `pointer` leads to, or this one.
    fn resolve(&self, pointer: &str) -> String {
        let leads = self.json.pointer(pointer).and_then(|value| value.get("$ref")?.as_str());
        leads.map_or(pointer, |leads| leads.strip_prefix('#').unwrap()).to_owned()
    }

    fn answer(&mut self, response: &str, exchange: &Exchange<'_>) -> Found {
        let headers = self.json.pointer(&format!("{response}/headers")).and_then(Value::as_object).cloned();
        for (name, _) in headers.into_iter().flatten() {
            let value = exchange.headers.get(&name).and_then(|value| value.to_str().ok());
            let schema = format!("{response}/headers/{name}/schema");
            self.text(&schema, value.ok_or_else(|| format!("the answer lacks {name}"))?)?;
        }
        let content = self.json.pointer(&format!("{response}/content")).and_then(Value::as_object).cloned();
        let Some((kind, media)) = content.into_iter().flatten().next() else {
            let empty = exchange.answer.is_empty();
            return if empty { Ok(()) } else { Err("the answer has a body".to_owned()) };
        };
        // The answer to such a request has no body, whatever it is.
        if exchange.method == "HEAD" {
            return Ok(());
        }
        let said =
            exchange.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if said.split(';').next() != Some(&kind) {
            return Err(format!("the answer is '{said}', not '{kind}'"));
        }
        match media.get("schema") {
            Some(_) => self.body(&format!("{response}/content/{}/schema", escaped(&kind)), exchange.answer),
            None => Ok(()),
        }
    }

    fn request(&mut self, operation: &str, request: Option<&[u8]>) -> Found {
        let documented = format!("{operation}/requestBody/content");
        match (self.json.pointer(&documented), request) {
            (_, None) => Ok(()),
            (None, Some(body)) if body.is_empty() || body == b"null" => Ok(()),
            (None, Some(_)) => Err("the request has a body".to_owned()),
            (Some(content), Some(body)) => match content.get("application/json") {
                Some(_) => self.body(&format!("{documented}/application~1json/schema"), body),
                None => Ok(()),
            },
        }
        .map_err(|problem| format!("the request: {problem}"))
    }

    fn parameters(&mut self, operation: &str, path: &str, url: &reqwest::Url) -> Found {
        let documented =
            self.json.pointer(&format!("{operation}/parameters")).and_then(Value::as_array).cloned();
        let documented = documented.unwrap_or_default();
        let named = |name: &str| documented.iter().position(|one| one["name"] == name);
        let mut said: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let parts = path.split('/').zip(url.path().split('/'));
        said.extend(parts.filter_map(|(part, asked)| {
            let name = part.strip_prefix('{')?.strip_suffix('}')?;
            Some((name.to_owned(), asked.to_owned()))
        }));
        for (name, value) in &said {
            let at = named(name).ok_or_else(|| format!("the document does not know the parameter {name}"))?;
            if documented[at][SLASHES] != true {
                self.text(&format!("{operation}/parameters/{at}/schema"), value)?;
            }
        }
        let lacking = documented.iter().filter(|one| one["required"] == true);
        let lacking = lacking.map(|one| one["name"].as_str().unwrap());
        match lacking.into_iter().find(|name| said.iter().all(|(said, _)| said != name)) {
            Some(name) => Err(format!("the request lacks {name}")),
            None => Ok(()),
        }
    }

    /// Compares what is no JSON by itself: a number, where the schema wants one.
    fn text(&mut self, schema: &str, text: &str) -> Found {
        let resolved = self.resolve(schema);
        let integer = self.json.pointer(&resolved).is_some_and(|schema| schema["type"] == "integer");
        let value = match text.parse::<i64>() {
            Ok(number) if integer => number.into(),
            _ => Value::from(text),
        };
        self.validate(schema, &value)
    }

    fn body(&mut self, schema: &str, body: &[u8]) -> Found {
        let value = serde_json::from_slice(body).map_err(|err| format!("no JSON: {err}"))?;
        self.validate(schema, &value)
    }

    fn validate(&mut self, schema: &str, value: &Value) -> Found {
        let compiled = self.compiler.compile(&format!("{PLACE}#{schema}"), &mut self.schemas);
        let compiled = compiled.map_err(|err| format!("the document is wrong at {schema}: {err:#}"))?;
        self.schemas.validate(value, compiled).map_err(|err| err.to_string())
    }
}

fn escaped(text: &str) -> String {
    text.replace('~', "~0").replace('/', "~1")
}
