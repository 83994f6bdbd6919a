// A plain WebSocket server: echoes, and does on request what gateways stumble over.
//
// A text message that is JSON with "do" is an order, all else is echoed:
// {"do":"headers"} what the handshake said · {"do":"close","code":4001,"reason":"…"} · {"do":"cut"} drops the connection ·
// {"do":"ping"} sends a ping and answers when the pong is there · {"do":"fragments","n":3} one message in n frames ·
// {"do":"send","n":100,"size":1000} n messages, each led by its number.
// Paths: `/greet` sends its first frame together with the 101 · `/refuse?status=401` answers no · `/refuse?status=200` too ·
// `/hang` never answers the handshake · `/__stats` counts. Every other plain request is answered as by `server.js web`.
"use strict";

const lib = require("./lib.js");

const options = lib.args("node ws_server.js [--id a] [--host 127.0.0.1] [--port 0] [--cert F --key F] [--protocols chat,superchat] …", {
  id: { type: "string", default: "a" },
  host: { type: "string", default: "127.0.0.1" },
  port: { type: "string", default: "0" },
  cert: { type: "string" },
  key: { type: "string" },
  protocols: { type: "string", default: "chat,superchat" }, // the first of the client's that is here is chosen
  "no-deflate": { type: "boolean", default: false },
});
const { id } = options;
const stats = { id, opened: 0, open: 0, refused: 0, messages: 0, bytes: 0, pings: 0, closed_by: {} };

const server = lib.createServer(options);
server.on("request", lib.web(id, () => stats));

const known = options.protocols.split(",");
const { WebSocketServer } = lib.load("v4", "ws");
const sockets = new WebSocketServer({
  noServer: true,
  maxPayload: 64 << 20,
  perMessageDeflate: options["no-deflate"] ? false : { threshold: 0 },
  handleProtocols: (offered) => [...offered].find((name) => known.includes(name)) ?? false,
});

server.on("upgrade", (req, raw, head) => {
  const url = new URL(req.url, "http://peer");
  raw.on("error", () => raw.destroy());
  if (url.pathname === "/hang") return;
  if (url.pathname === "/refuse") {
    stats.refused++;
    const body = `${id} refuses`;
    const status = url.searchParams.get("status") ?? "403";
    return raw.end(`HTTP/1.1 ${status} No\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
  }
  raw.cork();
  sockets.handleUpgrade(req, raw, head, (socket) => {
    if (url.pathname === "/greet") socket.send(`hello from ${id}`);
    serve(socket, req);
  });
  raw.uncork();
});

function serve(socket, req) {
  stats.opened++;
  stats.open++;
  const orders = {
    headers: () => socket.send(JSON.stringify({
      id, url: req.url, headers: req.headers, remote: req.socket.remoteAddress, protocol: socket.protocol, extensions: socket.extensions,
    })),
    close: ({ code = 1000, reason = "" }) => socket.close(code, reason),
    cut: () => socket.terminate(),
    ping: () => {
      socket.once("pong", () => socket.send("pong"));
      socket.ping();
    },
    fragments: ({ n = 3 }) => {
      for (let i = 1; i <= n; i++) socket.send(`${i} `, { fin: i === n });
    },
    send: ({ n = 1, size = 0 }) => {
      for (let i = 0; i < n; i++) socket.send(`${i}:`.padEnd(size, "x"));
    },
  };
  socket.on("message", (data, binary) => {
    stats.messages++;
    stats.bytes += data.length;
    const order = !binary && data.length < 1000 && parse(data.toString());
    if (order) orders[order.do](order);
    else socket.send(data, { binary });
  });
  socket.on("ping", () => stats.pings++);
  socket.on("error", (error) => process.stderr.write(`${id} error ${error.message}\n`));
  socket.on("close", (code) => {
    stats.open--;
    lib.count(stats.closed_by, code);
    process.stderr.write(`${id} close ${code}\n`);
  });

  function parse(text) {
    try {
      const order = JSON.parse(text);
      return order?.do in orders && order;
    } catch {
      return false;
    }
  }
}

lib.listen(server, options);
process.on("SIGTERM", () => {
  for (const socket of sockets.clients) socket.close(1001, "going away");
  server.close(() => process.exit(0));
});
