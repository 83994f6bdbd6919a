//! A controller serves what Ingresses say, as they come and go: the gateway is the built program, its pods are real servers, the
//! API server is a fake (`support/kubernetes.rs`).

mod conformance;
mod gateways;
mod ingress;
mod slices;
mod told;
mod traffic;

use serde_json::{Value, json};

use crate::support::kubernetes::{CLASSES, FakeApi, INGRESSES, Pod, SERVICES, SLICES, TOKEN, pod, slice};
use crate::support::tls::Issued;
use crate::support::{Client, Echo, Gateway, eventually};

/// What the operator says beside the cluster.
const FILE: &str = "
listeners:
  - { name: web, address: 127.0.0.1:0 }
reload: { watch: false }
";

/// A cluster with the gateway's class.
async fn cluster() -> FakeApi {
    let api = FakeApi::start().await;
    api.apply(CLASSES, "", class("sockgate", "sockgate.io/ingress-controller"));
    api
}

fn class(name: &str, controller: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "controller": controller } })
}

/// Starts a controller, whether it is ready or not.
async fn start_with(api: &FakeApi, file: &str, arguments: &[&str]) -> Gateway {
    let kubeconfig = api.kubeconfig(TOKEN).display().to_string();
    let all: Vec<&str> = ["--kubeconfig", &kubeconfig].into_iter().chain(arguments.iter().copied()).collect();
    Gateway::controller(file, &all).await
}

async fn start(api: &FakeApi) -> Gateway {
    let gateway = start_with(api, FILE, &[]).await;
    is_ready(&gateway).await;
    gateway
}

async fn is_ready(gateway: &Gateway) {
    eventually("the controller is ready", async || gateway.admin("/readyz").await.status == 200).await;
}

/// A Service at port 80, whose pods call that port `web`.
fn service(api: &FakeApi, namespace: &str, name: &str) {
    let ports = json!([{ "name": "web", "port": 80, "targetPort": "http" }]);
    api.apply(SERVICES, namespace, json!({ "metadata": { "name": name }, "spec": { "ports": ports } }));
}

/// A Service with one pod, that this server is.
fn serve(api: &FakeApi, namespace: &str, name: &str, port: u16) {
    service(api, namespace, name);
    stand(api, namespace, name, name, port, Pod::Ready);
}

/// A pod of a Service, in a slice of its own since each has a port of its own here.
fn stand(api: &FakeApi, namespace: &str, service: &str, name: &str, port: u16, stands: Pod) {
    let endpoints = [pod(name, &format!("{name}uid"), "127.0.0.1", stands)];
    api.apply(SLICES, namespace, slice(&format!("{service}-{name}"), service, port, &endpoints));
}

/// An Ingress of the gateway's class: rules of a host, a path, its type and a Service.
fn ingress(name: &str, rules: &[(&str, &str, &str, &str)]) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|(host, path, kind, service)| {
            let backend = json!({ "service": { "name": service, "port": { "number": 80 } } });
            let mut rule = json!({ "http": { "paths": [{ "path": path, "pathType": kind, "backend": backend }] } });
            if !host.is_empty() {
                rule["host"] = json!(host);
            }
            rule
        })
        .collect();
    json!({ "metadata": { "name": name }, "spec": { "ingressClassName": "sockgate", "rules": rules } })
}

/// The same with annotations.
fn annotated(mut ingress: Value, annotations: &[(&str, &str)]) -> Value {
    for (name, value) in annotations {
        ingress["metadata"]["annotations"][*name] = json!(value);
    }
    ingress
}

fn put(api: &FakeApi, ingress: Value) {
    api.apply(INGRESSES, "chat", ingress);
}

/// A Secret with a certificate.
fn secret(name: &str, issued: &Issued) -> Value {
    use base64::Engine;
    let read = |file: &str| base64::engine::general_purpose::STANDARD.encode(std::fs::read(file).unwrap());
    let data = json!({ "tls.crt": read(&issued.cert), "tls.key": read(&issued.key) });
    json!({ "metadata": { "name": name }, "type": "kubernetes.io/tls", "data": data })
}

/// Who answers: the name of the server, or the status.
async fn who(gateway: &Gateway, host: &str, path: &str) -> String {
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    let answer = client.answer().await;
    answer.header("x-server").map_or_else(|| answer.status.to_string(), str::to_owned)
}

async fn becomes(gateway: &Gateway, host: &str, path: &str, expected: &str) {
    eventually(&format!("{host}{path} is {expected}"), async || who(gateway, host, path).await == expected).await;
}

/// Echo servers, each behind a Service of its name.
async fn echoes<const N: usize>(api: &FakeApi, names: [&'static str; N]) -> [Echo; N] {
    let servers = futures::future::join_all(names.map(Echo::start)).await;
    for (name, server) in names.iter().zip(&servers) {
        serve(api, "chat", name, server.address().port());
    }
    servers.try_into().unwrap_or_else(|_| unreachable!())
}
