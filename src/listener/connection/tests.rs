use Duration;

use tokio::net::UnixStream;

use super::*;
use crate::deadline::Deadlines;
use crate::listener::limits::ConnectionLimits;
use crate::transport::Socket;

const FOREVER: Duration = Duration::ZERO;

fn pair() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let clock = Deadlines::new();
    tokio::spawn(Arc::clone(&clock).run());
    let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
    let info = Info {
        listener: "test".into(),
        peer: unknown,
        local: unknown,
        tls: None,
        accepted: Instant::now(),
        pending: Pending::default(),
    };
    let open = prometheus::IntGauge::new("open", "for the test").unwrap();
    let parts = Parts {
        transport: Transport::Plain(Socket::Unix(ours)),
        held: BytesMut::new(),
        info: Arc::new(info),
        deadline: clock.register(),
        permit: ConnectionLimits::new(0, 0).admit(unknown.ip(), &open, 0).unwrap(),
    };
    (Connection::new(parts, Protocol::Http1, None), theirs)
}

async fn head(connection: &mut Connection) -> Result<String, NoHead> {
    let head = connection.read_head(Some(FOREVER), FOREVER, 64).await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[tokio::test]
async fn heads_are_cut_out_however_they_arrive() {
    let (mut connection, mut client) = pair();
    let sent = b"\r\n\r\nGET / HTTP/1.1\r\na: b\r\n\r\nGET /2 HTTP/1.1\n\nrest";
    let writing = tokio::spawn(async move {
        for byte in sent {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        client
    });
    assert_eq!(head(&mut connection).await.unwrap(), "GET / HTTP/1.1\r\na: b\r\n\r\n");
    assert_eq!(head(&mut connection).await.unwrap(), "GET /2 HTTP/1.1\n\n");
    drop(writing.await.unwrap());
    assert_eq!(head(&mut connection).await, Err(NoHead::Gone));
    assert_eq!(&connection.held[..], b"rest");
}

#[tokio::test]
async fn a_head_is_bounded_in_size_whether_it_ends_or_not() {
    let (mut connection, mut client) = pair();
    client.write_all(&[b'x'; 65]).await.unwrap();
    assert_eq!(head(&mut connection).await, Err(NoHead::TooLarge));
    let (mut connection, mut client) = pair();
    client.write_all(&[[b'x'; 62].as_slice(), b"\r\n\r\n"].concat()).await.unwrap();
    assert_eq!(head(&mut connection).await, Err(NoHead::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_and_a_slow_one_are_told_apart() {
    let second = Duration::from_secs(1);
    let (mut connection, mut client) = pair();
    assert_eq!(connection.read_head(Some(second), second, 64).await, Err(NoHead::Idle));
    client.write_all(b"GET").await.unwrap();
    assert_eq!(connection.read_head(Some(second), second, 64).await, Err(NoHead::Late));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_first_head_is_not_put_off_by_its_beginning() {
    let second = Duration::from_secs(1);
    let (mut connection, mut client) = pair();
    connection.deadline.set(2 * second);
    let writing = tokio::spawn(async move {
        tokio::time::sleep(second).await;
        client.write_all(b"GET").await.unwrap();
        client
    });
    let started = tokio::time::Instant::now();
    assert_eq!(connection.read_head(None, 2 * second, 64).await, Err(NoHead::Late));
    assert!((2 * second..3 * second).contains(&started.elapsed()), "{:?}", started.elapsed());
    drop(writing.await.unwrap());
}

async fn read_body(body: Body, sent: &[u8], room: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut connection, mut client) = pair();
    client.write_all(sent).await.unwrap();
    drop(client);
    connection.expect(body);
    let mut got = Vec::new();
    let mut buffer = vec![0; room];
    loop {
        let read = connection.read(&mut buffer).await.unwrap();
        if read == 0 {
            return (got, connection.held.to_vec());
        }
        got.extend_from_slice(&buffer[..read]);
    }
}

#[tokio::test]
async fn an_engine_gets_its_body_and_not_a_byte_more() {
    let chunked = b"5\r\nhello\r\n0\r\n\r\n";
    for room in [1, 3, 7, 100] {
        assert_eq!(read_body(Body::Length(5), b"helloGET /", room).await, (b"hello".into(), b"GET /".into()));
        let (got, held) = read_body(Body::Chunked, &[chunked.as_slice(), b"GET /"].concat(), room).await;
        assert_eq!((got.as_slice(), held.as_slice()), (chunked.as_slice(), b"GET /".as_slice()));
        assert_eq!(read_body(Body::None, b"GET /", room).await, (vec![], b"GET /".into()));
    }
}

#[tokio::test]
async fn the_head_of_an_answer_goes_out_with_its_body_or_when_the_engine_waits() {
    let (mut connection, client) = pair();
    let arrived = async || {
        client.readable().await.unwrap();
        let mut bytes = [0; 64];
        client.try_read(&mut bytes).map(|count| String::from_utf8_lossy(&bytes[..count]).into_owned()).unwrap()
    };
    let mut buffer = [0; 8];
    for (push, expected) in [("body", "head body"), ("flush", "head"), ("wait", "head"), ("finish", "head")] {
        connection.expect(Body::None);
        connection.write_all(b"head").await.unwrap();
        assert!(matches!(connection.writing, Writing::Waiting(_)), "{push}");
        match push {
            "body" => connection.write_all(b" body").await.unwrap(),
            "flush" => connection.flush().await.unwrap(),
            "wait" => assert!(futures::poll!(std::pin::pin!(connection.read(&mut buffer))).is_pending()),
            _ => Shutdown::shutdown(&mut connection).await,
        }
        assert_eq!(arrived().await, expected, "{push}");
    }
}

#[tokio::test]
async fn a_head_and_its_body_reach_a_slow_reader_whole() {
    let (mut connection, mut client) = pair();
    connection.expect(Body::None);
    let (head, body) = ([b'h'; 4000], vec![b'b'; 2_000_000]);
    let sending = async {
        connection.write_all(&head).await.unwrap();
        connection.write_all(&body).await.unwrap();
        connection.flush().await.unwrap();
    };
    let mut got = vec![0; head.len() + body.len()];
    tokio::join!(sending, async { client.read_exact(&mut got).await.unwrap() });
    assert!(got[..head.len()] == head && got[head.len()..] == body);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_while_nothing_may_be_read() {
    let (mut connection, mut client) = pair();
    connection.expect(Body::None);
    client.write_all(b"early").await.unwrap();
    let mut probe = [0];
    let pending = futures::poll!(std::pin::pin!(connection.read(&mut probe)));
    assert!(pending.is_pending());
    drop(client);
    assert_eq!(connection.read(&mut probe).await.unwrap(), 0);
    assert_eq!(&connection.held[..], b"early");
}
