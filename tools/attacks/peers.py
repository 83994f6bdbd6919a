"""The gateways: each with one listener for everything, in plain and over TLS, before one server."""

import os
import socket
import subprocess
import time


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Gateway:
    def __init__(self, program, folder, server, quiet):
        """`server` is everybody's, `quiet` that of the bystander, whose waits are the gateway's alone."""
        self.folder, self.server, self.quiet = folder, server, quiet
        self.program = program or self.PROGRAM
        self.ports = {name: free_port() for name in ("http", "tls", "h2c", "proxy")}

    def __enter__(self):
        if not os.path.exists(f"{self.folder}/both.pem"):
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
                + ["-subj", "/CN=a.test", "-addext", "subjectAltName=DNS:a.test", "-keyout", f"{self.folder}/key.pem"]
                + ["-out", f"{self.folder}/cert.pem"],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            os.chmod(f"{self.folder}/key.pem", 0o600)
            with open(f"{self.folder}/both.pem", "w") as both:
                for name in ("cert", "key"):
                    with open(f"{self.folder}/{name}.pem") as one:
                        both.write(one.read())
        file = f"{self.folder}/{type(self).__name__}.conf"
        with open(file, "w") as config:
            config.write(self.config())
        with open(f"{self.folder}/log", "w") as log:
            self.process = subprocess.Popen(self.command(file), stdout=subprocess.DEVNULL, stderr=log)
        for name, port in self.ports.items():
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            else:
                with open(f"{self.folder}/log") as log:
                    raise RuntimeError(f"{type(self).__name__} does not listen for {name}: {log.read()[-2000:]}")
        # What it does at the start is over.
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Sockgate(Gateway):
    """With its defaults."""

    PROGRAM = "sockgate"

    def config(self):
        tls = f"tls: {{ certificates: [{{ cert: {self.folder}/cert.pem, key: {self.folder}/key.pem }}] }}"
        return f"""
listeners:
  - {{ name: http, address: "127.0.0.1:{self.ports["http"]}" }}
  - {{ name: h2c, address: "127.0.0.1:{self.ports["h2c"]}" }}
  - {{ name: tls, address: "127.0.0.1:{self.ports["tls"]}", {tls} }}
  - {{ name: proxy, address: "127.0.0.1:{self.ports["proxy"]}", proxy_protocol: required }}
forwarding: {{ trusted_proxies: [127.0.0.0/8] }}
routes:
  - {{ match: {{ host: by.test }}, upstream: quiet }}
  - {{ match: {{ path: /socket.io/ }}, upstream: sockets }}
  - upstream: app
upstreams:
  app: {{ servers: ["127.0.0.1:{self.server}"] }}
  quiet: {{ servers: ["127.0.0.1:{self.quiet}"] }}
  sockets: {{ kind: socket.io, servers: ["127.0.0.1:{self.server}"], health: {{ check: tcp }} }}
threads: 2
"""

    def command(self, file):
        return [self.program, "run", "-c", file]


class Haproxy(Gateway):
    """As its documentation has it for an edge: times for the head, the body's silence and for what is idle."""

    PROGRAM = "/usr/sbin/haproxy"

    def config(self):
        ports = self.ports
        return f"""
global
    nbthread 2
    maxconn 8000
    log stderr local0 info
defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 75s
    timeout tunnel 1h
    backlog 4096
frontend edge
    bind 127.0.0.1:{ports["http"]}
    bind 127.0.0.1:{ports["h2c"]}
    bind 127.0.0.1:{ports["tls"]} ssl crt {self.folder}/both.pem alpn h2,http/1.1
    bind 127.0.0.1:{ports["proxy"]} accept-proxy
    use_backend quiet if {{ hdr(host) by.test }}
    default_backend app
backend app
    server a 127.0.0.1:{self.server}
backend quiet
    server a 127.0.0.1:{self.quiet}
"""

    def command(self, file):
        return [self.program, "-db", "-f", file]


class Nginx(Gateway):
    """As its documentation has it for an edge, with its own default times and sizes."""

    PROGRAM = "/usr/sbin/nginx"

    def config(self):
        ports, folder = self.ports, self.folder
        return f"""
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8000; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream app {{ server 127.0.0.1:{self.server}; keepalive 64; }}
    upstream quiet {{ server 127.0.0.1:{self.quiet}; keepalive 64; }}
    map $host $server {{ default app; by.test quiet; }}
    server {{
        listen 127.0.0.1:{ports["http"]} backlog=4096;
        listen 127.0.0.1:{ports["h2c"]} http2 backlog=4096;
        listen 127.0.0.1:{ports["tls"]} ssl http2 backlog=4096;
        listen 127.0.0.1:{ports["proxy"]} proxy_protocol;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        location / {{
            proxy_pass http://$server;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""

    def command(self, file):
        return [self.program, "-p", self.folder, "-c", file]


GATEWAYS = {"sockgate": Sockgate, "haproxy": Haproxy, "nginx": Nginx}
