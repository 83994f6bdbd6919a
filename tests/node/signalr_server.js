// A server of SignalR after the protocol's public description (HubProtocol.md and TransportProtocols.md of ASP.NET Core), since none
// of Microsoft's can be had here: negotiation in versions 0 and 1, WebSockets, server-sent events and long polling, hubs in JSON and
// MessagePack, and connections that are taken up again on another WebSocket. Its hub is at `/chat`: `who` says who serves,
// `echo` says that with what it got, and `cut` cuts the WebSocket that it comes by.
//
// It says {"port":…,"id":…} on stdout once it listens, counts in `/__stats`, and ends when its stdin closes.
"use strict";

const crypto = require("node:crypto");
const http = require("node:http");
const path = require("node:path");
const { createRequire } = require("node:module");
const lib = require("./lib.js");

const options = lib.args("node signalr_server.js [--id a] [--host 127.0.0.1] [--port 0]", {
  id: { type: "string", default: "a" },
  host: { type: "string", default: "127.0.0.1" },
  port: { type: "string", default: "0" },
});
const { id } = options;
const need = createRequire(path.join(__dirname, "signalr", "package.json"));
const { WebSocketServer } = need("ws");
const { JsonHubProtocol, MessageType, NullLogger } = need("@microsoft/signalr");
const { MessagePackHubProtocol } = need("@microsoft/signalr-protocol-msgpack");

const stats = { id, negotiated: 0, open: 0, calls: 0, unknown: 0, questions: 0, resumed: 0, skipped: 0 };
const connections = new Map();
const RESUMES = 15000; // how long one that was cut may be taken up again
const IDLE = 15000; // how long one that has no transport is kept
const POLL = 90000; // how long a poll waits

const token = () => crypto.randomBytes(16).toString("base64url");
const handshake = (protocol) => protocol === "messagepack" ? new MessagePackHubProtocol() : new JsonHubProtocol();

/** What the server knows of a client. */
class Connection {
  constructor(stateful) {
    Object.assign(this, { id: token(), token: token(), stateful, protocol: null, transport: null, out: [], held: Buffer.alloc(0) });
    this.received = 0;
    this.sent = [];
    this.sequence = 0;
    this.wait(IDLE);
  }

  wait(time) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.end(), time);
  }

  taken() {
    clearTimeout(this.timer);
  }

  end() {
    clearTimeout(this.timer);
    if (this.protocol) stats.open--;
    this.protocol = null;
    connections.delete(this.token);
    connections.delete(this.id);
    this.over?.();
  }

  send(message, counted = true) {
    const written = this.protocol.writeMessage(message);
    if (this.stateful && counted) this.sent.push({ number: ++this.sequence, written });
    this.write(written);
  }

  write(written) {
    this.out.push(typeof written === "string" ? Buffer.from(written) : Buffer.from(written));
    this.flush?.();
  }

  hear(bytes) {
    let rest = Buffer.concat([this.held, bytes]);
    this.held = Buffer.alloc(0);
    if (!this.protocol) {
      const end = rest.indexOf(0x1e);
      if (end < 0) return void (this.held = rest);
      this.protocol = handshake(JSON.parse(rest.subarray(0, end)).protocol);
      stats.open++;
      this.write("{}\x1e");
      rest = rest.subarray(end + 1);
    }
    if (rest.length === 0) return;
    const json = this.protocol.name === "json";
    const input = json ? rest.toString() : rest.buffer.slice(rest.byteOffset, rest.byteOffset + rest.length);
    // The package's parser takes what servers say, and passes over what clients do: both look alike.
    for (const message of json ? parseJson(input) : parsePacked(rest)) this.handle(message);
  }

  handle({ type, invocationId, target, arguments: said, sequenceId }) {
    if (type === MessageType.Ping) return;
    if (type === 8) {
      this.sent = this.sent.filter(({ number }) => number > sequenceId);
      return;
    }
    if (type === 9) {
      this.received = sequenceId - 1;
      return;
    }
    if (type === MessageType.Close) return this.end();
    this.received++;
    if (this.stateful) this.send({ type: 8, sequenceId: this.received }, false);
    if (type !== MessageType.Invocation) return;
    if (target === "cut") return this.cut?.();
    stats.calls++;
    const result = target === "who" ? id : `${id} ${said[0]}`;
    this.send({ type: MessageType.Completion, invocationId, result, headers: {} });
  }
}

function* parseJson(text) {
  for (const record of text.split("\x1e")) if (record) yield JSON.parse(record);
}

/** As many messages as there are, each behind its length. */
function* parsePacked(bytes) {
  const { decode } = createRequire(need.resolve("@microsoft/signalr-protocol-msgpack"))("@msgpack/msgpack");
  for (let at = 0; at < bytes.length;) {
    let [length, shift, byte] = [0, 0, 0];
    do {
      byte = bytes[at++];
      length |= (byte & 0x7f) << shift;
      shift += 7;
    } while (byte & 0x80);
    const [type, second, third, target, said] = decode(bytes.subarray(at, at + length));
    at += length;
    yield type === 8 || type === 9 ? { type, sequenceId: second } : { type, invocationId: third ?? undefined, target, arguments: said };
  }
}

