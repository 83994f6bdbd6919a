"""Takes sessions of real clients to real servers through Sockgate, HAProxy and nginx, and counts what became of them.

sessions.py --sockgate PATH [--only mcp,steady,...] [--gateways sockgate,haproxy,nginx] [--sessions N] [--json FILE]

`scripts/sessions` builds and runs it; docs/sessions.md explains the table.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

from gateways import GATEWAYS

NODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/node")

# The server's program and its arguments, the client's, how the client is told how many, where it goes, and what it calls a call.
PROTOCOLS = {
    "mcp": ("mcp_server.js", ["mcp1"], "mcp_client.js", ["mcp1"], "--sessions", "/mcp", "call"),
    "rule": ("mcp_server.js", ["mcp1"], "mcp_client.js", ["mcp1"], "--sessions", "/mcp", "call"),
    "sockjs": ("sockjs_server.js", [], "sockjs_client.js", ["--transport", "xhr-polling"], "--sessions", "/echo", "echo"),
    "signalr": ("signalr_server.js", [], "signalr_client.js", ["--transport", "polling"], "--connections", "/chat", "call"),
}
TITLES = {"mcp": "MCP", "rule": "MCP by a `rule`", "sockjs": "SockJS, polls", "signalr": "SignalR, polls"}
# Sessions by a rule are of Sockgate alone: for the others it is what `mcp` is.
ALONE = {"rule"}


class Peer:
    """A program of tests/node."""

    def __init__(self, program, arguments):
        command = ["node", os.path.join(NODE, program), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.ready = self.line()

    def line(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, what):
        self.process.stdin.write(f"{what}\n".encode())
        self.process.stdin.flush()
        return self.line()

    def stats(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ready['port']}/__stats") as answer:
            return json.load(answer)

    def end(self):
        self.process.kill()
        self.process.wait()


class Scene:
    """Servers, gateways and clients of one run."""

    def __init__(self, protocol, kind, program, sessions, gateways=1):
        self.protocol, self.sessions = protocol, sessions
        self.server, self.arguments, self.client, self.of_client, self.number, self.path, self.word = PROTOCOLS[protocol]
        self.folder = tempfile.TemporaryDirectory()
        self.servers = [self.serve(name) for name in "abc"]
        self.gone = {"unknown": 0, "opened": 0}
        make = GATEWAYS[kind]
        listed = [(peer.ready["id"], peer.ready["port"]) for peer in self.servers]
        self.gateways = [make(protocol, listed, self.folder.name, program) for _ in range(gateways)]
        for gateway in self.gateways:
            gateway.start()
        self.asked = self.answered = self.good = self.opened = self.questions = 0
        self.homes, self.told = {}, 0

    def serve(self, name):
        return Peer(self.server, [*self.arguments, "--id", name])

    def open(self):
        urls = ",".join(gateway.url + self.path for gateway in self.gateways)
        self.clients = Peer(self.client, [*self.of_client, "--url", urls, self.number, str(self.sessions)])
        self.opened = self.clients.ready["opened"]

    def call(self, rounds=1):
        for _ in range(rounds):
            said = self.clients.ask(self.word)
            self.good = said.get("called", said.get("heard", 0)) - said["moved"] - said.get("lost", 0)
            self.answered += self.good
            self.asked += self.sessions
            self.homes = said.get("servers", said.get("homes"))

    def come_back(self):
        """Gives clients that reconnect by themselves their time."""
        if self.protocol == "signalr":
            for _ in range(20):
                if self.clients.ask(self.word)["called"] == self.sessions:
                    break
                time.sleep(0.3)

    def kill(self, name):
        for peer in self.servers:
            if peer.ready["id"] == name:
                seen = peer.stats()
                self.gone = {what: self.gone[what] + seen.get(what, 0) for what in self.gone}
                peer.end()
        self.servers = [peer for peer in self.servers if peer.ready["id"] != name]

    def outcome(self, excused=0):
        seen = [peer.stats() for peer in self.servers]
        count = lambda what: self.gone[what] + sum(stats.get(what, 0) for stats in seen)
        unknown = count("unknown")
        if self.protocol == "sockjs":
            # A poll that goes astray opens a ghost.
            unknown += max(0, count("opened") - self.sessions - self.renewed)
        questions = sum(gateway.questions() for gateway in self.gateways if hasattr(gateway, "questions"))
        return {
            "opened": self.opened, "asked": self.asked, "answered": self.answered, "unknown": unknown,
            "lost": max(0, self.sessions - self.good - excused), "questions": int(questions), "told": self.told,
        }

    renewed = 0

    def end(self):
        for gateway in self.gateways:
            with contextlib.suppress(OSError):
                gateway.kill()
        for peer in [*self.servers, *([self.clients] if hasattr(self, "clients") else [])]:
            peer.end()
        self.folder.cleanup()


def steady(scene):
    scene.open()
    scene.call(4)
    return scene.outcome()


def restarted(scene):
    scene.open()
    scene.call()
    scene.gateways[0].restart()
    scene.come_back()
    scene.call(3)
    return scene.outcome()


def two(scene):
    scene.open()
    scene.call(4)
    return scene.outcome()


def killed(scene):
    scene.open()
    scene.call()
    on_it = scene.homes.get("a", 0)
    scene.kill("a")
    time.sleep(3)
    scene.come_back()
    scene.call(3)
    # Clients of SignalR begin anew elsewhere; others can't.
    return scene.outcome(0 if scene.protocol == "signalr" else on_it)


def drained(scene):
    """And then it is ended."""
    scene.open()
    scene.call()
    on_it = scene.homes.get("a", 0)
    scene.gateways[0].drain("a")
    if scene.protocol == "sockjs":
        closed = scene.clients.ask("left a")["closed"]
        scene.told = closed.get("1012 Service restart true", 0)
    elif scene.protocol == "signalr":
        scene.told = scene.clients.ask("left a")["reconnected"]
    scene.call()
    if scene.protocol in ("mcp", "rule"):
        # What is over is told so by 404, the word of the protocol for that.
        scene.told = on_it if scene.homes.get("a", 0) == 0 and scene.good == scene.sessions - on_it else 0
    scene.kill("a")
    scene.call(2)
    return scene.outcome(scene.told if scene.protocol != "signalr" else 0)


def added(scene):
    scene.open()
    scene.call()
    new = scene.serve("d")
    scene.servers.append(new)
    scene.gateways[0].add(("d", new.ready["port"]))
    scene.come_back()
    scene.call(3)
    return scene.outcome()


RUNS = {"steady": steady, "restarted": restarted, "two": two, "killed": killed, "drained": drained, "added": added}
WORDS = {
    "steady": "nothing happens",
    "restarted": "the gateway is killed, and started again",
    "two": "two gateways, each request by the other one",
    "killed": "a server is killed",
    "drained": "a server is drained, and ended",
    "added": "a server is added",
}


def version(kind, program):
    flag = {"sockgate": "--version", "haproxy": "-v", "nginx": "-v"}[kind]
    said = subprocess.run([program or GATEWAYS[kind].PROGRAM, flag], capture_output=True, text=True)
    return (said.stdout + said.stderr).splitlines()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockgate", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--gateways", default="sockgate,haproxy,nginx")
    parser.add_argument("--sessions", type=int, default=120)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    only, kinds = arguments.only.split(",") if arguments.only else [], arguments.gateways.split(",")
    wanted = lambda names: [name for name in names if not set(only) & set(names) or name in only]
    programs = {"sockgate": arguments.sockgate}
    for kind in kinds:
        print(version(kind, programs.get(kind)))
    rows, lines = [], ["| | | " + " | ".join(kinds) + " |", "|---" * (2 + len(kinds)) + "|"]
    for protocol in wanted(PROTOCOLS):
        for run in wanted(RUNS):
            cells = []
            for kind in kinds:
                if protocol in ALONE and kind != "sockgate":
                    cells.append("")
                    continue
                scene = Scene(protocol, kind, programs.get(kind), arguments.sessions, 2 if run == "two" else 1)
                try:
                    seen = RUNS[run](scene)
                finally:
                    scene.end()
                rows.append({"protocol": protocol, "run": run, "gateway": kind, **seen})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                told = f", {seen['told']} told" if run == "drained" else ""
                cells.append(f"{seen['opened']}; {seen['answered']} of {seen['asked']}; {seen['unknown']}; {seen['lost']}{told}")
            lines.append(f"| {TITLES[protocol]} | {WORDS[run]} | " + " | ".join(cells) + " |")
    print("\n".join(lines))
    if arguments.json:
        with open(arguments.json, "w") as out:
            json.dump(rows, out, indent=1)


if __name__ == "__main__":
    main()
