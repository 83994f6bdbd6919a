//! What a tunnel needs of the stream at one of its ends: a socket, TLS over one, or a stream of HTTP/2.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::transport::{Socket, Transport};

/// One end of a tunnel.
///
/// A read of nothing is the peer's half-close, `poll_shutdown` passes one on, and after either the other direction goes
/// on. An error is a cut; of the kinds [`TimedOut`](std::io::ErrorKind::TimedOut) and
/// [`HostUnreachable`](std::io::ErrorKind::HostUnreachable) it says that the peer has given no sign of life.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// What is dropped from now on is cut, so that the peer does not take it for whole: a reset instead of an end.
    fn reset_on_close(&mut self);

    /// Bytes that were written and have not left yet.
    fn unsent(&self) -> usize;

    /// The socket, where the bytes of the tunnel go through it as they are. Between two of them bulk is spliced.
    fn plain_socket(&self) -> Option<&Socket>;
}

impl Stream for Transport {
    fn reset_on_close(&mut self) {
        self.socket().reset_on_close();
    }

    fn unsent(&self) -> usize {
        self.unsent()
    }

    fn plain_socket(&self) -> Option<&Socket> {
        self.plain_socket()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;
    use crate::transport::splice;
    use crate::tunnel::testing::{Memory, Running, over, read_all, sockets};
    use crate::tunnel::{End, Listening, Ping};
    use crate::wire::websocket::close_frame;

    #[tokio::test]
    async fn half_close_is_passed_between_a_socket_and_a_stream_that_is_none() {
        let ((mut client, ours_to_client), (mut server, ours_to_server, reset)) = (sockets(), Memory::pair());
        let Running { closed, .. } = over(ours_to_client, ours_to_server, Listening::default());
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut server).await, b"question");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, b"answer");
        let closed = closed.await.unwrap();
        assert_eq!((closed.end, closed.bytes_in, closed.bytes_out), (End::Client, 8, 6));
        assert!(!reset.load(Ordering::Relaxed), "a proper end is no reset");
    }

    #[tokio::test]
    async fn a_stream_that_is_no_socket_gets_its_goodbye_and_its_end() {
        let ((mut client, ours_to_client, _), (mut server, ours_to_server)) = (Memory::pair(), sockets());
        let listening = Listening { frames: true, goodbye: 1001, ..Listening::default() };
        let Running { closed, roster, .. } = over(ours_to_client, ours_to_server, listening);
        server.write_all(b"\x81\x02hi").await.unwrap();
        let mut message = [0; 4];
        client.read_exact(&mut message).await.unwrap();
        assert!(roster.tell_one());
        assert_eq!(read_all(&mut client).await, close_frame(1001));
        drop(client);
        let closed = closed.await.unwrap();
        assert_eq!((closed.end, closed.said, closed.seen_out.messages), (End::Drained, Some(1001), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_no_socket_is_asked_for_a_sign_of_life() {
        let ((mut client, ours_to_client, reset), (mut server, ours_to_server)) = (Memory::pair(), sockets());
        let ping = Ping { interval: Duration::from_secs(30), timeout: Duration::from_secs(20) };
        let listening = Listening { frames: true, ping: Some(ping), ..Listening::default() };
        let began = Instant::now();
        let Running { closed, .. } = over(ours_to_client, ours_to_server, listening);
        let (mut to_client, mut to_server) = ([0; 10], [0; 14]);
        client.read_exact(&mut to_client).await.unwrap();
        server.read_exact(&mut to_server).await.unwrap();
        assert_eq!((&to_client[..2], &to_server[..2]), (b"\x89\x08".as_slice(), b"\x89\x88".as_slice()));
        let pong = [b"\x8a\x88\0\0\0\0", &to_client[2..]].concat();
        client.write_all(&pong).await.unwrap();
        assert_eq!(closed.await.unwrap().end, End::ServerSilent, "the client has answered, the server has not");
        assert!(began.elapsed() >= Duration::from_secs(50), "{:?}", began.elapsed());
        assert!(reset.load(Ordering::Relaxed), "nor is the client's stream whole then");
    }

    #[tokio::test]
    async fn bulk_is_copied_where_an_end_is_no_socket() {
        let ((mut client, ours_to_client), (mut server, ours_to_server, _)) = (sockets(), Memory::pair());
        let Running { closed, .. } = over(ours_to_client, ours_to_server, Listening::default());
        let sent: Vec<u8> = (0..8_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            server.write_all(&copy).await.unwrap();
            server.shutdown().await.unwrap();
            server
        });
        assert!(read_all(&mut client).await == sent);
        drop(client);
        drop(writing.await.unwrap());
        assert_eq!(closed.await.unwrap().bytes_out, 8_000_000);
        assert_eq!(splice::kept(), 0, "no pipe was borrowed");
    }

    #[tokio::test]
    async fn a_socket_that_breaks_resets_the_stream_at_the_other_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, server) = tokio::join!(listener.accept(), connect);
        let ours_to_server = Transport::Plain(Socket::Tcp(accepted.unwrap().0));
        let (mut client, ours_to_client, reset) = Memory::pair();
        let Running { closed, .. } = over(ours_to_client, ours_to_server, Listening::default());
        let server = server.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
        assert_eq!(closed.await.unwrap().end, End::ServerLost);
        assert!(reset.load(Ordering::Relaxed));
        assert!(read_all(&mut client).await.is_empty());
    }
}
