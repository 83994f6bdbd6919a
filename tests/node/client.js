// Real Socket.IO clients of one version: N sessions that talk, check every answer, and sum up in one JSON line.
//
// The exit code is 0 only when every session connected, upgraded if it could, got each answer complete and in order
// from one and the same server, and left without an accident. With --stay it is a puppet: it says a JSON line for
// each event and obeys JSON lines on stdin (see `stay`).
"use strict";

const { AsyncLocalStorage } = require("node:async_hooks");
const diagnostics = require("node:diagnostics_channel");
const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const readline = require("node:readline");
const lib = require("./lib.js");

const USAGE = "node client.js v4|v3|v2|v0.9 --url http://127.0.0.1:8000 [--transports polling,websocket] [--sessions 1] …";
const options = lib.args(USAGE, {
  url: { type: "string" },
  path: { type: "string", default: "/socket.io" },
  transports: { type: "string", default: "polling,websocket" },
  sessions: { type: "string", default: "1" },
  concurrency: { type: "string", default: "20" }, // sessions that connect and talk at once; all stay until the last has
  "local-addresses": { type: "string" }, // 127.0.0.2-127.0.0.60: session i comes from the i-th of them, round and round
  messages: { type: "string", default: "5" },
  payload: { type: "string", default: "text" }, // text | binary | big (1 MB)
  hold: { type: "string", default: "0" }, // ms that all stay connected after the last message; one more answer ends it
  timeout: { type: "string", default: "20000" }, // ms for each step of a session
  "keep-alive": { type: "boolean", default: false }, // reuse connections, as browsers do; Node's clients do not
  "allow-reconnect": { type: "boolean", default: false }, // a reconnect is no fault
  ca: { type: "string" },
  insecure: { type: "boolean", default: false },
  header: { type: "string", multiple: true }, // "Name: value", polling and WebSocket alike
  query: { type: "string", multiple: true }, // name=value, on every request
  deflate: { type: "boolean", default: false }, // permessage-deflate
  lose: { type: "boolean", default: false }, // when all have talked, they lose their connections at once and come back (v4)
  cookies: { type: "boolean", default: false }, // who comes back brings its cookies, as browsers do (v4)
  stay: { type: "boolean", default: false },
}, 1);
const [version] = options.positionals;
const transports = options.transports.split(",");
const patience = Number(options.timeout);
const expectsUpgrade = version !== "v0.9" && transports.indexOf("polling") === 0 && transports.includes("websocket");
if (!options.url) {
  process.stderr.write(`--url is missing\nusage: ${USAGE}\n`);
  process.exit(2);
}

/** Answers that are errors, with their text: no version of the client shows all of them to its user. */
const refusals = {};
diagnostics.channel("http.client.response.finish").subscribe(({ response }) => {
  if (response.statusCode < 400) return;
  let text = "";
  response.on("data", (chunk) => (text += chunk));
  response.on("close", () => {
    try {
      text = JSON.parse(text).message ?? text;
    } catch {
      // not Engine.IO's JSON: the text is the message
    }
    lib.count(refusals, `${response.statusCode} ${text.slice(0, 80)}`.trim());
  });
});
const unknownSessions = () =>
  Object.entries(refusals).reduce((sum, [text, n]) => sum + (/Session ID unknown|not handshaken/.test(text) ? n : 0), 0);

function localAddresses(range) {
  if (!range) return [undefined];
  const number = (address) => address.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
  const [first, last = first] = range.split("-").map(number);
  return Array.from({ length: last - first + 1 }, (_, i) => [24, 16, 8, 0].map((bits) => ((first + i) >> bits) & 255).join("."));
}
const addresses = localAddresses(options["local-addresses"]);

/** The promise, or a rejection naming `what` when patience ends first. */
function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`no ${what} within ${patience} ms`)), patience)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Sends an event and resolves with the acknowledgement. */
function ask(socket, event, ...payload) {
  return within(new Promise((resolve) => socket.emit(event, ...payload, resolve)), `answer to ${event}`);
}

const secure = options.url.startsWith("https:");

/** Connections of one session, and the cookies that came over them. */
class Agent extends (secure ? https : http).Agent {
  cookies = [];
  connections = new Set();

