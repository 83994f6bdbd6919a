//! What the suite says in flags.

use std::path::PathBuf;

/// TLS 1.2 and 1.3 as they stand on the wire.
pub(crate) const VERSIONS: [u16; 2] = [0x0303, 0x0304];

/// The flags of one connection.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) port: u16,
    pub(crate) ipv6: bool,
    pub(crate) shim_id: u64,
    pub(crate) server: bool,
    /// Connections after the first.
    pub(crate) resumptions: usize,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) ocsp: Vec<u8>,
    pub(crate) host_name: Option<String>,
    pub(crate) expect_server_name: Option<String>,
    /// The versions that may be agreed on.
    pub(crate) versions: Vec<u16>,
    pub(crate) expect_version: Option<u16>,
    /// Protocols, the best first.
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) expect_alpn: Option<String>,
    pub(crate) curves: Vec<u16>,
    pub(crate) expect_curve: Option<u16>,
    pub(crate) expect_cipher: Option<u16>,
    pub(crate) expect_retry: Option<bool>,
    pub(crate) expect_no_peer_certificate: bool,
    /// A certificate is asked for.
    pub(crate) verify_peer: bool,
    /// None is no answer.
    pub(crate) require_certificate: bool,
    /// Every certificate is found bad.
    pub(crate) verify_fails: bool,
    pub(crate) tickets: bool,
    pub(crate) initial_writes: usize,
    pub(crate) initial_write: String,
    pub(crate) read_size: usize,
    pub(crate) shuts_down: bool,
    pub(crate) check_close_notify: bool,
    pub(crate) record_sizes: bool,
}

impl Options {
    /// Reads the flags that hold for a connection, the first being 0.
    ///
    /// # Errors
    /// The flag that asks for what is not there.
    pub(crate) fn read(arguments: &[String], connection: usize) -> Result<Self, String> {
        let mut options = Self {
            port: 0,
            ipv6: false,
            shim_id: 0,
            server: false,
            resumptions: 0,
            certificate: None,
            key: None,
            ocsp: Vec::new(),
            host_name: None,
            expect_server_name: None,
            versions: VERSIONS.to_vec(),
            expect_version: None,
            alpn: Vec::new(),
            expect_alpn: None,
            curves: Vec::new(),
            expect_curve: None,
            expect_cipher: None,
            expect_retry: None,
            expect_no_peer_certificate: false,
            verify_peer: false,
            require_certificate: false,
            verify_fails: false,
            tickets: true,
            initial_writes: 0,
            initial_write: "hello".to_owned(),
            read_size: 512,
            shuts_down: false,
            check_close_notify: false,
            record_sizes: false,
        };
        let mut repeat = 1;
        let mut writes_first = false;
        let (mut lowest, mut highest) = (0, u16::MAX);
        let mut off = Vec::new();
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let (name, holds) = match (flag.strip_prefix("-on-initial"), flag.strip_prefix("-on-resume")) {
                (Some(name), _) => (name, connection == 0),
                (_, Some(name)) => (name, connection > 0),
                _ => (flag.as_str(), true),
            };
            let takes_value = VALUED.contains(&name);
            if !takes_value && !KNOWN.contains(&name) {
                return Err(flag.clone());
            }
            let value = if takes_value { rest.next().ok_or("a flag without a value")?.as_str() } else { "" };
            if !holds {
                continue;
            }
            let number = || value.parse::<u64>().map_err(|_| format!("{flag} {value}"));
            let short = || value.parse::<u16>().map_err(|_| format!("{flag} {value}"));
            match name {
                "-port" => options.port = short()?,
                "-ipv6" => options.ipv6 = true,
                "-shim-id" => options.shim_id = number()?,
                "-server" => options.server = true,
                "-resume-count" => options.resumptions = number()? as usize,
                "-cert-file" => options.certificate = Some(value.into()),
                "-key-file" => options.key = Some(value.into()),
                "-ocsp-response" => options.ocsp = decode(value)?,
                "-host-name" => options.host_name = Some(value.to_owned()),
                "-expect-server-name" => options.expect_server_name = Some(value.to_owned()),
                "-min-version" => lowest = short()?,
                "-max-version" => highest = short()?,
                "-no-tls13" => off.push(0x0304),
                "-no-tls12" => off.push(0x0303),
                "-expect-version" => options.expect_version = Some(short()?),
                "-select-alpn" => options.alpn = vec![value.as_bytes().to_vec()],
                "-advertise-alpn" => options.alpn = list(value)?,
                "-expect-alpn" => options.expect_alpn = Some(value.to_owned()),
                "-curves" => options.curves.push(short()?),
                "-expect-curve-id" => options.expect_curve = Some(short()?),
                "-expect-cipher-aes" | "-expect-cipher" => options.expect_cipher = Some(short()?),
                "-expect-hrr" => options.expect_retry = Some(true),
                "-expect-no-hrr" => options.expect_retry = Some(false),
                "-expect-no-peer-cert" => options.expect_no_peer_certificate = true,
                "-verify-peer" => options.verify_peer = true,
                "-require-any-client-certificate" => {
                    (options.verify_peer, options.require_certificate) = (true, true);
                }
                "-verify-fail" => options.verify_fails = true,
                "-no-ticket" => options.tickets = false,
                "-shim-writes-first" => writes_first = true,
                "-shim-initial-write" => options.initial_write = value.to_owned(),
                "-repeat-shim-initial-write" => repeat = number()? as usize,
                "-read-size" => options.read_size = number()? as usize,
                "-shim-shuts-down" => options.shuts_down = true,
                "-check-close-notify" => options.check_close_notify = true,
                "-write-different-record-sizes" => options.record_sizes = true,
                _ => {}
            }
        }
        options.initial_writes = if writes_first { repeat } else { 0 };
        options.versions.retain(|version| (lowest..=highest).contains(version) && !off.contains(version));
        if options.versions.is_empty() {
            return Err("versions before TLS 1.2 alone".to_owned());
        }
        Ok(options)
    }

    /// Whether the same can be agreed on, whatever is expected of it.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        let shown = |all: &Self| (all.certificate.clone(), all.key.clone(), all.ocsp.clone());
        let spoken = |all: &Self| (all.versions.clone(), all.alpn.clone(), all.curves.clone(), all.host_name.clone());
        let asked = |all: &Self| (all.verify_peer, all.require_certificate, all.tickets);
        shown(self) == shown(other) && spoken(self) == spoken(other) && asked(self) == asked(other)
    }
}

