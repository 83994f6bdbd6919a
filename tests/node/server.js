// A real Socket.IO server of one version, or a plain web server (`web`), that tells what it saw and who it is.
//
// It says {"port":…,"id":…} on stdout once it listens, logs one line per event on stderr, counts in `/__stats`,
// and ends when its stdin closes. SIGTERM closes it the way an application would: sessions are told goodbye.
"use strict";

const lib = require("./lib.js");

const USAGE = "node server.js v4|v3|v2|v0.9|web [--id a] [--host 127.0.0.1] [--port 0] [--path /socket.io] [--cert F --key F] …";
const options = lib.args(USAGE, {
  id: { type: "string", default: "a" },
  host: { type: "string", default: "127.0.0.1" },
  port: { type: "string", default: "0" },
  path: { type: "string", default: "/socket.io" },
  cert: { type: "string" },
  key: { type: "string" },
  "ping-interval": { type: "string" }, // ms; like all that follows, the version's own default unless given
  "ping-timeout": { type: "string" }, // ms
  transports: { type: "string" },
  "max-payload": { type: "string", default: "10000000" }, // bytes; Socket.IO 4's own default would refuse a 1 MB echo
  "no-eio3": { type: "boolean", default: false }, // v4 and v3 accept Engine.IO 3 clients unless told not to
  cookie: { type: "string" }, // name of the cookie the handshake sets
  cors: { type: "boolean", default: false },
  deflate: { type: "boolean", default: false }, // permessage-deflate
  greeting: { type: "string" }, // bytes of a first event inside the handshake's answer, which then may be compressed (v4, v3)
  recovery: { type: "boolean", default: false }, // connection state recovery (v4)
  "policy-port": { type: "string", default: "-1" }, // v0.9's own Flash policy server; the HTTP port answers them anyway
}, 1);
const [version] = options.positionals;
const { id } = options;

const stats = {
  id, version, pid: process.pid,
  connections: 0, connections_open: 0, // TCP
  requests: 0, status: {},
  sessions_opened: 0, sessions_open: 0, opened_by: {}, closed_by: {},
  upgrades: 0, transport_errors: 0, refused: {}, // refused: by Engine.IO code, "1 Session ID unknown"
  polls_open: 0, polls_done: 0, polls_aborted: 0, // long polls; aborted: the peer went away before the answer
  events: 0, recovered: 0,
};
const log = (...words) => process.stderr.write(`${id} ${words.join(" ")}\n`);

/** What an application does; the same for every version. */
function application(socket, io, headers, remote) {
  let counted = 0;
  const on = (event, answer) => socket.on(event, (...given) => {
    stats.events++;
    const ack = typeof given.at(-1) === "function" ? given.pop() : () => {};
    answer(ack, ...given);
  });
  on("who", (ack) => ack(id));
  on("echo", (ack, payload) => ack(payload));
  on("headers", (ack) => ack({ id, headers, remote }));
  // Counts per session, so that a lost, doubled or reordered message shows.
  on("seq", (ack, n) => ack({ id, n, count: ++counted }));
  on("broadcast", (ack, payload) => {
    io.emit("broadcast", { id, payload });
    ack(id);
  });
  on("push", (ack, n, size = 0) => {
    for (let i = 0; i < n; i++) socket.emit("push", i, "x".repeat(size));
    ack(n);
  });
  on("kick", () => socket.disconnect(true));
}

/** Engine.IO's own view of sessions, alike in v2, v3 and v4. */
function observe(engine) {
  engine.on("connection", (session) => {
    const born = session.transport.name;
    stats.sessions_opened++;
    stats.sessions_open++;
    lib.count(stats.opened_by, born);
    log("open", session.id, born, `EIO=${session.protocol ?? 3}`, session.request.connection.remoteAddress);
    session.on("upgrade", (transport) => {
      stats.upgrades++;
      log("upgrade", session.id, transport.name);
    });
    session.on("close", (reason, description) => {
      stats.sessions_open--;
      lib.count(stats.closed_by, reason);
      if (reason === "transport error") stats.transport_errors++;
      log("close", session.id, session.transport.name, reason, description?.message ?? "");
    });
  });
  const refused = (code, message) => {
    lib.count(stats.refused, `${code} ${message}`);
    log("refuse", code, message);
  };
  if (version === "v4") {
    engine.on("connection_error", ({ code, message }) => refused(code, message));
  } else {
    // Before 4.1 nobody is told: look over verify's shoulder.
    const { verify } = engine;
    engine.verify = (req, upgrade, done) => verify.call(engine, req, upgrade, (code, ok) => {
      if (!ok) refused(code, engine.constructor.errorMessages[code]);
      done(code, ok);
    });
  }
}

