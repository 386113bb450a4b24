//! The API describes itself, and the page about it asks no other host.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Request, Setup};

/// Every route, as the README and the design name them.
const ROUTES: [(&str, &[&str]); 26] = [
    ("/", &["get"]),
    ("/rules", &["get", "post", "put"]),
    ("/rules/{id}", &["get", "put", "delete"]),
    ("/outputs", &["get", "post", "delete"]),
    ("/outputs/{id}", &["get", "put", "delete"]),
    ("/outputs/{id}/dead-letters", &["get"]),
    ("/outputs/{id}/redrive", &["post"]),
    ("/config/batch_size", &["get", "post"]),
    ("/draft", &["get", "put"]),
    ("/validate", &["post"]),
    ("/publish", &["post"]),
    ("/revisions", &["get"]),
    ("/revisions/{revision}", &["get"]),
    ("/revisions/{revision}/rollback", &["post"]),
    ("/modules", &["get"]),
    ("/modules/{name}", &["get", "put", "delete"]),
    ("/modules/{name}/wasm", &["get"]),
    ("/tokens", &["get", "post"]),
    ("/tokens/{name}", &["delete"]),
    ("/metrics", &["get"]),
    ("/healthz", &["get"]),
    ("/readyz", &["get"]),
    ("/status", &["get"]),
    ("/stats", &["get"]),
    ("/openapi.json", &["get"]),
    ("/docs", &["get"]),
];

#[test]
fn description_is_openapi_and_names_every_route() {
    let gate = Setup::new().start();
    let description = gate.get("/openapi.json");
    let version = description["openapi"].as_str().expect("a version");
    assert!(version.starts_with("3.1."), "{version}");
    for (path, methods) in ROUTES {
        let described = &description["paths"][path];
        for method in methods {
            assert!(described[method].is_object(), "{method} {path}");
            let answers = described[method]["responses"].as_object();
            assert!(
                answers.is_some_and(|answers| answers.contains_key("200")),
                "{path}"
            );
        }
    }
    // And nothing that is not there: every described path answers.
    for (path, operations) in description["paths"].as_object().expect("an object") {
        if operations["get"].is_object() && !path.contains('{') {
            gate.ask(&Request::new("GET", path)).expect(200);
        }
    }
    every_reference_leads_somewhere(&description);
    gate.finish(0);
}

fn every_reference_leads_somewhere(description: &Value) {
    let mut references = BTreeSet::new();
    collect_references(description, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("in this document");
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect_references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields
                .values()
                .for_each(|field| collect_references(field, found));
        }
        Value::Array(list) => list.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[test]
fn page_asks_no_other_host() {
    let gate = Setup::new().start();
    for path in ["/docs", "/docs/"] {
        let page = gate.ask(&Request::new("GET", path)).expect(200);
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(!policy.contains("http"), "{policy}");
        let html = String::from_utf8(page.body).expect("UTF-8");
        let links = links_in(&html);
        assert!(links.len() > 3, "{html}");
        for link in links {
            assert!(link.starts_with("/docs/"), "{link}");
            let part = gate.ask(&Request::new("GET", link)).expect(200);
            assert!(!part.body.is_empty(), "{link}");
        }
    }
    let start = gate.ask(&Request::new("GET", "/docs/swagger-initializer.js"));
    let start = String::from_utf8(start.expect(200).body).expect("UTF-8");
    assert!(start.contains("/openapi.json"), "{start}");
    assert!(!start.contains("://"), "{start}");
    gate.finish(0);
}

/// What the page loads.
fn links_in(html: &str) -> Vec<&str> {
    ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

#[test]
fn index_leads_to_what_there_is() {
    let gate = Setup::new().start();
    let index = gate.get("/");
    assert_eq!(index["status"], "ok");
    for link in index["links"].as_object().expect("links").values() {
        let path = link.as_str().expect("a path");
        gate.ask(&Request::new("GET", path)).expect(200);
    }
    gate.finish(0);
}
