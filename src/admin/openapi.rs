//! The description of the API, as OpenAPI 3.1: made of the table of endpoints and of the types that they tell.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::endpoints::{Answer, ENDPOINTS, Endpoint, Fault, Gives, Operation, Purpose};
use super::shape::{Schemas, Shape};

/// Answers `GET /api/v1/openapi.json`.
pub(super) fn answer() -> Answer {
    static DESCRIPTION: LazyLock<Value> = LazyLock::new(describe);
    Answer::json(&*DESCRIPTION)
}

fn describe() -> Value {
    let mut schemas = Schemas::default();
    let fault = Fault::shape(&mut schemas);
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let operations = endpoint.operations.iter().map(|operation| {
            let described = describe_operation(endpoint, operation, &fault, &mut schemas);
            (operation.method.to_ascii_lowercase(), described)
        });
        paths.insert(endpoint.path.to_owned(), Value::Object(operations.collect()));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sockgate's admin address",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a gateway tells operators and their tools, and what they can have it do. Names in \
                            paths are percent-encoded. What is below /api/v1 stays as it is but for fields that are added.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        // Where there is a token; client certificates do as well, and neither is asked for on the loopback by default.
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas.0,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn describe_operation(endpoint: &Endpoint, operation: &Operation, fault: &Value, schemas: &mut Schemas) -> Value {
    let in_path = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path =
        in_path.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = operation.query.iter().map(
        |(name, about)| json!({ "name": name, "in": "query", "description": about, "schema": { "type": "string" } }),
    );
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let content = match operation.gives {
        Gives::Json(shape) => json!({ "application/json": { "schema": shape(schemas) } }),
        Gives::Text(kind) => json!({ kind: { "schema": { "type": "string" } } }),
        // OpenAPI 3.1 has no word for events: this is what each of them holds.
        Gives::Events(shape) => json!({ "text/event-stream": { "schema": shape(schemas) } }),
    };
    let mut described = json!({
        "operationId": name(endpoint, operation),
        "summary": operation.about,
        "parameters": parameters,
        "responses": { "200": { "description": operation.about, "content": content } },
    });
    if endpoint.purpose == Purpose::Operation {
        described["responses"]["default"] = json!({
            "description": "Why not: 400 for what can't be understood, 401 without a token where one is asked for, 403 for \
                            pages of other sites, 404, 405, 409 for what the state forbids, 421 for names of strangers, 422 \
                            for a configuration with faults, 503 where too much is asked at once.",
            "content": { "application/json": { "schema": fault }, "text/plain": { "schema": { "type": "string" } } },
        });
    }
    if let Some(takes) = operation.takes {
        described["requestBody"] = json!({ "content": { "application/json": { "schema": takes(schemas) } } });
    }
    described
}

/// A name for the operation that no other has: `getServersDrain`.
fn name(endpoint: &Endpoint, operation: &Operation) -> String {
    let versioned = endpoint.path.strip_prefix("/api/v1").unwrap_or(endpoint.path);
    let in_old_way = if versioned == endpoint.path && !versioned.contains('.') { "Root" } else { "" };
    let words = versioned.split(['/', '.', '_', '-']).filter(|word| !word.is_empty());
    let words = words.map(|word| {
        let word = word.trim_matches(['{', '}']);
        word[..1].to_uppercase() + &word[1..]
    });
    operation.method.to_ascii_lowercase() + in_old_way + &words.collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_has_a_name_of_its_own_and_every_reference_leads_somewhere() {
        let described = describe();
        let mut names = BTreeSet::new();
        for operation in
            described["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values())
        {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            assert!(names.insert(name), "{operation}");
        }
        let text = described.to_string();
        for rest in text.split("\"$ref\":\"#").skip(1) {
            let place = rest.split('"').next().unwrap();
            assert!(described.pointer(place).is_some_and(Value::is_object), "{place}");
        }
    }
}