function negotiate(req, res, url) {
  const version = Number(url.searchParams.get("negotiateVersion") ?? 0);
  const stateful = url.searchParams.get("useStatefulReconnect") === "true";
  if (url.searchParams.has("elsewhere")) return lib.json(res, { url: url.searchParams.get("elsewhere"), accessToken: "x" });
  const connection = new Connection(stateful);
  stats.negotiated++;
  connections.set(version > 0 ? connection.token : connection.id, connection);
  const formats = ["Text", "Binary"];
  const offered = {
    connectionId: connection.id,
    availableTransports: [
      { transport: "WebSockets", transferFormats: formats },
      { transport: "ServerSentEvents", transferFormats: ["Text"] },
      { transport: "LongPolling", transferFormats: formats },
    ],
  };
  if (version > 0) Object.assign(offered, { connectionToken: connection.token, negotiateVersion: 1 });
  if (stateful) offered.useStatefulReconnect = true;
  lib.json(res, offered);
}

function refuse(res, status, text) {
  res.writeHead(status, { "Content-Type": "text/plain" }).end(text);
}

function events(connection, req, res) {
  connection.taken();
  res.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
  res.write(":\r\n\r\n");
  connection.flush = () => {
    for (const part of connection.out.splice(0)) res.write(`data: ${part}\r\n\r\n`);
  };
  const ping = setInterval(() => connection.protocol && connection.send({ type: MessageType.Ping }, false), 2000);
  res.on("close", () => { clearInterval(ping); connection.end(); });
  connection.over = () => res.end();
  connection.flush();
}

function poll(connection, req, res) {
  connection.taken();
  connection.pending?.();
  const first = !connection.polled;
  connection.polled = true;
  const done = (status) => {
    if (res.writableEnded) return;
    clearTimeout(timer);
    connection.flush = connection.pending = undefined;
    res.writeHead(status, { "Content-Type": "application/octet-stream" });
    res.end(Buffer.concat(connection.out.splice(0)));
    connection.wait(IDLE);
  };
  const timer = setTimeout(() => done(200), POLL);
  // The first is answered at once, so that its client knows that it may go on.
  if (first || connection.out.length) return done(200);
  connection.flush = () => setImmediate(() => done(200));
  connection.pending = () => done(204);
  connection.over = () => done(204);
  res.on("close", () => {
    if (!res.writableEnded) { clearTimeout(timer); connection.flush = undefined; connection.wait(IDLE); }
  });
}

const server = http.createServer((req, res) => {
  const url = new URL(req.url, "http://localhost");
  const parts = [];
  req.on("data", (part) => parts.push(part)).on("end", () => {
    const body = Buffer.concat(parts);
    if (url.pathname === "/__stats") return lib.json(res, { ...stats, known: connections.size });
    if (url.pathname === "/items") return lib.json(res, { id, items: url.searchParams.get("id") });
    if (url.pathname === "/chat/negotiate" && req.method === "POST") return negotiate(req, res, url);
    if (url.pathname !== "/chat") return refuse(res, 404, "");
    const named = url.searchParams.get("id");
    if (!named) return refuse(res, 400, "Connection ID required");
    const connection = connections.get(named);
    const asks = req.method === "POST" && body.length === 0;
    if (asks) stats.questions++;
    if (!connection) {
      if (!asks) stats.unknown++;
      return refuse(res, 404, "No Connection with that ID");
    }
    if (req.method === "GET") {
      const transport = /text\/event-stream/.test(req.headers.accept ?? "") ? "sse" : "polling";
      if ((connection.transport ??= transport) !== transport) return refuse(res, 400, "");
      return (transport === "sse" ? events : poll)(connection, req, res);
    }
    if (req.method === "DELETE") {
      connection.end();
      return res.writeHead(202).end();
    }
    if (connection.transport === "websocket") return refuse(res, 405, "");
    connection.hear(body);
    res.writeHead(200, { "Content-Type": "text/plain" }).end();
  });
});

const sockets = new WebSocketServer({ noServer: true });
server.on("upgrade", (req, socket, head) => {
  const url = new URL(req.url, "http://localhost");
  const named = url.searchParams.get("id");
  let connection = named ? connections.get(named) : new Connection(false);
  if (!named) {
    stats.skipped++;
    connections.set(connection.token, connection);
  }
  if (url.pathname !== "/chat" || !connection) {
    stats.unknown++;
    return socket.end("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 26\r\n\r\nNo Connection with that ID");
  }
  sockets.handleUpgrade(req, socket, head, (ws) => {
    connection.taken();
    const again = connection.transport === "websocket";
    connection.transport = "websocket";
    connection.flush = () => {
      const binary = connection.protocol?.name === "messagepack";
      for (const part of connection.out.splice(0)) ws.send(binary ? part : part.toString());
    };
    if (again && connection.protocol) {
      stats.resumed++;
      connection.send({ type: 9, sequenceId: connection.sent[0]?.number ?? connection.sequence + 1 }, false);
      for (const { written } of connection.sent) connection.write(written);
    }
    const ping = setInterval(() => connection.protocol && connection.send({ type: MessageType.Ping }, false), 2000);
    ws.on("message", (data) => connection.hear(Buffer.from(data)));
    ws.on("error", () => {});
    ws.on("close", (code) => {
      clearInterval(ping);
      connection.flush = undefined;
      // 1006: cut, without a word.
      if (connection.stateful && code === 1006) connection.wait(RESUMES);
      else connection.end();
    });
    connection.over = () => ws.close(1000);
    connection.cut = () => ws.terminate();
    connection.flush();
  });
});
lib.listen(server, options);
