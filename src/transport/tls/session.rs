//! Both sides of rustls' unbuffered connections behind one interface: bytes in, plain text and bytes out.
//!
//! What rustls keeps between calls is the connection's state alone. Whoever calls owns the bytes and has to show them
//! again, unchanged and from the same beginning, until rustls says how many of them it is done with.

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic};

/// One side of a TLS connection.
pub trait Session: Send + Unpin {
    /// What rustls knows of this side only.
    type Data;

    /// See [`rustls::unbuffered::UnbufferedConnectionCommon`].
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What both sides have: versions, cipher suites, protocols.
    fn common(&self) -> &CommonState;
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// What came of driving a session as far as its bytes go.
pub(super) struct Driven<R> {
    /// How many of the bytes it is done with; the others have to be shown again.
    pub(super) consumed: usize,
    /// Whether the peer has said that it sends no more.
    pub(super) peer_closed: bool,
    /// What was done with the right to write; `None` while the handshake goes on, and at the end of both directions.
    pub(super) result: Result<Option<R>, rustls::Error>,
}

/// Lets a session work through `incoming`: plain text goes to `plain`, handshake messages and alerts behind `outgoing`,
/// and at the end of it all `write` may send.
pub(super) fn drive<S: Session, R>(
    session: &mut S,
    incoming: &mut [u8],
    outgoing: &mut Vec<u8>,
    mut plain: impl FnMut(&[u8]),
    write: impl FnOnce(&mut WriteTraffic<'_, S::Data>) -> R,
) -> Driven<R> {
    let mut consumed = 0;
    let mut peer_closed = false;
    let result = loop {
        let UnbufferedStatus { discard, state } = session.process(&mut incoming[consumed..]);
        consumed += discard;
        match state {
            Ok(ConnectionState::ReadTraffic(mut records)) => {
                while let Some(Ok(record)) = records.next_record() {
                    plain(record.payload);
                    consumed += record.discard;
                }
            }
            Ok(ConnectionState::EncodeTlsData(message)) => encode(message, outgoing),
            // What was encoded stands in `outgoing`, which nothing overtakes.
            Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
            Ok(ConnectionState::PeerClosed) => peer_closed = true,
            Ok(ConnectionState::WriteTraffic(mut traffic)) => break Ok(Some(write(&mut traffic))),
            // The handshake waits, or all is said; early data is never offered.
            Ok(_) => break Ok(None),
            Err(error) => break Err(error),
        }
    };
    if result.is_err() {
        // The alert that tells the peer why; no byte of the peer's is looked at again.
        while session.common().wants_write() {
            let Ok(ConnectionState::EncodeTlsData(message)) = session.process(&mut []).state else { break };
            encode(message, outgoing);
        }
    }
    Driven { consumed, peer_closed, result }
}

fn encode<D>(mut message: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) {
    // Without room it says how much it takes.
    if let Err(EncodeError::InsufficientSize(needed)) = message.encode(&mut []) {
        let at = outgoing.len();
        outgoing.resize(at + needed.required_size, 0);
        let _ = message.encode(&mut outgoing[at..]);
    }
}
