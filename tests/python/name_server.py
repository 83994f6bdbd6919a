"""A name server that answers as it is told to, by UDP and TCP, and tells what it is asked.

Each line of standard input is a map from names to what is said of them: `{"app.test.": {"records": [["A", 1, "127.0.0.1"]]}}`,
or `{"app.test.": {"fault": "SERVFAIL"}}`; a name that is not there does not exist. `fault` is a response code, or
`silent`, `truncated` (over UDP, whatever the length), `forged` (before the true answer comes one of somebody else's
with the wrong number). Each line of standard output is a map, too: the port at first, then `{"set": 1}` for each line
that was read, and one for each question.
"""

import json
import os
import socket
import struct
import sys
import threading

import dnslib

zone = {}
speaking = threading.Lock()


def tell(what):
    with speaking:
        print(json.dumps(what), flush=True)


def replies(data, by_tcp):
    """What is sent for a question: none, one, or several messages."""
    question = dnslib.DNSRecord.parse(data)
    name, kind = str(question.q.qname).lower(), dnslib.QTYPE[question.q.qtype]
    tell({"name": name, "type": kind, "tcp": by_tcp})
    said = zone.get(name)
    reply = question.reply()
    if said is None:
        reply.header.rcode = dnslib.RCODE.NXDOMAIN
        return [reply.pack()]
    fault = said.get("fault")
    if fault == "silent":
        return []
    for kind_of, ttl, *values in said.get("records", []):
        if kind_of == kind or kind_of == "CNAME":
            rdata = getattr(dnslib, kind_of)(*values)
            reply.add_answer(dnslib.RR(question.q.qname, getattr(dnslib.QTYPE, kind_of), rdata=rdata, ttl=ttl))
    if fault == "truncated" and not by_tcp:
        short = question.reply()
        short.header.tc = 1
        return [short.pack()]
    if fault == "forged":
        forged = question.reply()
        forged.header.id = question.header.id ^ 0x5555
        forged.add_answer(dnslib.RR(question.q.qname, dnslib.QTYPE.A, rdata=dnslib.A("127.6.6.6"), ttl=3600))
        return [forged.pack(), reply.pack()]
    if fault in dnslib.RCODE.reverse:
        reply.header.rcode = dnslib.RCODE.reverse[fault]
        reply.rr = []
    return [reply.pack()]


def serve_udp(server):
    while True:
        data, peer = server.recvfrom(4096)
        for reply in replies(data, False):
            server.sendto(reply, peer)


def serve_tcp(server):
    def serve(connection):
        with connection, connection.makefile("rb") as reader:
            while len(head := reader.read(2)) == 2:
                for reply in replies(reader.read(struct.unpack("!H", head)[0]), True):
                    connection.sendall(struct.pack("!H", len(reply)) + reply)

    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


def bind():
    """Both sockets at one port."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            continue
        tcp.listen()
        return udp, tcp


udp, tcp = bind()
for serve, server in ((serve_udp, udp), (serve_tcp, tcp)):
    threading.Thread(target=serve, args=(server,), daemon=True).start()
tell({"port": udp.getsockname()[1]})
for line in sys.stdin:
    for name, said in json.loads(line).items():
        if said is None:
            zone.pop(name, None)
        else:
            zone[name] = said
    tell({"set": 1})
# Threads may be waiting for connections.
os._exit(0)
