// A SockJS server by the npm package `sockjs`: it tells each session who serves it, and echoes what it says.
//
// It says {"port":…,"id":…} on stdout once it listens, counts in `/__stats`, and ends when its stdin closes.
"use strict";

const http = require("node:http");
const path = require("node:path");
const { createRequire } = require("node:module");
const lib = require("./lib.js");

const options = lib.args("node sockjs_server.js [--id a] [--host 127.0.0.1] [--port 0]", {
  id: { type: "string", default: "a" },
  host: { type: "string", default: "127.0.0.1" },
  port: { type: "string", default: "0" },
});
const { id } = options;
const need = createRequire(path.join(__dirname, "sockjs", "package.json"));
const sockjs = need("sockjs");

// `waiting`: receivers that listen.
const stats = { id, opened: 0, open: 0, messages: 0, questions: 0, unknown: 0, waiting: 0, raw: 0 };
const service = sockjs.createServer({
  sockjs_url: "/client.js",
  log: () => {},
  transports: ["websocket", "xhr-streaming", "xhr-polling", "eventsource", "htmlfile", "jsonp-polling"],
});
service.on("connection", (connection) => {
  if (!connection) return;
  if (connection.prefix && /\/websocket$/.test(connection.pathname) && connection.pathname === `${connection.prefix}/websocket`) stats.raw++;
  stats.opened++;
  stats.open++;
  connection.write(JSON.stringify({ hello: id }));
  connection.on("data", (text) => {
    stats.messages++;
    if (text === "leave") return connection.close(3000, "Go away!");
    connection.write(JSON.stringify({ id, echo: text }));
  });
  connection.on("close", () => stats.open--);
});

const server = http.createServer();
service.installHandlers(server, { prefix: "/echo" });
const handlers = server.listeners("request");
server.removeAllListeners("request");
server.on("request", (req, res) => {
  const { pathname } = new URL(req.url, "http://localhost");
  if (pathname === "/__stats") return lib.json(res, stats);
  if (pathname === "/client.js") {
    res.writeHead(200, { "Content-Type": "text/javascript" });
    return res.end(require("node:fs").readFileSync(need.resolve("sockjs-client/dist/sockjs.min.js")));
  }
  if (pathname === "/page") {
    res.writeHead(200, { "Content-Type": "text/html" });
    return res.end('<!doctype html><meta charset="utf-8"><title>SockJS</title><script src="/client.js"></script>');
  }
  const [, , , session, transport] = pathname.split("/");
  if (session && ["xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp"].includes(transport)) {
    stats.waiting++;
    res.on("close", () => stats.waiting--);
  }
  if (transport === "xhr_send") {
    let body = "";
    req.on("data", (part) => { body += part; });
    const both = () => {
      if (!res.writableFinished || !req.readableEnded) return;
      if (body === "[]") stats.questions++;
      else if (res.statusCode === 404) stats.unknown++;
    };
    res.on("finish", both);
    req.on("end", both);
  }
  for (const handler of handlers) handler.call(server, req, res);
});
lib.listen(server, options);