  addRequest(request, ...given) {
    const keep = ({ headers }) => this.cookies.push(...(headers["set-cookie"] ?? []).map((cookie) => cookie.split(";")[0]));
    request.once("response", keep).once("upgrade", keep);
    return super.addRequest(request, ...given);
  }

  createConnection(...given) {
    const connection = super.createConnection(...given);
    this.connections.add(connection);
    connection.once("close", () => this.connections.delete(connection));
    return connection;
  }
}
const tls = { ...(options.ca && { ca: fs.readFileSync(options.ca) }), rejectUnauthorized: !options.insecure };
const pairs = (list, separator) => Object.fromEntries((list ?? []).map((text) => {
  const at = text.indexOf(separator);
  return [text.slice(0, at).trim(), text.slice(at + 1).trim()];
}));
const reason = (error) => [error?.message ?? error, error?.description?.message ?? error?.description].filter(Boolean).join(": ");

/**
 * How the versions differ. `create` gives an unconnected socket, `engine` its session id and present transport,
 * `listen` tells `hear(kind, detail)` whatever befalls it.
 */
const modern = {
  create(localAddress) {
    return lib.load(version, "socket.io-client")(options.url, {
      path: options.path,
      transports,
      forceNew: true,
      autoConnect: false,
      timeout: patience,
      agent: new Agent({ keepAlive: options["keep-alive"], localAddress, ...(secure && tls) }),
      perMessageDeflate: options.deflate ? {} : false,
      ...(options.header && { extraHeaders: pairs(options.header, ":") }),
      ...(options.query && { query: pairs(options.query, "=") }),
      ...(secure && tls),
    });
  },
  open: (socket) => socket.open(),
  close: (socket) => socket.close(),
  engine(socket) {
    const { id: sid, transport } = socket.io.engine ?? {};
    return { sid, transport: transport?.name };
  },
  listen(socket, hear) {
    const manager = socket.io;
    socket.on("connect", () => hear("connect", modern.engine(socket)));
    socket.on("disconnect", (why) => hear("disconnect", { reason: why }));
    socket.on("connect_error", (error) => hear("connect_error", { message: reason(error) }));
    (version === "v2" ? socket : manager).on("reconnect", () => hear("reconnect", modern.engine(socket)));
    manager.on("open", () => {
      manager.engine.once("upgrade", (transport) => hear("upgrade", { transport: transport.name }));
      manager.engine.once("upgradeError", (error) => hear("upgrade_error", { message: reason(error) }));
    });
  },
};

const ancient = {
  create() {
    return lib.load(version, "socket.io-client").connect(options.url, {
      resource: options.path.slice(1),
      transports: transports.map((name) => (name === "polling" ? "xhr-polling" : name)),
      "force new connection": true,
      "auto connect": false,
      "connect timeout": patience,
      "reconnection limit": 5000,
      ...(options.query && { query: new URLSearchParams(pairs(options.query, "=")).toString() }),
    });
  },
  open: (socket) => socket.socket.connect(),
  close: (socket) => socket.socket.disconnect(),
  engine: (socket) => ({ sid: socket.socket.sessionid, transport: socket.socket.transport?.name }),
  listen(socket, hear) {
    socket.on("connect", () => hear("connect", ancient.engine(socket)));
    socket.on("disconnect", (why) => hear("disconnect", { reason: why ?? "transport close" }));
    socket.on("error", (error) => {
      if (error === "client not handshaken") lib.count(refusals, error);
      hear("connect_error", { message: reason(error) });
    });
    socket.on("connect_failed", () => hear("connect_error", { message: "connect_failed" }));
    socket.on("reconnect", () => hear("reconnect", ancient.engine(socket)));
  },
};
const { create, open, close, engine, listen } = version === "v0.9" ? ancient : modern;

/** 0.9 takes no agent and no TLS options: it gets them from Node's global agents, its address from where it is called. */
const source = new AsyncLocalStorage();
if (version === "v0.9") {
  require("./v0.9/shim.js");
  const from = (Agent) => class extends Agent {
    addRequest(req, given) {
      super.addRequest(req, { ...given, localAddress: source.getStore() });
    }
  };
  http.globalAgent = new (from(http.Agent))({ keepAlive: options["keep-alive"] });
  https.globalAgent = new (from(https.Agent))({ keepAlive: options["keep-alive"], ...tls });
  if (options.payload === "binary" || options.header) {
    process.stderr.write("0.9 knows no binary events, and its client no extra headers\n");
    process.exit(2);
  }
}

