"""A collector of traces (OTLP over HTTP, by OpenTelemetry's own messages) that is also an app which reads `traceparent` by
OpenTelemetry's own reader.

POST /v1/traces takes spans and prints one a line; GET of anything else answers with the context that it came with. The first
line is the port. Arguments, in their order, say how the first POSTs are answered: `503` asks to come again in a second,
`refuse` is 400, `half` takes the batch but rejects one span of it, `hang` never answers; each later one is taken.
"""

import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

KINDS = ["unspecified", "internal", "server", "client", "producer", "consumer"]
script = sys.argv[1:]
turn = threading.Lock()
speaking = threading.Lock()


def value(any_value):
    kind = any_value.WhichOneof("value")
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def tell(what):
    with speaking:
        print(json.dumps(what), flush=True)


def tell_all(request, fields):
    for of_resource in request.resource_spans:
        resource = attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                tell({
                    "name": span.name,
                    "kind": KINDS[span.kind],
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "state": span.trace_state,
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": attributes(span.attributes),
                    "events": [event.name for event in span.events],
                    "error": span.status.code == 2,
                    "resource": resource,
                    "scope": of_scope.scope.name,
                    "fields": fields,
                })


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, fields=()):
        self.send_response(status)
        for name, text in fields:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        with turn:
            how = script.pop(0) if script else "take"
        if how == "503":
            tell({"asked_again": True})
            return self.answer(503, b"", [("Retry-After", "1")])
        if how == "refuse":
            tell({"refused": True})
            return self.answer(400, b"")
        if how == "hang":
            tell({"hangs": True})
            threading.Event().wait()
        tell_all(request, {name.lower(): text for name, text in self.headers.items()})
        partial = ExportTracePartialSuccess(rejected_spans=1, error_message="one too many") if how == "half" else None
        answer = ExportTraceServiceResponse(partial_success=partial)
        self.answer(200, answer.SerializeToString(), [("Content-Type", "application/x-protobuf")])

    def do_GET(self):
        carrier = {name.lower(): text for name, text in self.headers.items()}
        context = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
        body = json.dumps({
            "valid": context.is_valid,
            "trace": f"{context.trace_id:032x}",
            "span": f"{context.span_id:016x}",
            "sampled": context.trace_flags.sampled,
            "state": dict(context.trace_state),
            "raw": self.headers.get_all("traceparent") or [],
        }).encode()
        self.answer(500 if self.path == "/fails" else 200, body, [("Content-Type", "application/json")])

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
tell({"port": server.server_address[1]})
server.serve_forever()
