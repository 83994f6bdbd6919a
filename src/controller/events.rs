//! Events: what there is to say about an object, where those look who made it.

use std::hash::Hasher;

use fnv::FnvHasher;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::draft::{Note, Object};

/// The longest text that an Event takes.
const LONGEST: usize = 1000;

/// Says a note where the object is. That it has been said before is no fault.
///
/// # Errors
/// What the API server says.
pub(super) async fn say(client: &Client, note: &Note) -> kube::Result<()> {
    let api: Api<Event> = Api::namespaced(client.clone(), &note.object.namespace);
    match api.create(&PostParams::default(), &event(note)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        said => said.map(drop),
    }
}

fn event(Note { object, reason, what }: &Note) -> Event {
    let Object { namespace, name, kind, api_version, uid, .. } = object;
    let now = Time(Timestamp::now());
    // The same words about the same object have the same name, whoever says them.
    let mut hash = FnvHasher::default();
    [uid, *reason, what].into_iter().for_each(|part| hash.write(part.as_bytes()));
    let short: String = name.chars().take(200).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", short.trim_end_matches(['.', '-']), hash.finish())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(api_version.clone()),
            kind: Some(kind.clone()),
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some((*reason).to_owned()),
        message: Some(what.chars().take(LONGEST).collect()),
        source: Some(EventSource { component: Some("sockgate".to_owned()), host: None }),
        reporting_component: Some(super::CONTROLLER.to_owned()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}
