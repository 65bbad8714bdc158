//! Paths as tables, from which the router is made and with which a test compares the document that clients are written from.
//!
//! Deliberately not here: which paths there are (`api`, `admin`), and what the document says of their messages, which
//! `tests/service` compares with what is served.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::Uri,
    routing::{MethodFilter, MethodRouter},
};
use mobility_format::control::{ErrorCode, MAX_BODY};

use super::{refusal::Refusal, state::Service};

/// By which method which path is asked, and what answers.
pub(super) type Route = (MethodFilter, &'static str, fn(MethodFilter) -> MethodRouter<Arc<Service>>);

pub(super) const GET: MethodFilter = MethodFilter::GET;
pub(super) const POST: MethodFilter = MethodFilter::POST;
pub(super) const PUT: MethodFilter = MethodFilter::PUT;
pub(super) const DELETE: MethodFilter = MethodFilter::DELETE;

/// Answers these paths, and says of other methods of theirs that it does not know them.
pub(super) fn router(routes: &[Route], service: Arc<Service>) -> Router {
    let add =
        |router: Router<Arc<Service>>, (method, path, answer): &Route| router.route(path, answer(*method));
    routes
        .iter()
        .fold(Router::new(), add)
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(service)
}

/// Answers what nothing else answers.
pub(super) async fn unknown(uri: Uri) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("this service does not know {}", uri.path()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Map, Value};

    use super::*;
    use crate::service::{admin, api};

    #[test]
    fn the_document_names_every_route_and_nothing_else() {
        let name = |method: MethodFilter| {
            let names = [(GET, "get"), (POST, "post"), (PUT, "put"), (DELETE, "delete")];
            names.into_iter().find(|(known, _)| *known == method).unwrap().1.to_owned()
        };
        let routes = api::ROUTES.iter().chain(&admin::ROUTES);
        // Both write a part of a path in braces; a star says here that it may have slashes in it.
        let routes: BTreeSet<_> =
            routes.map(|(method, path, _)| (path.replace("{*", "{"), name(*method))).collect();
        let document: Value = serde_json::from_str(api::DOCUMENT).unwrap();
        let paths: Map<String, Value> = document["paths"].as_object().unwrap().clone();
        let methods = |(path, item): (String, Value)| {
            let names: Vec<String> = item.as_object().unwrap().keys().cloned().collect();
            let of_methods = names.into_iter().filter(|name| name != "parameters");
            of_methods.map(move |method| (path.clone(), method)).collect::<Vec<_>>()
        };
        let documented: BTreeSet<_> = paths.into_iter().flat_map(methods).collect();
        assert_eq!(documented, routes);
    }
}
