"""Another client, from another address: asks every 20 ms on a new connection, and says something on a WebSocket that stays
open. Prints how long the slowest hundredth of both took, once its standard input says so; None where an answer never came."""

import json
import os
import select
import socket
import struct
import sys
import time

PORT = int(sys.argv[1])
PATIENCE = 5


def connect():
    connection = socket.create_connection(("127.0.0.1", PORT), PATIENCE, ("127.0.0.2", 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def until(connection, end):
    got = b""
    while end not in got:
        more = connection.recv(4096)
        if not more:
            raise OSError("the end")
        got += more
    return got


def ask():
    began = time.monotonic()
    try:
        with connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: by.test\r\nConnection: close\r\n\r\n")
            answer = until(connection, b"\r\n\r\nok")
        return time.monotonic() - began if answer.startswith(b"HTTP/1.1 200") else None
    except OSError:
        return None


def say(connection, number):
    began = time.monotonic()
    mask, text = b"\x01\x02\x03\x04", struct.pack(">Q", number)
    try:
        connection.sendall(b"\x82\x88" + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(text)))
        until(connection, text)
        return time.monotonic() - began
    except OSError:
        return None


def slowest(times):
    """The 99th in a hundred; None if one in a hundred never came."""
    ordered = sorted(PATIENCE * 100 if took is None else took for took in times)
    at = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return None if at >= PATIENCE * 100 else at


def main():
    live = connect()
    live.sendall(
        b"GET /ws HTTP/1.1\r\nHost: by.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    until(live, b"\r\n\r\n")
    print("ready", flush=True)
    requests, echoes, number = [], [], 0
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        requests.append(ask())
        echoes.append(say(live, number))
        number += 1
    failed = sum(took is None for took in requests) + sum(took is None for took in echoes)
    print(json.dumps({"request": slowest(requests), "echo": slowest(echoes), "asked": number, "failed": failed}))
    sys.stdout.flush()
    os._exit(0)


main()
