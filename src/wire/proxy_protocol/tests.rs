use proptest::prelude::*;

use super::*;

fn client(source: &str, destination: &str) -> Subject {
    Subject::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn whole(bytes: &[u8]) -> Header {
    let (header, length) = read(bytes).unwrap().unwrap();
    assert_eq!(length, bytes.len());
    header
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 with this block behind its first 14 bytes.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// The same for TCP over IPv4, with these typed values.
fn with_values(values: &[(u8, &[u8])]) -> Vec<u8> {
    v2(0x21, 0x11, &[b"\xcb\0\x71\x09\xc0\0\x02\x01\xc8\x22\x01\xbb".as_slice(), &tlvs(values)].concat())
}

fn tlvs(values: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in values {
        bytes.push(*kind);
        bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

/// The examples and the longest lines of the specification, section 2.1.
#[test]
fn lines_tell_the_client_and_what_it_reached() {
    let four = client("255.255.255.255:65535", "255.255.255.255:65535");
    assert_eq!(whole(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n").subject, four);
    let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let six = format!("PROXY TCP6 {all} {all} 65535 65535\r\n");
    assert_eq!(whole(six.as_bytes()).subject, client(&format!("[{all}]:65535"), &format!("[{all}]:65535")));
    assert_eq!(whole(b"PROXY TCP6 ::1 ::ffff:192.0.2.1 0 1\r\n").subject, client("[::1]:0", "[::ffff:192.0.2.1]:1"));
    let unknown = format!("PROXY UNKNOWN {all} {all} 65535 65535\r\n");
    assert_eq!(unknown.len(), 107);
    for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN \x01?\r\n", &unknown] {
        assert_eq!(whole(line.as_bytes()).subject, Subject::Unknown, "{line:?}");
    }
}

#[test]
fn lines_that_can_be_read_in_two_ways_are_refused() {
    for line in [
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY TCP\r\n",
        "PROXY TCP4\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY UNKNOWN\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 ::1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 [::1] [::2] 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r 2\r\n",
    ] {
        let verdict = read(line.as_bytes());
        // A prefix goes on otherwise before the line ends.
        let expected = if line.starts_with("PROXY\r") { Fault::Missing } else { Fault::Malformed };
        assert_eq!(verdict, Err(expected), "{line:?}");
    }
}

#[test]
fn a_line_ends_within_107_bytes() {
    let line = |length: usize| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(length - 2, b'x');
        [&line[..], b"\r\n"].concat()
    };
    assert_eq!(whole(&line(107)).subject, Subject::Unknown);
    assert_eq!(read(&line(108)[..106]), Ok(None));
    assert_eq!(read(&line(108)[..107]), Err(Fault::TooLong));
    assert_eq!(read(&line(108)), Err(Fault::TooLong));
}

#[test]
fn what_begins_with_something_else_is_told_at_its_first_byte() {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n", b"PUT", b"PROXYX", b"\0"]
    {
        assert_eq!(read(bytes), Err(Fault::Missing));
    }
    assert_eq!(read(b"\r\n\r\n\0\r\nQUIX"), Err(Fault::Missing));
    assert_eq!(read(b"\r\n\r\nGET"), Err(Fault::Missing));
}

/// Byte by byte, as the specification has it in section 2.2.
#[test]
fn binary_headers_tell_the_client_and_what_it_reached() {
    let header = whole(&with_values(&[]));
    assert_eq!(header.subject, client("203.0.113.9:51234", "192.0.2.1:443"));
    let block = [&[0x20, 0x01, 0x0d, 0xb8], &[0; 11][..], &[9], &[0; 15], &[1], &[0xc8, 0x22, 0x01, 0xbb]].concat();
    assert_eq!(whole(&v2(0x21, 0x21, &block)).subject, client("[2001:db8::9]:51234", "[::1]:443"));
}

#[test]
fn a_proxy_that_speaks_for_itself_tells_of_nobody() {
    // Of LOCAL all is ignored, the family and a block that is none included.
    for (family, block) in
        [(0, &b""[..]), (0x11, b"\xcb\0\x71\x09\xc0\0\x02\x01\xc8\x22\x01\xbb"), (0xff, b"\x05\0\xffx")]
    {
        assert_eq!(whole(&v2(0x20, family, block)), Header::default());
    }
}

#[test]
fn what_is_no_tcp_over_the_internet_has_no_address() {
    let id = tlvs(&[(5, b"id")]);
    for (family, addresses) in [(0x00, 0), (0x01, 0), (0x10, 12), (0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)] {
        let header = whole(&v2(0x21, family, &[&vec![7; addresses], &id[..]].concat()));
        assert_eq!(header.subject, Subject::Unknown, "{family:x}");
        assert_eq!(header.tlvs.unique_id.as_deref(), Some(&b"id"[..]), "{family:x}");
    }
}

#[test]
fn versions_commands_families_and_lengths_that_nobody_sends_are_refused() {
    let addresses = [0; 12];
    for command in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
        assert_eq!(read(&v2(command, 0x11, &addresses)), Err(Fault::Malformed), "{command:x}");
    }
    for family in [0x03, 0x13, 0x1f, 0x2f, 0x33, 0x41, 0xf1] {
        assert_eq!(read(&v2(0x21, family, &[0; 216])), Err(Fault::Malformed), "{family:x}");
    }
    for (family, needed) in [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216), (0x32, 216)] {
        assert_eq!(read(&v2(0x21, family, &vec![0; needed - 1])), Err(Fault::Malformed), "{family:x}");
        assert!(read(&v2(0x21, family, &vec![0; needed])).is_ok_and(|header| header.is_some()), "{family:x}");
    }
}

#[test]
fn a_header_has_its_bound_and_says_so_before_it_has_come() {
    let padding = |length: usize| with_values(&[(4, &vec![0; length - 16 - 12 - 3])]);
    assert_eq!(whole(&padding(LONGEST)).subject, client("203.0.113.9:51234", "192.0.2.1:443"));
    assert_eq!(read(&padding(LONGEST + 1)[..15]), Ok(None));
    assert_eq!(read(&padding(LONGEST + 1)[..16]), Err(Fault::TooLong));
    assert_eq!(read(&v2(0x20, 0, &[0; 65535])[..16]), Err(Fault::TooLong));
}

#[test]
fn typed_values_are_kept_where_there_is_use_for_them() {
    let ssl = [&[0x01, 0, 0, 0, 0][..], &tlvs(&[(0x21, b"TLSv1.3"), (0x22, b"cn"), (0x23, b"AES")])].concat();
    let values: [(u8, &[u8]); 7] = [
        (1, b"h2"),
        (2, b"app.example.com"),
        (4, b"\0\0"),
        (5, b"\x00\xff"),
        (0x20, &ssl),
        (0x30, b"ns"),
        (0xea, b"x"),
    ];
    let header = whole(&with_values(&values));
    let expected = Tlvs {
        alpn: Some((*b"h2").into()),
        authority: Some("app.example.com".into()),
        unique_id: Some([0, 0xff].into()),
        tls: Some("TLSv1.3".into()),
        certificate: None,
    };
    assert_eq!(header.tlvs, expected);
    let over_tls = |value: &[u8]| whole(&with_values(&[(0x20, value)])).tlvs.tls;
    assert_eq!(over_tls(&[0x07, 0, 0, 0, 1]).as_deref(), Some(""), "of no version");
    assert_eq!(over_tls(&[0, 0, 0, 0, 0]), None, "what HAProxy says of a client without TLS");
    let certificate = |client: u8, verify: u8| {
        let value = [&[client, 0, 0, 0, verify][..], &tlvs(&[(0x22, b"Ann Example")])].concat();
        whole(&with_values(&[(0x20, &value)])).tlvs.certificate
    };
    for shown in [0x03, 0x05, 0x07] {
        assert_eq!(certificate(shown, 0).as_deref(), Some("Ann Example"));
        assert_eq!(certificate(shown, 1), None, "one that does not hold");
    }
    assert_eq!((certificate(0x01, 0), certificate(0x06, 0)), (None, None), "none was shown, or not over TLS");
}

#[test]
fn typed_values_that_are_cut_doubled_or_out_of_bounds_are_refused() {
    let refused = |values: &[(u8, &[u8])]| assert_eq!(read(&with_values(values)), Err(Fault::Malformed), "{values:x?}");
    for kind in [1, 2, 5] {
        refused(&[(kind, b"")]);
        refused(&[(kind, b"a"), (kind, b"a")]);
        refused(&[(kind, &[b'a'; 256])]);
    }
    refused(&[(5, &[b'a'; 129])]);
    for name in [&b"a b"[..], b"a\0", b"a\r\nb", b"\x7f", b"\xff"] {
        refused(&[(2, name)]);
    }
    refused(&[(0x20, b"\x01\0\0\0")]);
    refused(&[(0x20, b"\x01\0\0\0\0\x21\0\x01")]);
    refused(&[(0x20, b"\x01\0\0\0\0\x21\0\x01a\x21\0\x01a")]);
    refused(&[(0x20, b"\x01\0\0\0\0"), (0x20, b"\x01\0\0\0\0")]);
    refused(&[(3, b"\0\0\0")]);
    for cut in [&b"\x05"[..], b"\x05\0", b"\x05\0\x02a", b"\xea\xff\xff"] {
        let bytes = v2(0x21, 0x11, &[&[0; 12], cut].concat());
        assert_eq!(read(&bytes), Err(Fault::Malformed), "{cut:x?}");
    }
}

#[test]
fn a_checksum_is_checked_wherever_it_stands() {
    let mut right = Header { subject: client("203.0.113.9:51234", "192.0.2.1:443"), ..Header::default() };
    right.tlvs.unique_id = Some((*b"id").into());
    let written = right.write(Version::V2);
    assert_eq!(whole(&written), right);
    for at in 0..written.len() {
        let mut other = written.clone();
        other[at] ^= 1;
        let verdict = read(&other);
        // Where the command became `LOCAL`, of which nothing else counts, or the checksum a value of another kind.
        let unchecked = at == 12 || at == written.len() - 7;
        assert!(verdict.is_err() || verdict == Ok(None) || unchecked, "byte {at}: {verdict:?}");
    }
    // In front of other values, as made by HAProxy: `proxy-v2-options crc32c,unique-id`.
    let mut haproxy = with_values(&[(3, &[0; 4]), (5, b"id")]);
    let checksum = crc32c::crc32c(&haproxy).to_be_bytes();
    haproxy[31..35].copy_from_slice(&checksum);
    assert_eq!(whole(&haproxy).tlvs.unique_id.as_deref(), Some(&b"id"[..]));
    haproxy[34] ^= 0x80;
    assert_eq!(read(&haproxy), Err(Fault::Checksum));
}

#[test]
fn addresses_of_two_families_are_written_in_one() {
    let mixed = Header { subject: client("[2001:db8::1]:1", "192.0.2.1:2"), ..Header::default() };
    assert_eq!(mixed.write(Version::V1), b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 2\r\n");
    assert_eq!(whole(&mixed.write(Version::V2)).subject, client("[2001:db8::1]:1", "[::ffff:192.0.2.1]:2"));
    let mapped = Header { subject: client("[::ffff:192.0.2.9]:1", "[::ffff:192.0.2.1]:2"), ..Header::default() };
    assert_eq!(mapped.write(Version::V1), b"PROXY TCP4 192.0.2.9 192.0.2.1 1 2\r\n");
    assert_eq!(whole(&mapped.write(Version::V2)).subject, client("192.0.2.9:1", "192.0.2.1:2"));
    let scoped = Header { subject: client("[fe80::1%3]:1", "[fe80::2%3]:2"), ..Header::default() };
    assert_eq!(scoped.write(Version::V1), b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n");
}

#[test]
fn a_proxy_of_its_own_says_no_more_than_that() {
    assert_eq!(Header::default().write(Version::V1), b"PROXY UNKNOWN\r\n");
    assert_eq!(Header::default().write(Version::V2), v2(0x20, 0, b""));
}

#[test]
fn values_that_nobody_would_take_are_left_out() {
    let tlvs = Tlvs { unique_id: Some(vec![b'a'; 129].into()), authority: Some("".into()), ..Tlvs::default() };
    let header = Header { subject: Subject::Unknown, tlvs };
    assert_eq!(whole(&header.write(Version::V2)).tlvs, Tlvs::default());
}

fn subjects() -> impl Strategy<Value = Subject> {
    let four = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<(u16, u16)>());
    let six = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<(u16, u16)>())
        .prop_filter("IPv4 in IPv6's clothes is written as IPv4", |(a, b, _)| {
            [a, b].iter().all(|ip| std::net::Ipv6Addr::from(**ip).to_ipv4_mapped().is_none())
        });
    prop_oneof![
        Just(Subject::Proxy),
        Just(Subject::Unknown),
        four.prop_map(|(a, b, (c, d))| Subject::Client { source: (a, c).into(), destination: (b, d).into() }),
        six.prop_map(|(a, b, (c, d))| Subject::Client { source: (a, c).into(), destination: (b, d).into() }),
    ]
}

fn values() -> impl Strategy<Value = Tlvs> {
    use prop::{collection::vec, option::of};
    let name = || "[!-~]{1,255}".prop_map(Box::from);
    (of(vec(any::<u8>(), 1..=255)), of(name()), of(vec(any::<u8>(), 1..=128)), of(("[!-~]{0,20}", of("[ -~]{0,40}"))))
        .prop_map(|(alpn, authority, unique_id, tls)| Tlvs {
            alpn: alpn.map(Into::into),
            authority,
            unique_id: unique_id.map(Into::into),
            certificate: tls.as_ref().and_then(|(_, name)| name.as_deref().map(Into::into)),
            tls: tls.map(|(version, _)| version.into()),
        })
}

proptest! {
    #[test]
    fn a_header_is_read_as_it_was_written_and_no_further(subject in subjects(), tlvs in values(), rest: Vec<u8>) {
        let tlvs = if subject == Subject::Proxy { Tlvs::default() } else { tlvs };
        let header = Header { subject, tlvs };
        let binary = header.write(Version::V2);
        prop_assert_eq!(read(&[&binary[..], &rest].concat()), Ok(Some((header.clone(), binary.len()))));
        let line = header.write(Version::V1);
        let told = match subject { Subject::Proxy => Subject::Unknown, subject => subject };
        let expected = Header { subject: told, tlvs: Tlvs::default() };
        prop_assert_eq!(read(&[&line[..], &rest].concat()), Ok(Some((expected, line.len()))));
        for bytes in [binary, line] {
            for end in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..end]), Ok(None), "cut at {}", end);
            }
        }
    }

    #[test]
    fn whatever_comes_has_one_verdict_that_stays(bytes: Vec<u8>, start in 0..3_usize, more: Vec<u8>) {
        let start = [&b""[..], b"PROXY ", SIGNATURE][start];
        let bytes = [start, &bytes].concat();
        let early = read(&bytes);
        if early != Ok(None) {
            prop_assert_eq!(read(&[&bytes[..], &more].concat()), early);
        }
    }
}