/// Flags that a value follows.
const VALUED: &[&str] = &[
    "-port",
    "-shim-id",
    "-resume-count",
    "-cert-file",
    "-key-file",
    "-trust-cert",
    "-ocsp-response",
    "-host-name",
    "-expect-server-name",
    "-min-version",
    "-max-version",
    "-expect-version",
    "-select-alpn",
    "-advertise-alpn",
    "-expect-alpn",
    // The peer sees the same list that it has sent.
    "-expect-advertised-alpn",
    "-curves",
    "-expect-curve-id",
    "-expect-cipher",
    "-expect-cipher-aes",
    // Another cipher where there is no hardware for AES; there is.
    "-expect-cipher-no-aes",
    "-shim-initial-write",
    "-repeat-shim-initial-write",
    "-read-size",
];

/// Flags without one. Those that stand in no `match` ask for what our stream does anyway, or for what the suite's own side
/// of the connection sees as well.
const KNOWN: &[&str] = &[
    "-ipv6",
    "-server",
    "-no-tls13",
    "-no-tls12",
    "-no-tls11",
    "-no-tls1",
    "-expect-hrr",
    "-expect-no-hrr",
    "-expect-no-peer-cert",
    "-verify-peer",
    "-require-any-client-certificate",
    "-verify-fail",
    "-no-ticket",
    "-shim-writes-first",
    "-shim-shuts-down",
    "-check-close-notify",
    "-write-different-record-sizes",
    // Our stream never blocks, and takes and gives as much as the socket does.
    "-async",
    "-partial-write",
    "-implicit-handshake",
    "-no-op-extra-handshake",
    "-expect-session-miss",
    "-expect-session-id",
    "-expect-no-session-id",
    "-expect-ticket-renewal",
    "-expect-extended-master-secret",
    "-expect-secure-renegotiation",
    "-expect-no-session",
    "-expect-verify-result",
    "-use-custom-verify-callback",
    "-expect-no-offer-early-data",
    "-renegotiate-never",
    "-server-preference",
    "-enable-ocsp-stapling",
    "-decline-alpn",
    "-allow-unknown-alpn-protos",
];

/// A list of protocols, each behind its length.
fn list(value: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut rest = value.as_bytes();
    let mut all = Vec::new();
    while let Some((&length, behind)) = rest.split_first() {
        let (one, others) = behind.split_at_checked(length.into()).ok_or("a list that is cut")?;
        all.push(one.to_vec());
        rest = others;
    }
    Ok(all)
}

fn decode(value: &str) -> Result<Vec<u8>, String> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(value).map_err(|_| "a value that is no base64".to_owned())
}
