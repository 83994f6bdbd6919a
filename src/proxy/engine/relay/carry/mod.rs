//! One exchange between two open connections: the request goes, the answer comes, both at once where they have to, until
//! the answer is with the client or one of them fails.

mod download;
mod upload;
mod waits;

use std::task::{Context, Poll};

use super::buffer::{self, Buffer};
use super::client::poll_ended;
use super::request::Asked;
use super::server::Server;
use super::told::Told;
use crate::deadline::Moment;
use crate::ending::Stopping;
use crate::exchange::{Core, Exchange, Side};
use crate::http::Refusal;
use crate::http::passing::Passing;
use crate::listener::Connection;
use crate::transport::Transport;
use download::Download;

pub(super) use upload::Upload;
pub(super) use waits::Times;

/// Reads before other tasks get their turn.
const READS_PER_TURN: usize = 16;

/// An exchange under way.
pub(super) struct Carry<'a> {
    core: &'a Core,
    client: &'a mut Connection,
    server: Server,
    exchange: &'a mut Exchange,
    asked: &'a Asked,
    upload: &'a mut Upload,
    download: Download,
    times: Times,
    /// Whether the connection to the server was used before.
    reused: bool,
    /// Says when the client's connection ends with the exchange under way.
    stopping: &'a Stopping,
    /// When something last went from or to the client, and the server.
    client_moved: Moment,
    server_moved: Moment,
    /// Whether either of them has taken any of what waited for it since that was counted last.
    taken: bool,
    /// Since when the body has to bring what it has to, and how much of it there was then.
    paced: (Moment, u64),
    /// When the client finished sending.
    half_closed: Option<Moment>,
    told: Told,
}

/// How the carrying ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client has its answer.
    Answered,
    /// A connection that was kept had ended already; nothing of an answer came, and the request may be sent again.
    Stale,
    /// A new connection has ended before anything of an answer came, and the request may be sent again.
    Unanswered,
    /// The server has said that it has not looked at the request: it may be sent again, whatever it is.
    NotTaken,
    /// The turn of the session has come, whose poll this is.
    Told,
    /// The client is owed this in place of an answer; whose fault it is.
    Refused(Refusal, Side),
    /// One of them is gone, in the middle of the answer or with nobody left to be told.
    Cut(Side),
}

/// What is known in the end.
pub(super) struct Outcome {
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) until_close: bool,
    pub(super) keep: bool,
    /// The server's connection, if it can be used again, and whether only for this client.
    pub(super) server: Option<(Transport, bool)>,
}

/// Whether an answer that is given now is the last on its connection, whatever its client wishes.
pub(super) fn is_last(core: &Core, stopping: &Stopping, exchange: &Exchange) -> bool {
    if exchange.is_last(core) {
        return true;
    }
    if !stopping.has_changed().unwrap_or(true) {
        return false;
    }
    // Which one is when the gateway leaves, the exchange says, until everybody has been told goodbye.
    if core.ending.is_leaving() { *core.ending.told().borrow() } else { *stopping.borrow() }
}

impl<'a> Carry<'a> {
    /// Over this connection to the server, which was used before or not.
    pub(super) fn new(
        core: &'a Core,
        client: &'a mut Connection,
        (server, reused): (Server, bool),
        (exchange, asked): (&'a mut Exchange, &'a Asked),
        upload: &'a mut Upload,
        times: Times,
        stopping: &'a Stopping,
    ) -> Self {
        let now = client.deadline.now();
        let download = Download::default();
        let (client_moved, server_moved, paced) = (now, now, (now, 0));
        Self {
            core,
            client,
            server,
            exchange,
            asked,
            upload,
            download,
            times,
            reused,
            stopping,
            client_moved,
            server_moved,
            taken: false,
            paced,
            half_closed: None,
            told: Told::default(),
        }
    }

    /// What has come of it.
    pub(super) fn outcome(self) -> Outcome {
        let Self { server, upload, download, .. } = self;
        let Download { status, bytes, until_close, keep, reusable, logged_in, .. } = download;
        let whole = reusable && upload.is_sent();
        let server = server.into_connection().filter(|_| whole).map(|server| (server, logged_in));
        Outcome { status, bytes, until_close, keep, server }
    }

    /// Carries on, as far as it goes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(end) = self.poll_end(cx) {
            return Poll::Ready(self.as_far_as_known(end));
        }
        if self.client_has_to_read() {
            self.server.take_ahead(cx);
        }
        let waiting = self.waiting();
        self.client.waiting.set(waiting);
        if std::mem::take(&mut self.taken) {
            self.client.waiting.taken();
        }
        self.client.waiting.poll_has_to_go(cx).map(|()| End::Cut(Side::NoRoom))
    }

    /// Bytes that wait until either side takes them.
    fn waiting(&self) -> usize {
        let Self { client, server, upload, download, .. } = self;
        let up = if upload.sent < upload.out.len() { upload.out.len() } else { 0 };
        let down = download.head.len() + download.out.len();
        let bulk = upload.bulk.waiting() + download.bulk.waiting();
        let trailers = upload.body.trailers_len() + download.body.as_ref().map_or(0, Passing::trailers_len);
        let behind = server.unsent() + server.unread();
        up + down + bulk + trailers + client.held.len() + client.transport.unsent() + behind
    }

    fn as_far_as_known(&self, end: End) -> End {
        match end {
            // The half of an interim answer can't be taken back.
            End::Refused(_, side) if self.download.sent > 0 => End::Cut(side),
            End::Told if self.download.sent > 0 => End::Cut(Side::Client),
            end => end,
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        buffer::lend(|buffer| {
            if let Poll::Ready(end) = self.poll_upload(buffer, cx) {
                return Poll::Ready(end);
            }
            if let Poll::Ready(end) = self.poll_download(buffer, cx) {
                return Poll::Ready(end);
            }
            if let Poll::Ready(end) = self.poll_client(buffer, cx) {
                return Poll::Ready(end);
            }
            self.poll_waits(cx)
        })
    }

    /// Whether the client can still be told something else than the server's answer.
    fn is_unanswered(&self) -> bool {
        self.download.body.is_none()
    }

    /// Whether something waits until the client takes it.
    fn client_has_to_read(&self) -> bool {
        let Self { client, download, .. } = self;
        !download.out.is_empty() || download.bulk.waiting() > 0 || client.transport.unsent() > 0
    }

    fn refuse(&self, refusal: Refusal, side: Side) -> End {
        if self.is_unanswered() { End::Refused(refusal, side) } else { End::Cut(side) }
    }

    /// Looks whether the client is still there, where nothing of its request is to be read.
    fn poll_client(&mut self, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<End> {
        if !self.upload.body.is_over() || self.half_closed.is_some() {
            let stopping = self.client.deadline.is_stopping();
            return if stopping { Poll::Ready(End::Cut(Side::Client)) } else { Poll::Pending };
        }
        match poll_ended(self.client, buffer, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) if self.client_has_to_read() => Poll::Ready(End::Cut(Side::of_client(&error))),
            // A session is better off without a poll of which nobody knows whether it is heard.
            Poll::Ready(Ok(())) if !self.exchange.is_poll() => {
                self.half_closed = Some(self.client.deadline.now());
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(End::Cut(Side::Client)),
        }
    }
}
