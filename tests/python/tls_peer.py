"""A client of TLS that is a little odd: a pure Python one (tlslite-ng), which sends what others never do.

tls_peer.py PORT SCENARIO...: talks to a server behind TLS that sends every byte back, and ends with status 0 if each scenario
went as it should.
"""

import os
import random
import socket
import sys
import threading

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import AlertDescription, AlertLevel, ContentType, KeyUpdateMessageType
from tlslite.errors import TLSAbruptCloseError, TLSRemoteAlert
from tlslite.messages import Alert, ClientHello, Message

V1_2, V1_3 = (3, 3), (3, 4)
PATIENCE = 20


def socket_to(port):
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def connect(port, version=V1_3, record=None):
    tls = TLSConnection(socket_to(port))
    # Whoever ends without a word is noticed.
    tls.ignoreAbruptClose = False
    if record:
        tls.recordSize = record
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = version
    settings.useExperimentalTackExtension = False
    tls.handshakeClientCert(settings=settings, serverName="a.test")
    assert tls.version == version, tls.version
    return tls


def go(steps):
    for _ in steps:
        pass


def send_record(tls, kind, payload):
    go(tls._sendMsgThroughSocket(Message(kind, bytearray(payload))))


def read(tls, length):
    got = bytearray()
    while len(got) < length:
        more = tls.read(max=length - len(got), min=1)
        assert more, f"the end after {len(got)} of {length} bytes"
        got += more
    return bytes(got)


def echoes(tls, text):
    tls.write(text)
    assert read(tls, len(text)) == text


def refused(tls, *expected):
    """The connection ends with one of these alerts."""
    try:
        while tls.read(max=1 << 14, min=1):
            pass
    except TLSRemoteAlert as alert:
        assert alert.description in expected, alert
        return
    raise AssertionError("no alert")


def tiny_records(port):
    """Every record, those of the handshake included, has one byte."""
    for version in (V1_2, V1_3):
        tls = connect(port, version, record=1)
        echoes(tls, os.urandom(700))
        tls.close()


def records_of_every_size(port):
    for version in (V1_2, V1_3):
        tls = connect(port, version)
        for size in (1, 2, 255, 256, 16383, 16384, 16385, 40000):
            tls.recordSize = min(size, 16384)
            echoes(tls, os.urandom(size))
        tls.close()


def padded_records(port):
    """TLS 1.3 hides lengths behind zeros (RFC 8446 5.4)."""
    tls = connect(port)
    tls._recordLayer.padding_cb = lambda length, kind, most: min(3000, most - length)
    echoes(tls, b"short")
    echoes(tls, os.urandom(5000))
    tls.close()


def empty_records(port):
    """Records with nothing in them, between others."""
    for version in (V1_2, V1_3):
        tls = connect(port, version)
        for _ in range(20):
            send_record(tls, ContentType.application_data, b"")
            echoes(tls, b"something")
        tls.close()


def new_keys(port):
    """Keys of the client's own, and of both, between others."""
    tls = connect(port)
    for request in [KeyUpdateMessageType.update_not_requested, KeyUpdateMessageType.update_requested] * 10:
        go(tls.send_keyupdate_request(request))
        echoes(tls, os.urandom(300))
    tls.close()


def new_keys_without_end(port):
    """Nothing but new keys."""
    tls = connect(port)
    try:
        for _ in range(100_000):
            go(tls.send_keyupdate_request(KeyUpdateMessageType.update_not_requested))
    except OSError:
        return
    refused(tls, AlertDescription.unexpected_message)


def renegotiation(port):
    """TLS 1.2 agrees once; who asks again is told no, and the connection goes on (RFC 5746 4.5)."""
    tls = connect(port, V1_2)
    echoes(tls, b"before")
    hello = ClientHello().create(V1_2, bytearray(32), bytearray(0), [0xC02B, 0xC02F], extensions=[])
    send_record(tls, ContentType.handshake, hello.write())
    tls.write(b"after")
    try:
        read(tls, 5)
    except TLSRemoteAlert as alert:
        # This client takes the warning for the end.
        assert alert.description == AlertDescription.no_renegotiation, alert
        return
    raise AssertionError("nobody was told")


def unknown_records(port):
    for version in (V1_2, V1_3):
        tls = connect(port, version)
        send_record(tls, 99, b"what is this")
        refused(tls, AlertDescription.unexpected_message, AlertDescription.decode_error, AlertDescription.illegal_parameter)


def records_of_nobody(port):
    """What was sealed with no key of theirs."""
    for version in (V1_2, V1_3):
        tls = connect(port, version)
        echoes(tls, b"well")
        tls.sock.socket.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
        refused(tls, AlertDescription.bad_record_mac)


def too_long_records(port):
    for version in (V1_2, V1_3):
        tls = connect(port, version)
        echoes(tls, b"well")
        tls.sock.socket.sendall(b"\x17\x03\x03\xff\xff" + bytes(65535))
        refused(tls, AlertDescription.record_overflow, AlertDescription.decode_error, AlertDescription.bad_record_mac)


def half_close(port):
    """Who has said all still hears the rest."""
    for version in (V1_2, V1_3):
        tls = connect(port, version)
        text = os.urandom(200_000)
        tls.write(text)
        tls.closeSocket = False
        go(tls._sendMsg(close_notify()))
        assert read(tls, len(text)) == text
        assert tls.read(max=1, min=1) == b"", "the end comes with a word"


def close_notify():
    return Alert().create(AlertDescription.close_notify, AlertLevel.warning)


def cut(port):
    """Who goes without a word is no trouble to anybody."""
    for version in (V1_2, V1_3):
        tls = connect(port, version)
        echoes(tls, b"well")
        tls.sock.socket.close()
        plain = socket_to(port)
        plain.sendall(b"\x16\x03\x01\x02\x00\x01")
        plain.close()
    tls = connect(port)
    echoes(tls, b"others go on")
    tls.close()


def bulk(port):
    """Much, in pieces of any size, both ways at once."""
    whims = random.Random(int(os.environ.get("SEED", "1")))
    amount = int(os.environ.get("BULK", str(256 << 10)))
    for version in (V1_2, V1_3):
        tls = connect(port, version)
        text = whims.randbytes(amount)
        got = bytearray()

        def hear():
            while len(got) < amount:
                more = tls.read(max=whims.randint(1, 50_000), min=1)
                if not more:
                    return
                got.extend(more)

        listener = threading.Thread(target=hear)
        listener.start()
        at = 0
        while at < amount:
            piece = text[at : at + whims.choice([1, 7, 100, 1400, 16384, 16385, whims.randint(1, 100_000)])]
            tls.write(piece)
            at += len(piece)
        listener.join(120)
        assert got == text, f"{len(got)} of {amount} bytes"
        tls.close()


def main():
    port = int(sys.argv[1])
    for name in sys.argv[2:]:
        try:
            globals()[name](port)
        except (AssertionError, OSError, TLSRemoteAlert, TLSAbruptCloseError) as fault:
            sys.exit(f"{name}: {type(fault).__name__}: {fault}")
        print(f"{name}: as it should be", flush=True)


if __name__ == "__main__":
    main()
