//! Requests for tests.

use super::{Headers, Path, Request};

/// A request for a path, perhaps with a query, as it comes in on the listener `web` from the machine itself.
pub(crate) fn request<'a>(method: &'a str, target: &'a str, fields: &'a [httparse::Header<'a>]) -> Request<'a> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    Request {
        method,
        host: None,
        path: Path::read(path).unwrap(),
        query,
        headers: Headers::Fields(fields),
        websocket: false,
        listener: "web",
        port: 80,
        secure: false,
        server_name: None,
        client: [127, 0, 0, 1].into(),
    }
}
