//! One request on a connection of its own, as a client without a memory would make it: whoever balances may send each elsewhere.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Target;

/// Bytes of an answer that are read.
const MOST: usize = 1024 * 1024;
/// For the connection, and for the first byte of an answer that is not held on purpose.
pub(super) const USUAL: Duration = Duration::from_secs(10);

/// A connection, in plain or by TLS.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Stream {
    /// How long a read may take from now on.
    pub(super) fn wait(&self, time: Duration) {
        let socket = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        };
        // Zero would be for ever.
        let _ = socket.set_read_timeout(Some(time.max(Duration::from_millis(1))));
    }

    /// What TLS agreed on; `None` in plain.
    pub(super) fn tls(&self) -> Option<&ClientConnection> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(&stream.conn),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is no connection.
    Connect(String),
    /// TLS was refused, by either side.
    Tls(String),
    /// It ended, or nothing came in time, after so long.
    Lost(String, Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(what) | Self::Tls(what) => f.write_str(what),
            Self::Lost(what, after) => write!(f, "{what}, after {:.1} s", after.as_secs_f64()),
        }
    }
}

/// An answer, and the connection behind it.
pub(super) struct Answer {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// What has come behind the head of a 101.
    pub(super) rest: Vec<u8>,
    pub(super) stream: Stream,
    /// From the request to the head.
    pub(super) after: Duration,
}

impl Answer {
    /// The first field of a name.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// What cookies it sets, as a request brings them back.
    pub(super) fn cookies(&self) -> Vec<String> {
        let set = self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        set.filter_map(|(_, value)| value.split(';').next()).map(|pair| pair.trim().to_owned()).collect()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The beginning of the body, in one line.
    pub(super) fn words(&self) -> String {
        let text: Vec<String> = self.text().split_whitespace().map(str::to_owned).collect();
        text.join(" ").chars().take(80).collect()
    }
}

impl Target {
    /// Opens a connection; `alpn` is what is offered.
    pub(super) fn open(&self, alpn: &[&[u8]]) -> Result<Stream, Fault> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        let addresses = addresses.map_err(|error| Fault::Connect(format!("{}: {error}", self.host)))?;
        let mut last = Fault::Connect(format!("{} has no address", self.host));
        let mut opened = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, USUAL) {
                Ok(stream) => {
                    opened = Some(stream);
                    break;
                }
                Err(error) => last = Fault::Connect(format!("{address}: {error}")),
            }
        }
        let Some(stream) = opened else { return Err(last) };
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(USUAL));
        let _ = stream.set_read_timeout(Some(USUAL));
        if !self.tls {
            return Ok(Stream::Plain(stream));
        }
        let fault = |what: String| Fault::Tls(what);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| fault(error.to_string()))?;
        let mut config = config.with_root_certificates(self.roots()?).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(self.host.clone()).map_err(|error| fault(error.to_string()))?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| fault(error.to_string()))?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| fault(error.to_string()))?;
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn roots(&self) -> Result<RootCertStore, Fault> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.ca {
            let fault = |error: rustls::pki_types::pem::Error| Fault::Tls(format!("{}: {error}", file.display()));
            for certificate in CertificateDer::pem_file_iter(file).map_err(fault)? {
                let _ = roots.add(certificate.map_err(fault)?);
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Ok(roots)
    }

    /// Asks once, on a connection of its own; `early` goes out with the head, in one piece.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        early: &[u8],
        patience: Duration,
    ) -> Result<Answer, Fault> {
        let mut stream = self.open(&[b"http/1.1"])?;
        let default = if self.tls { 443 } else { 80 };
        let host = if self.port == default { self.host.clone() } else { format!("{}:{}", self.host, self.port) };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sockgate-doctor\r\n");
        let upgrades = fields.iter().any(|(name, _)| *name == "Upgrade");
        if !upgrades {
            request.push_str("Connection: close\r\n");
        }
        for (name, value) in
            self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(fields.iter().copied())
        {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", early.len()));
        }
        request.push_str("\r\n");
        let began = Instant::now();
        let lost = |what: String| Fault::Lost(what, began.elapsed());
        let bytes = [request.as_bytes(), early].concat();
        stream.write_all(&bytes).and_then(|()| stream.flush()).map_err(|error| lost(error.to_string()))?;
        let (mut have, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        let (mut head, mut after) = (None, Duration::ZERO);
        loop {
            if head.is_none() {
                head = read_head(&have).map_err(&lost)?;
                after = began.elapsed();
            }
            if let Some((status, fields, length)) = &head {
                let behind = &have[*length..];
                let done = *status == 101
                    || body(fields, behind).is_some()
                    || matches!(status, 204 | 304)
                    || have.len() > MOST;
                if done {
                    let body = if *status == 101 { Vec::new() } else { body(fields, behind).unwrap_or_default() };
                    let rest = behind.to_vec();
                    return Ok(Answer { status: *status, fields: fields.clone(), body, rest, stream, after });
                }
            }
            stream.wait(patience.saturating_sub(began.elapsed()));
            match stream.read(&mut buffer) {
                Ok(0) => match head {
                    // Its end is the end of the connection.
                    Some((status, fields, length))
                        if !fields.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding") =>
                    {
                        let body = have[length..].to_vec();
                        return Ok(Answer { status, fields, body, rest: Vec::new(), stream, after });
                    }
                    _ => return Err(lost("the connection was closed without an answer".to_owned())),
                },
                Ok(read) => have.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(lost("nothing came".to_owned()));
                }
                Err(error) => return Err(lost(error.to_string())),
            }
        }
    }
}

type Head = (u16, Vec<(String, String)>, usize);

/// The head of the answer that is meant, if it has come.
fn read_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut from = 0;
    loop {
        let mut room = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut room);
        let parsed = response.parse(&bytes[from..]).map_err(|error| format!("the answer is no HTTP: {error}"))?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        from += length;
        let status = response.code.unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let field = |field: &httparse::Header<'_>| {
            (field.name.to_ascii_lowercase(), String::from_utf8_lossy(field.value).into_owned())
        };
        return Ok(Some((status, response.headers.iter().map(field).collect(), from)));
    }
}

/// The body, if it has come whole and says how long it is.
fn body(fields: &[(String, String)], bytes: &[u8]) -> Option<Vec<u8>> {
    let value = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if let Some(length) = value("content-length") {
        let length: usize = length.trim().parse().ok()?;
        return bytes.get(..length).map(<[u8]>::to_vec);
    }
    value("transfer-encoding").filter(|coding| coding.contains("chunked"))?;
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes.get(at..)?.windows(2).position(|end| end == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size + 2;
    }
}
