"""python-socketio's own clients: N sessions that talk, check every answer, and sum up in one JSON line.

A second implementation of the protocol beside tests/node/client.js, with the same summary and the same exit code, and
with --stay the same puppet: a JSON line for each event, JSON orders on stdin. It speaks Engine.IO 4 only.

WebSocket over TLS loses a session now and then, with nothing in between: one thread reads a TLS socket while another
writes it, which Python's ssl does not bear. Test TLS by polling with it, WebSocket without TLS.
"""

import argparse
import collections
import concurrent.futures
import ipaddress
import json
import math
import os
import socket
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

import engineio
import requests
import socketio


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--path", default="/socket.io")
    parser.add_argument("--transports", default="polling,websocket")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=20, help="sessions that connect and talk at once")
    parser.add_argument("--local-addresses", help="127.0.0.2-127.0.0.60: session i comes from the i-th, round and round")
    parser.add_argument("--messages", type=int, default=5)
    parser.add_argument("--payload", choices=["text", "binary", "big"], default="text")
    parser.add_argument("--hold", type=int, default=0, help="ms that all stay connected after the last message")
    parser.add_argument("--timeout", type=int, default=20000, help="ms for each step of a session")
    parser.add_argument("--allow-reconnect", action="store_true")
    parser.add_argument("--ca")
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--header", action="append", default=[], help="'Name: value'")
    parser.add_argument("--stay", action="store_true")
    return parser.parse_args()


OPTIONS = arguments()
TRANSPORTS = OPTIONS.transports.split(",")
PATIENCE = OPTIONS.timeout / 1000
EXPECTS_UPGRADE = TRANSPORTS[0] == "polling" and "websocket" in TRANSPORTS
HEADERS = dict((part.strip() for part in header.split(":", 1)) for header in OPTIONS.header)
saying = threading.Lock()


def say(value):
    with saying:
        print(json.dumps(value), flush=True)


def local_addresses(text):
    if not text:
        return [None]
    first, _, last = text.partition("-")
    first, last = ipaddress.ip_address(first), ipaddress.ip_address(last or first)
    return [str(first + i) for i in range(int(last) - int(first) + 1)]


ADDRESSES = local_addresses(OPTIONS.local_addresses)


class FromAddress(requests.adapters.HTTPAdapter):
    """Polls from one source address, and notes the answers that are errors."""

    def __init__(self, address, refused):
        self.address, self.refused = address, refused
        super().__init__()

    def init_poolmanager(self, *given, **named):
        if self.address:
            named["source_address"] = (self.address, 0)
        super().init_poolmanager(*given, **named)

    def send(self, *given, **named):
        response = super().send(*given, **named)
        if response.status_code >= 400:
            self.refused(response)
        return response


class Engine(engineio.Client):
    """websocket-client can't bind a source address: it is handed a connected socket instead."""

    address = None

    def _connect_websocket(self, url, headers, engineio_path):
        if self.address:
            at = urlsplit(url)
            secure = at.scheme in ("https", "wss")
            raw = socket.create_connection(
                (at.hostname, at.port or (443 if secure else 80)), PATIENCE, (self.address, 0)
            )
            if secure:
                context = ssl.create_default_context(cafile=OPTIONS.ca)
                if OPTIONS.insecure:
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                raw = context.wrap_socket(raw, server_hostname=at.hostname)
            self.websocket_extra_options["socket"] = raw
        return super()._connect_websocket(url, headers, engineio_path)


    def disconnect(self, abort=False, reason=None):
        """Says goodbye first: left alone, the goodbye is often unsent and the reading thread waits for the next ping."""
        reading = self.read_loop_task
        if self.state == "connected" and not abort:
            self._send_packet(engineio.packet.Packet(engineio.packet.CLOSE))
            with self.queue.all_tasks_done:
                self.queue.all_tasks_done.wait_for(lambda: not self.queue.unfinished_tasks, timeout=2)
        super().disconnect(abort, reason)
        if reading and reading is not threading.current_thread():
            reading.join(timeout=2)  # or it would end the next session