const summary = {
  version, sessions: Number(options.sessions), connected: 0, upgraded: 0, p95_upgrade_ms: null,
  transports: {}, servers: {}, server_changes: 0,
  reconnects: 0, recovered: 0, disconnects: {}, connect_errors: {}, upgrade_errors: {}, refusals, session_id_unknown: 0,
  messages: 0, out_of_order: 0, bad_payload: 0, failures: {}, elapsed_ms: 0, ok: false,
};

/** The n-th message of a session: its number leads, so that a misplaced answer shows. */
function payload(n) {
  if (options.payload === "binary") return Buffer.concat([Buffer.from([n >> 8, n & 255]), Buffer.alloc(1000, n)]);
  const some = version === "v0.9" ? "ascii" : "é…"; // 0.9 breaks characters that a chunk boundary cuts
  return `${n}:` + some.repeat(options.payload === "big" ? 200_000 : 20); // 1 MB, or 100 bytes
}

const same = (sent, got) => (typeof sent === "string" ? sent === got : Buffer.isBuffer(got) && sent.equals(got));

/** A session that adds what it lives through to the summary. */
class Session {
  constructor(i) {
    this.address = addresses[i % addresses.length];
    this.socket = create(this.address);
    this.leaving = false;
    this.connected = new Promise((resolve) => (this.onConnect = resolve));
    this.upgraded = new Promise((resolve) => (this.onUpgrade = resolve));
    listen(this.socket, (kind, detail) => this.hear(kind, detail));
  }

  hear(kind, { message, reason }) {
    if (kind === "connect") this.onConnect();
    if (kind === "upgrade") this.onUpgrade(Date.now() - this.started);
    if (kind === "reconnect") summary.reconnects++;
    if (kind === "connect_error") lib.count(summary.connect_errors, message);
    if (kind === "upgrade_error") lib.count(summary.upgrade_errors, message);
    if (kind === "disconnect" && !this.leaving) lib.count(summary.disconnects, reason);
  }

  async talk() {
    this.started = Date.now();
    open(this.socket);
    await within(this.connected, "connect");
    summary.connected++;
    this.server = await ask(this.socket, "who");
    lib.count(summary.servers, this.server);
    const total = Number(options.messages);
    const window = options.payload === "big" ? 1 : 4;
    for (let n = 0; n < total; n += window) {
      const some = Array.from({ length: Math.min(window, total - n) }, (_, k) => this.exchange(n + k));
      await Promise.all(some);
    }
    if (expectsUpgrade) upgradeTimes.push(await within(this.upgraded, "upgrade"));
    lib.count(summary.transports, engine(this.socket).transport);
  }

  /** An echo and a numbered message, each answer held against its question. */
  async exchange(n) {
    const sent = payload(n);
    const [echo, seq] = await Promise.all([ask(this.socket, "echo", sent), ask(this.socket, "seq", n)]);
    this.answered = (this.answered ?? -1) + 1;
    if (this.answered !== n || seq.n !== n || seq.count !== n + 1) summary.out_of_order++;
    if (!same(sent, echo)) summary.bad_payload++;
    if (seq.id !== this.server) summary.server_changes++;
    summary.messages++;
  }

  /** Gets a message, which is what a state can be recovered from. */
  async hearSomething() {
    const heard = new Promise((resolve) => this.socket.once("push", resolve));
    await Promise.all([ask(this.socket, "push", 1), within(heard, "push")]);
  }

  /** Loses its connections, as behind a router that starts anew, and comes back. */
  async lose() {
    const { agent } = this.socket.io.opts;
    const back = new Promise((resolve) => this.socket.once("connect", resolve));
    if (options.cookies) this.socket.io.opts.extraHeaders = { cookie: agent.cookies.join("; ") };
    agent.connections.forEach((connection) => connection.destroy());
    await within(back, "way back");
    if (this.socket.recovered) summary.recovered++;
  }

  async lookOnceMore() {
    if (this.server && (await ask(this.socket, "who")) !== this.server) summary.server_changes++;
  }

  leave() {
    this.leaving = true;
    close(this.socket);
  }
}

const upgradeTimes = [];

