//! Leases against a fake that keeps one, and refuses a write that is not for its version; time stands until it is moved.

use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::time::advance;

use super::*;

/// The one Lease, and those who ask for it.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    /// Whether every question gets status 500.
    is_away: bool,
    /// Whom whoever reads it waits for, before anybody writes.
    meeting: Option<Arc<Barrier>>,
    /// Writes that were refused.
    conflicts: usize,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn api(&self) -> Api<Lease> {
        let fake = self.clone();
        let router = Router::new().fallback(move |request: Request| async move { fake.answer(request).await });
        Api::namespaced(Client::new(router, "edge"), "edge")
    }

    async fn answer(&self, request: Request) -> Response {
        if self.state().is_away {
            return refuse(500, "InternalError");
        }
        if request.method() == Method::GET {
            let lease = self.state().lease.clone();
            let meeting = self.state().meeting.clone();
            if let Some(meeting) = meeting {
                meeting.wait().await;
            }
            return lease.map_or_else(|| refuse(404, "NotFound"), |lease| axum::Json(lease).into_response());
        }
        let is_new = request.method() == Method::POST;
        let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let lease: Value = serde_json::from_slice(&body).unwrap();
        let mut state = self.state();
        let fits = match &state.lease {
            None => is_new,
            Some(known) => !is_new && known["metadata"]["resourceVersion"] == lease["metadata"]["resourceVersion"],
        };
        if !fits {
            state.conflicts += 1;
            return refuse(409, if is_new { "AlreadyExists" } else { "Conflict" });
        }
        axum::Json(state.put(lease)).into_response()
    }

    fn holder(&self) -> String {
        self.state().lease.as_ref().unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    }
}

impl State {
    fn put(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease.insert(lease).clone()
    }
}

fn refuse(code: u16, reason: &str) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": code });
    (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
}

fn leader(identity: &str) -> Leader {
    Leader::new("sockgate".to_owned(), identity.to_owned())
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn anothers_lease_is_taken_when_it_has_not_changed_for_its_duration_by_our_own_clock() {
    let fake = Fake::default();
    let api = fake.api();
    // By the clock of its holder it was over long ago.
    fake.state().put(
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "sockgate" },
        "spec": { "holderIdentity": "other", "leaseDurationSeconds": 30, "renewTime": "2001-01-01T00:00:00.000000Z",
            "leaseTransitions": 4 } }),
    );
    let mut own = leader("own");
    own.see_to(&api).await.unwrap();
    assert!(!own.is_held(), "it may have been renewed a moment ago");
    advance(29 * SECOND).await;
    own.see_to(&api).await.unwrap();
    assert!(!own.is_held());
    // It is renewed, whatever is written into it.
    let lease = fake.state().lease.clone().unwrap();
    fake.state().put(lease);
    for wait in [0, 29] {
        advance(wait * SECOND).await;
        own.see_to(&api).await.unwrap();
        assert!(!own.is_held(), "its time begins anew");
    }
    advance(SECOND).await;
    own.see_to(&api).await.unwrap();
    assert!(own.is_held());
    let spec = fake.state().lease.clone().unwrap()["spec"].clone();
    let told = (&spec["holderIdentity"], &spec["leaseDurationSeconds"], &spec["leaseTransitions"]);
    assert_eq!(told, (&json!("own"), &json!(15), &json!(5)));
}

#[tokio::test(start_paused = true)]
async fn of_two_who_take_it_at_once_one_is_refused_and_does_not_hold_it() {
    let fake = Fake::default();
    let api = fake.api();
    let (mut a, mut b) = (leader("a"), leader("b"));
    fake.state().meeting = Some(Arc::new(Barrier::new(2)));
    // Nobody has made it yet; then nobody has it; then it is of one who has gone.
    for round in 1..=3 {
        let (one, other) = tokio::join!(a.see_to(&api), b.see_to(&api));
        assert!(one.is_ok() && other.is_ok(), "to be slower is no fault: {one:?} {other:?}");
        assert!(a.is_held() != b.is_held(), "round {round}");
        assert_eq!(fake.holder(), if a.is_held() { "a" } else { "b" });
        assert_eq!(fake.state().conflicts, round);
        // The next time both are others.
        (a, b) = (leader("a"), leader("b"));
        let mut lease = fake.state().lease.clone().unwrap();
        lease["spec"]["holderIdentity"] = json!(if round == 1 { "" } else { "gone" });
        fake.state().put(lease);
        if round == 2 {
            let (one, other) = tokio::join!(a.see_to(&api), b.see_to(&api));
            assert!(one.is_ok() && other.is_ok() && !a.is_held() && !b.is_held());
            advance(LASTS).await;
        }
    }
}

/// One looks in every four seconds, as both do, and the writer is cut off: there is never a moment in which both write.
#[tokio::test(start_paused = true)]
async fn who_cannot_renew_it_writes_no_more_when_its_time_is_over_and_another_takes_it_later() {
    let fake = Fake::default();
    let api = fake.api();
    let (mut first, mut second) = (leader("first"), leader("second"));
    first.see_to(&api).await.unwrap();
    advance(SECOND).await;
    second.see_to(&api).await.unwrap();
    let (mut held, mut taken) = (0, 0);
    for second_of in 1..=40 {
        advance(SECOND).await;
        if second_of % 4 == 3 {
            fake.state().is_away = true;
            assert!(first.see_to(&api).await.is_err());
            fake.state().is_away = false;
        }
        if second_of % 4 == 0 {
            second.see_to(&api).await.unwrap();
        }
        assert!(!(first.is_held() && second.is_held()), "at {second_of}");
        held += usize::from(first.is_held());
        taken += usize::from(second.is_held());
    }
    assert_eq!(held, 13, "until fifteen seconds after it was taken, and not a moment longer");
    assert_eq!(taken, 25, "at the first look after fifteen seconds of silence");
    // The first one can ask again, and hears whose it is.
    first.see_to(&api).await.unwrap();
    assert!(!first.is_held() && second.is_held());
    assert_eq!(fake.holder(), "second");
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_for_as_long_as_its_holder_looks() {
    let fake = Fake::default();
    let api = fake.api();
    let (mut first, mut second) = (leader("first"), leader("second"));
    for _ in 0..20 {
        first.see_to(&api).await.unwrap();
        second.see_to(&api).await.unwrap();
        assert!(first.is_held() && !second.is_held());
        advance(EVERY).await;
        assert!(first.is_held(), "it need not be quick");
    }
    assert_eq!(fake.state().lease.as_ref().unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_given_back_by_its_holder_alone() {
    let fake = Fake::default();
    let api = fake.api();
    let (mut first, mut second) = (leader("first"), leader("second"));
    first.see_to(&api).await.unwrap();
    second.see_to(&api).await.unwrap();
    second.give_up(&api).await.unwrap();
    assert_eq!(fake.holder(), "first", "who does not have it gives nothing back");
    first.give_up(&api).await.unwrap();
    assert!(!first.is_held());
    assert_eq!(fake.holder(), "");
    second.see_to(&api).await.unwrap();
    assert!(second.is_held(), "nobody waits for its end");

    // One who had it, and has not heard that it is another's.
    let mut third = leader("third");
    advance(LASTS).await;
    third.see_to(&api).await.unwrap();
    advance(LASTS).await;
    third.see_to(&api).await.unwrap();
    assert!(third.is_held() && !second.is_held());
    second.give_up(&api).await.unwrap();
    assert_eq!(fake.holder(), "third");
}
