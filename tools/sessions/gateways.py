"""Sockgate, HAProxy and nginx, each as its documentation would have it keep sessions of one protocol on their servers."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request

CANCELLED = '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"nobody-has-asked"}}'
PATIENCE = 10


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Gateway:
    """One process before some servers, a list of names and ports."""

    def __init__(self, protocol, servers, folder, program=None):
        self.protocol, self.servers, self.program = protocol, list(servers), program or self.PROGRAM
        self.port, self.admin = free_port(), free_port()
        self.folder = f"{folder}/{self.port}"
        os.makedirs(self.folder)
        self.file = f"{self.folder}/config"
        self.draining = None
        self.process = None

    def start(self):
        self.write()
        with open(f"{self.folder}/log", "a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        self.wait()

    def write(self):
        with open(self.file, "w") as file:
            file.write(self.config())

    def wait(self):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.02)
        else:
            with open(f"{self.folder}/log") as log:
                raise RuntimeError(f"{type(self).__name__} does not listen: {log.read()[-2000:]}")
        time.sleep(0.3)

    def kill(self):
        """With all that it has started."""
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(children) as pids:
            pids = [int(pid) for pid in pids.read().split()]
        for pid in [self.process.pid, *pids]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def restart(self):
        self.kill()
        self.start()

    def add(self, server):
        self.servers.append(server)
        self.reload()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


class Sockgate(Gateway):
    PROGRAM = "sockgate"
    UPSTREAMS = {
        "mcp": "kind: mcp, balance: round_robin",
        "rule": "balance: round_robin, sessions: { rule: { route: { header: Mcp-Session-Id }, learn: { header: Mcp-Session-Id }, "
        "over: [404], goodbye: none, question: { method: POST, path: /mcp, known: [202], unknown: [400, 404], "
        f"body: '{CANCELLED}', headers: {{ Content-Type: application/json, "
        'Accept: "application/json, text/event-stream", Mcp-Session-Id: "{id}" } } } }',
        "sockjs": "kind: sockjs",
        "signalr": "kind: signalr, balance: round_robin, sessions: { paths: [/chat] }",
    }

    def config(self):
        servers = ", ".join(f'{{ name: {name}, address: "127.0.0.1:{port}" }}' for name, port in self.servers)
        return f"""
listeners:
  - {{ name: web, address: "127.0.0.1:{self.port}" }}
routes:
  - upstream: app
upstreams:
  app: {{ servers: [{servers}], health: {{ check: tcp, interval: 1s }}, {self.UPSTREAMS[self.protocol]} }}
admin: {{ address: "127.0.0.1:{self.admin}" }}
access_log: {{ format: "off" }}
threads: 1
"""

    def command(self):
        return [self.program, "run", "-c", self.file]

    def ask(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", method=method)
        with urllib.request.urlopen(request) as answer:
            return answer.read().decode()

    def reload(self):
        self.write()
        self.ask("/reload", "POST")

    def drain(self, name):
        self.ask(f"/drain?upstream=app&server={name}&rate=50&deadline=3s", "POST")
        until = time.monotonic() + PATIENCE
        while not json.loads(self.ask(f"/drain?upstream=app&server={name}"))["over"] and time.monotonic() < until:
            time.sleep(0.1)

    def questions(self):
        lines = self.ask("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("sockgate_session_questions_total{"))


class Haproxy(Gateway):
    """A stick table on what names the session."""

    PROGRAM = "/usr/sbin/haproxy"
    STICK = {
        "mcp": "stick match req.hdr(mcp-session-id)\n    stick store-response res.hdr(mcp-session-id)",
        "sockjs": "stick on path,field(4,/)",
        # What its answer's body says is looked into for it; without that the first request with an id would decide.
        "signalr": "http-response wait-for-body time 1s if { path_end /negotiate }\n"
        "    stick match url_param(id)\n    stick store-response res.body,json_query('$.connectionToken')",
    }

    def config(self):
        servers = "".join(f"    server {name} 127.0.0.1:{port} check inter 1s\n" for name, port in self.servers)
        return f"""
global
    nbthread 1
    stats socket {self.folder}/socket level admin
defaults
    mode http
    timeout connect 2s
    timeout client 5m
    timeout server 5m
    timeout tunnel 1h
    option redispatch
    retries 3
frontend web
    bind 127.0.0.1:{self.port}
    default_backend app
backend app
    balance roundrobin
    stick-table type string len 64 size 100k expire 30m
    {self.STICK[self.protocol]}
{servers}"""

    def command(self):
        old = ["-sf", str(self.process.pid)] if self.process and self.process.poll() is None else []
        return [self.program, "-db", "-f", self.file, *old]

    def reload(self):
        old = self.process
        self.start()
        # It ends when its last connection does, or with the run.
        self.before = old

    def drain(self, name):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(f"{self.folder}/socket")
            admin.sendall(f"set server app/{name} state drain\n".encode())
            admin.recv(1000)
        time.sleep(3)

    def kill(self):
        if before := getattr(self, "before", None):
            before.kill()
            before.wait()
            self.before = None
        super().kill()


class Nginx(Gateway):
    """A consistent hash of what names the session."""

    PROGRAM = "/usr/sbin/nginx"
    KEYS = {"mcp": "$http_mcp_session_id", "sockjs": "$sockjs_session", "signalr": "$arg_id"}

    def config(self):
        down = lambda name: " down" if name == self.draining else ""
        servers = "".join(f"        server 127.0.0.1:{port}{down(name)};\n" for name, port in self.servers)
        temporary = "".join(f"    {name}_temp_path {self.folder};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""
daemon off;
worker_processes 1;
pid {self.folder}/pid;
error_log {self.folder}/error crit;
events {{ worker_connections 8000; }}
http {{
    access_log off;
{temporary}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    map $uri $sockjs_session {{ "~^/[^/]+/[^/]+/([^/]+)/" $1; default ""; }}
    upstream app {{
        hash {self.KEYS[self.protocol]} consistent;
{servers}        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{self.port};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_read_timeout 5m;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""

    def command(self):
        return [self.program, "-p", self.folder, "-c", self.file, "-e", "stderr"]

    def reload(self):
        self.write()
        self.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)

    def drain(self, name):
        """It has no drain: the server is taken out."""
        self.draining = name
        self.reload()
        time.sleep(3)


GATEWAYS = {"sockgate": Sockgate, "haproxy": Haproxy, "nginx": Nginx}
