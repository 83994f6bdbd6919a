//! What ties a client to a server when no session does: a cookie, or something that its requests say.

pub mod config;
pub mod cookie;
pub mod key;

pub use config::Config;
pub use cookie::CookieAffinity;
pub use key::{By, stable_hash, value};

use std::borrow::Cow;

use crate::request::Request;

/// Says by what a client is placed, where its address won't do: requests with the same key meet the same server for as long
/// as the servers stay, by a consistent hash.
///
/// Why it looks like this. Placing needs one thing of a request, that others of the same client have in common; which server
/// that means is the balance's to say, so that weights, health and limits hold as ever. So this gives a key and no
/// server. It is bytes rather than a hash, since all gateways before the same servers have to agree on the hash. A session
/// of Socket.IO goes to its own server whatever its key says: the key places where it begins.
///
/// It is called once for each request that is placed in its upstream, WebSockets and polls included, while nothing has been
/// sent to a server; from many threads at once. It must not wait, and nothing else happens meanwhile. Only balance
/// `client_ip`, or a [`Balance`](crate::Balance) of the program's, looks at what it says.
///
/// ```
/// use std::borrow::Cow;
/// use sockgate::{Affinity, Request};
///
/// /// Rooms of `/rooms/7/…` each live on one server.
/// struct Room;
///
/// impl Affinity for Room {
///     fn key<'a>(&self, request: &'a Request<'_>) -> Option<Cow<'a, [u8]>> {
///         let room = request.path.canonical.strip_prefix("/rooms/")?.split('/').next()?;
///         Some(room.as_bytes().into())
///     }
/// }
/// ```
pub trait Affinity: Send + Sync + 'static {
    /// What the client of a request is known by. `None` where the request doesn't say it: then what `affinity` of the
    /// configuration says, or else the client's address.
    fn key<'a>(&self, request: &'a Request<'_>) -> Option<Cow<'a, [u8]>>;
}