function modern(server) {
  const socketio = lib.load(version, "socket.io");
  const io = (socketio.Server ? (...given) => new socketio.Server(...given) : socketio)(server, {
    path: options.path,
    ...(options["ping-interval"] && { pingInterval: Number(options["ping-interval"]) }),
    ...(options["ping-timeout"] && { pingTimeout: Number(options["ping-timeout"]) }),
    maxHttpBufferSize: Number(options["max-payload"]),
    serveClient: false,
    perMessageDeflate: options.deflate,
    cookie: options.cookie ? (version === "v2" ? options.cookie : { name: options.cookie }) : false,
    ...(version !== "v2" && { allowEIO3: !options["no-eio3"] }),
    ...(options.transports && { transports: options.transports.split(",") }),
    ...(options.cors && version !== "v2" && { cors: { origin: true, credentials: true } }),
    ...(options.greeting && { initialPacket: `2["greeting","${"x".repeat(Number(options.greeting))}"]` }),
    ...(options.recovery && { connectionStateRecovery: {} }),
  });
  observe(io.engine);
  io.on("connection", (socket) => {
    if (socket.recovered) stats.recovered++;
    application(socket, io, socket.handshake.headers, socket.handshake.address);
  });
  return () => io.close();
}

/** Socket.IO 0.9: no engine beneath, so its own events and log are all there is to observe. */
function ancient(server) {
  require("./v0.9/shim.js").loosen(server);
  const seconds = (ms) => Number(ms) / 1000;
  const refused = (...words) => {
    if (!String(words[0]).startsWith("client not handshaken")) return;
    lib.count(stats.refused, "client not handshaken");
    log("refuse", ...words);
  };
  const quiet = () => {};
  const io = lib.load(version, "socket.io").listen(server, {
    logger: { error: quiet, warn: refused, info: quiet, debug: quiet },
    resource: options.path,
    transports: options.transports?.split(",") ?? ["websocket", "flashsocket", "htmlfile", "xhr-polling", "jsonp-polling"],
    "browser client": false,
    "flash policy port": Number(options["policy-port"]),
    ...(options["ping-interval"] && { "heartbeat interval": seconds(options["ping-interval"]) }),
    ...(options["ping-timeout"] && { "heartbeat timeout": seconds(options["ping-timeout"]) }),
  });
  io.sockets.on("connection", (socket) => {
    const { name } = io.transports[socket.id];
    stats.sessions_opened++;
    stats.sessions_open++;
    lib.count(stats.opened_by, name);
    log("open", socket.id, name, socket.handshake.address.address);
    socket.on("disconnect", (reason) => {
      stats.sessions_open--;
      lib.count(stats.closed_by, reason);
      log("close", socket.id, name, reason);
    });
    application(socket, io.sockets, socket.handshake.headers, socket.handshake.address.address);
  });
  return () => io.sockets.clients().forEach((socket) => socket.disconnect());
}

/** Sees every request before Socket.IO does, and which of them are long polls. */
function watch(server) {
  const secure = Boolean(options.cert);
  server.on(secure ? "secureConnection" : "connection", (socket) => {
    stats.connections++;
    stats.connections_open++;
    socket.on("close", () => stats.connections_open--);
  });
  const prefix = options.path.replace(/\/?$/, "/");
  const longPoll = version === "v0.9" ? /^1\/(xhr-polling|jsonp-polling|htmlfile)\// : /^\?.*\bsid=/;
  server.prependListener("request", (req, res) => {
    stats.requests++;
    const poll = req.method === "GET" && req.url.startsWith(prefix) && longPoll.test(req.url.slice(prefix.length));
    if (poll) stats.polls_open++;
    res.on("close", () => {
      if (poll) stats.polls_open--;
      if (!res.writableFinished) {
        if (poll) stats.polls_aborted++;
        if (poll) log("abort", req.url);
        return;
      }
      if (poll) stats.polls_done++;
      lib.count(stats.status, res.statusCode);
    });
  });
}

const server = lib.createServer(options);
server.on("request", lib.web(id, () => stats));
const attach = { v4: modern, v3: modern, v2: modern, "v0.9": ancient, web: () => () => server.close() }[version];
if (!attach) {
  process.stderr.write(`unknown version ${version}\nusage: ${USAGE}\n`);
  process.exit(2);
}
const close = attach(server);
watch(server);
lib.listen(server, options);
process.on("SIGTERM", () => {
  log("goodbye");
  close();
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