async function batch() {
  const started = Date.now();
  const fault = (error) => lib.count(summary.failures, error.message);
  const sessions = Array.from({ length: summary.sessions }, (_, i) => new Session(i));
  const waiting = [...sessions];
  const lane = async () => {
    for (let next; (next = waiting.shift()); ) await source.run(next.address, () => next.talk()).catch(fault);
  };
  await Promise.all(Array.from({ length: Number(options.concurrency) }, lane));
  if (options.lose) {
    const all = (step) => Promise.all(sessions.map((one) => source.run(one.address, () => step(one)).catch(fault)));
    await all((one) => one.hearSomething());
    await all((one) => one.lose());
  }
  await new Promise((resolve) => setTimeout(resolve, Number(options.hold)));
  await Promise.all(sessions.map((one) => source.run(one.address, () => one.lookOnceMore()).catch(fault)));
  // A poll may be on its way while its session says goodbye on another connection: that it comes too late is no fault.
  summary.refusals = { ...refusals };
  summary.session_id_unknown = unknownSessions();
  sessions.forEach((one) => source.run(one.address, () => one.leave()));

  upgradeTimes.sort((a, b) => a - b);
  summary.upgraded = upgradeTimes.length;
  summary.p95_upgrade_ms = upgradeTimes[Math.ceil(upgradeTimes.length * 0.95) - 1] ?? null;
  summary.elapsed_ms = Date.now() - started;
  summary.ok = verdict();
  lib.say(summary);
  finish(summary.ok ? 0 : 1);
}

/** Ends once the last goodbye is sent, or after two seconds. */
function finish(code) {
  process.exitCode = code;
  process.stdin.removeAllListeners().destroy();
  setTimeout(() => process.exit(code), 2000).unref();
}

function verdict() {
  const none = (histogram) => Object.keys(histogram).length === 0;
  const { sessions, connected, upgraded, messages, out_of_order, bad_payload, failures } = summary;
  const complete = connected === sessions && messages === sessions * Number(options.messages) && (!expectsUpgrade || upgraded === sessions);
  const calm = summary.reconnects === (options.lose ? sessions : 0) && !summary.server_changes && (options.lose || none(summary.disconnects))
    && none(summary.connect_errors) && none(summary.upgrade_errors) && none(summary.refusals);
  return complete && !out_of_order && !bad_payload && none(failures) && (calm || options["allow-reconnect"]);
}

/**
 * The puppet. It connects at once and says {"event":"connect"|"upgrade"|"disconnect"|"connect_error"|"reconnect"|"push"|…}
 * lines; an event from the server is {"event":"message","name":…,"args":…}. It obeys:
 * {"do":"connect"} · {"do":"emit","name":"echo","args":[…],"tag":1} (the answer is {"event":"ack","tag":1,"args":[…]}) ·
 * {"do":"disconnect"} says goodbye to the server · {"do":"cut"} leaves without a word, as a closed tab does · {"do":"quit"}.
 */
function stay() {
  const hear = (event, detail = {}) => lib.say({ event, ...detail });
  const socket = create(addresses[0]);
  listen(socket, hear);
  hearMessages(socket, (name, given) => hear("message", { name, args: given }));
  const orders = {
    connect: () => open(socket),
    disconnect: () => close(socket),
    cut: () => process.exit(0),
    quit: () => {
      close(socket);
      finish(0);
    },
    emit: ({ name, args = [], tag }) =>
      tag === undefined ? socket.emit(name, ...args) : socket.emit(name, ...args, (...given) => hear("ack", { tag, args: given })),
  };
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    try {
      const order = JSON.parse(line);
      source.run(addresses[0], () => orders[order.do](order));
    } catch (error) {
      hear("misunderstood", { line, message: error.message });
    }
  });
  process.stdin.on("end", () => process.exit(0));
  source.run(addresses[0], () => open(socket));
}

/** Tells of every event the server emits; no version but 3 and 4 has a listener for that. */
function hearMessages(socket, hear) {
  if (socket.onAny) return socket.onAny((name, ...given) => hear(name, given));
  const method = version === "v2" ? "onevent" : "onPacket";
  const original = socket[method];
  socket[method] = function (packet) {
    if (version === "v2") hear(packet.data[0], packet.data.slice(1));
    else if (packet.type === "event") hear(packet.name, packet.args);
    return original.call(this, packet);
  };
}

if (options.stay) stay();
else batch();