class Client(socketio.Client):
    """A client of one source address that tells `hear(kind, detail)` whatever befalls it."""

    def __init__(self, address, hear):
        session = requests.Session()
        session.trust_env = False
        if OPTIONS.ca:
            session.verify = OPTIONS.ca

        def refused(response):
            try:
                message = response.json()["message"]
            except (ValueError, KeyError, TypeError):
                message = response.text[:80]
            hear("refusal", {"message": f"{response.status_code} {message}"})

        for scheme in ("http://", "https://"):
            session.mount(scheme, FromAddress(address, refused))
        extra = {"sslopt": {"ca_certs": OPTIONS.ca}} if OPTIONS.ca else {}
        super().__init__(
            http_session=session,
            request_timeout=60,
            ssl_verify=not OPTIONS.insecure,
            websocket_extra_options=extra,
            handle_sigint=False,
        )
        self.eio.address = address
        self.connects = 0
        self.hear = hear
        self.on("connect", self.on_connect)
        self.on("disconnect", lambda reason: hear("disconnect", {"reason": reason}))
        self.on("connect_error", lambda error=None: hear("connect_error", {"message": str(error)}))
        self.on("*", lambda name, *given: hear("message", {"name": name, "args": list(given)}))

    def _engineio_client_class(self):
        return Engine

    def on_connect(self):
        self.connects += 1
        detail = {"sid": self.eio.sid, "transport": self.transport()}
        self.hear("connect", detail)
        if self.connects > 1:
            self.hear("reconnect", detail)

    def disconnect(self):
        self.reconnection = False  # the poll that crosses the goodbye fails, and would bring the session back
        super().disconnect()

    def open(self):
        self.reconnection = True
        self.connect(
            OPTIONS.url, headers=HEADERS, transports=TRANSPORTS, socketio_path=OPTIONS.path, wait_timeout=PATIENCE
        )


class Run:
    """All sessions of a batch, and what they live through."""

    def __init__(self):
        self.lock = threading.Lock()
        self.numbers = collections.Counter()
        self.histograms = collections.defaultdict(collections.Counter)
        self.upgrade_times = []

    def note(self, name, key=None):
        with self.lock:
            if key is None:
                self.numbers[name] += 1
            else:
                self.histograms[name][key] += 1

    def hear(self, kind, detail, leaving):
        if kind == "reconnect":
            self.note("reconnects")
        elif kind == "connect_error":
            self.note("connect_errors", detail["message"])
        elif kind == "refusal" and not leaving:  # polling on after its own goodbye is a habit of this client
            self.note("refusals", detail["message"])
        elif kind == "disconnect" and not leaving:
            self.note("disconnects", detail["reason"])

    def summary(self, started):
        numbers, histograms = self.numbers, self.histograms
        times = sorted(self.upgrade_times)
        result = {"version": "python", "sessions": OPTIONS.sessions, "connected": numbers["connected"]}
        result["upgraded"] = len(times)
        result["p95_upgrade_ms"] = times[math.ceil(len(times) * 0.95) - 1] if times else None
        for name in ("transports", "servers", "disconnects", "connect_errors", "refusals", "failures"):
            result[name] = dict(histograms[name])
        for name in ("server_changes", "reconnects", "messages", "out_of_order", "bad_payload"):
            result[name] = numbers[name]
        result["session_id_unknown"] = sum(n for text, n in histograms["refusals"].items() if "Session ID unknown" in text)
        result["elapsed_ms"] = int((time.monotonic() - started) * 1000)
        complete = (
            result["connected"] == OPTIONS.sessions
            and result["messages"] == OPTIONS.sessions * OPTIONS.messages
            and (not EXPECTS_UPGRADE or len(times) == OPTIONS.sessions)
            and not (result["out_of_order"] or result["bad_payload"] or result["failures"])
        )
        accidents = ("reconnects", "server_changes", "disconnects", "connect_errors", "refusals")
        result["ok"] = complete and (OPTIONS.allow_reconnect or not any(result[name] for name in accidents))
        return result


