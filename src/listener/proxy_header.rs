//! The PROXY header in which a trusted proxy says whose connection it carries, read before anything else.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, warn};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::Settings;
use super::config::ProxyProtocol;
use super::prepare::Accepted;
use crate::transport::Socket;
use crate::wire::proxy_protocol::{Fault, Header, LONGEST, Subject, Tlvs, read};

/// A peer that has no business on the listener.
pub(super) struct Stranger;

/// Why there is no header.
enum Failure {
    /// What came is none.
    Fault(Fault),
    /// It did not come in time.
    Late,
    /// The peer left before it was whole.
    Gone,
}

/// When the log has told last of a connection that was closed for want of a header. That they all are is a mistake of
/// whoever set them up, and easily made.
#[derive(Default)]
pub(super) struct Complaints(Mutex<Option<Instant>>);

/// How often the log says so, while it goes on.
const TELL_AGAIN: Duration = Duration::from_secs(60);

impl Settings {
    /// Whether this peer begins with a header.
    pub(super) fn expects_header(&self, peer: IpAddr) -> Result<bool, Stranger> {
        match (self.config.proxy_protocol, self.shared.forwarding.trusts(peer)) {
            (ProxyProtocol::Off, _) | (ProxyProtocol::FromTrusted, false) => Ok(false),
            (ProxyProtocol::Required | ProxyProtocol::FromTrusted, true) => Ok(true),
            (ProxyProtocol::Required, false) => Err(Stranger),
        }
    }

    /// Counts and tells that a connection is closed for want of a header.
    pub(super) fn complain(&self, why: &str, peer: SocketAddr) {
        self.metrics.proxy_header(why);
        let what = format_args!("listener {}: no PROXY header of {peer}: {why}", self.name);
        let mut told = self.proxies.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who only looks whether the port is open gives no reason to worry.
        if why != Failure::Gone.as_str() && told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            *told = Some(Instant::now());
            warn!("{what}");
        } else {
            debug!("{what}");
        }
    }
}

impl Accepted {
    /// Reads the header and takes from it who the client is, who is counted only then. `None`: it is none, or there are
    /// too many of that client.
    pub(super) async fn read_header(&mut self) -> Option<()> {
        let limit = self.settings.shared.first_bytes;
        let reading = header(&mut self.socket);
        let header =
            if limit.is_zero() { reading.await } else { timeout(limit, reading).await.unwrap_or(Err(Failure::Late)) };
        let Header { subject, tlvs } = match header {
            Ok(header) => header,
            Err(failure) => {
                self.settings.complain(failure.as_str(), self.peer);
                return None;
            }
        };
        // The proxy's own connections, and those of which it knows nothing, count as what they are.
        if let Subject::Client { source, destination } = subject {
            (self.peer, self.local) = (source, destination);
        }
        self.settings.metrics.proxy_header(match subject {
            Subject::Client { .. } => "client",
            Subject::Unknown => "unknown",
            Subject::Proxy => "local",
        });
        self.told = (tlvs != Tlvs::default()).then(|| Box::new(tlvs));
        if let Err(full) = self.permit.count(self.peer.ip()) {
            self.settings.metrics.refused(full.as_str());
            self.settings.refuse(&self.socket);
            return None;
        }
        Some(())
    }
}

/// Reads the header and not a byte more, since what follows is not for this reader: whatever else has come stays in the
/// kernel.
async fn header(socket: &mut Socket) -> Result<Header, Failure> {
    let (mut bytes, mut taken) = (vec![0; LONGEST], 0);
    loop {
        let seen = match socket.peek(&mut bytes[taken..]).await {
            Ok(more @ 1..) => taken + more,
            Ok(0) | Err(_) => return Err(Failure::Gone),
        };
        let header = read(&bytes[..seen]).map_err(Failure::Fault)?;
        // What may become a header belongs to it: taken, it does not wake this task again.
        let belongs = header.as_ref().map_or(seen, |&(_, length)| length);
        socket.read_exact(&mut bytes[taken..belongs]).await.map_err(|_| Failure::Gone)?;
        taken = belongs;
        if let Some((header, _)) = header {
            return Ok(header);
        }
    }
}

impl Failure {
    /// One word for logs and metrics.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.as_str(),
            Self::Late => "late",
            Self::Gone => "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;
    use tokio::io::{AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;
    use crate::wire::proxy_protocol::Version;

    async fn tcp() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        theirs.set_nodelay(true).unwrap();
        (Socket::Tcp(listener.accept().await.unwrap().0), theirs)
    }

    fn unix() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Socket::Unix(ours), theirs)
    }

    /// Writes in two parts, the second once the first has been looked at.
    async fn read_in_parts((mut ours, mut theirs): (Socket, impl AsyncWrite + Unpin), bytes: &[u8], split: usize) {
        let header = {
            let mut reading = pin!(header(&mut ours));
            theirs.write_all(&bytes[..split]).await.unwrap();
            let first = poll!(reading.as_mut());
            theirs.write_all(&bytes[split..]).await.unwrap();
            match first {
                std::task::Poll::Ready(header) => header,
                std::task::Poll::Pending => reading.await,
            }
        };
        assert!(matches!(header.ok().unwrap().subject, Subject::Client { .. }));
        let mut rest = [0; 4];
        ours.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"next", "{split}");
    }

    #[tokio::test]
    async fn a_header_is_taken_to_its_last_byte_and_no_further_however_it_comes() {
        let address = |last| SocketAddr::from(([192, 0, 2, last], 443));
        let subject = Subject::Client { source: address(1), destination: address(2) };
        for version in [Version::V1, Version::V2] {
            let mut bytes = Header { subject, tlvs: Tlvs::default() }.write(version);
            bytes.extend_from_slice(b"next");
            for split in 0..=bytes.len() {
                read_in_parts(tcp().await, &bytes, split).await;
                read_in_parts(unix(), &bytes, split).await;
            }
        }
    }

    #[tokio::test]
    async fn waiting_for_the_rest_is_no_work() {
        let (mut ours, mut theirs) = unix();
        theirs.write_all(b"PROXY TCP4 ").await.unwrap();
        let mut reading = Box::pin(header(&mut ours));
        assert!(poll!(reading.as_mut()).is_pending());
        let mut unread = [0; 1];
        // What has been looked at is not there any more, so that it makes nobody look again.
        drop(reading);
        let Socket::Unix(stream) = &ours else { panic!("a Unix socket") };
        assert_eq!(stream.try_read(&mut unread).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