class Session:
    """One session of a batch."""

    def __init__(self, run, i):
        self.run, self.leaving, self.server = run, False, None
        self.client = Client(ADDRESSES[i % len(ADDRESSES)], lambda kind, detail: run.hear(kind, detail, self.leaving))

    def ask(self, name, *payload):
        data = payload[0] if len(payload) == 1 else payload or None
        return self.client.call(name, data, timeout=PATIENCE)

    def talk(self):
        started = time.monotonic()
        self.client.open()
        self.run.note("connected")
        if EXPECTS_UPGRADE and self.client.transport() == "websocket":
            self.run.upgrade_times.append(int((time.monotonic() - started) * 1000))
        self.server = self.ask("who")
        self.run.note("servers", self.server)
        for n in range(OPTIONS.messages):
            sent = payload(n)
            echo, seq = self.ask("echo", sent), self.ask("seq", n)
            if seq["n"] != n or seq["count"] != n + 1:
                self.run.note("out_of_order")
            if echo != sent:
                self.run.note("bad_payload")
            if seq["id"] != self.server:
                self.run.note("server_changes")
            self.run.note("messages")
        self.run.note("transports", self.client.transport())

    def leave(self):
        try:
            if self.server and self.ask("who") != self.server:
                self.run.note("server_changes")
        finally:
            self.leaving = True
            self.client.disconnect()


def payload(n):
    """The n-th message of a session: its number leads, so that a misplaced answer shows."""
    if OPTIONS.payload == "binary":
        return bytes([n >> 8, n & 255]) + bytes([n & 255]) * 1000
    return f"{n}:" + "é…" * (200_000 if OPTIONS.payload == "big" else 20)


def batch():
    started, run = time.monotonic(), Run()
    sessions = [Session(run, i) for i in range(OPTIONS.sessions)]

    def each(step):
        with concurrent.futures.ThreadPoolExecutor(OPTIONS.concurrency) as pool:
            for done in [pool.submit(step, session) for session in sessions]:
                error = done.exception()
                if error:
                    run.note("failures", f"{type(error).__name__}: {error}"[:200])

    each(Session.talk)
    time.sleep(OPTIONS.hold / 1000)
    each(Session.leave)
    summary = run.summary(started)
    say(summary)
    return 0 if summary["ok"] else 1


def stay():
    """The puppet; its orders and events are those of tests/node/client.js."""
    client = Client(ADDRESSES[0], lambda kind, detail: say({"event": kind, **detail}))

    def connect(_):
        try:
            client.open()
        except socketio.exceptions.ConnectionError as error:
            say({"event": "connect_error", "message": str(error)})

    def emit(order):
        data = tuple(order.get("args", []))
        tag = order.get("tag")
        answer = None if tag is None else lambda *given: say({"event": "ack", "tag": tag, "args": list(given)})
        client.emit(order["name"], data, callback=answer)

    def disconnect(_):
        client.disconnect()

    def cut(_):
        os._exit(0)

    def quit_(_):
        client.disconnect()
        os._exit(0)

    orders = {"connect": connect, "emit": emit, "disconnect": disconnect, "cut": cut, "quit": quit_}
    connect(None)
    for line in sys.stdin:
        try:
            order = json.loads(line)
            orders[order["do"]](order)
        except (ValueError, KeyError, TypeError, socketio.exceptions.SocketIOError) as error:
            say({"event": "misunderstood", "line": line.strip(), "message": str(error)})
    os._exit(0)


if __name__ == "__main__":
    code = stay() if OPTIONS.stay else batch()
    sys.stdout.flush()
    # Reconnecting threads of a failed session must not keep the process.
    os._exit(code)
