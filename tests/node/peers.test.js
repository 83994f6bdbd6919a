// The peers against each other, with nothing in between: what fails here is no gateway's fault.
// Run: scripts/node-deps && node --test tests/node
"use strict";

const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");
const readline = require("node:readline");
const { after, before, test } = require("node:test");

const here = (name) => path.join(__dirname, name);
const python = here("../python/.venv/bin/python");
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "peers-"));
const cert = path.join(folder, "cert.pem");
const key = path.join(folder, "key.pem");

before(() => {
  const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
  execFileSync("openssl", ["req", "-x509", ...curve, "-nodes", "-days", "2", ...subject, "-keyout", key, "-out", cert], { stdio: "pipe" });
});
after(() => fs.rmSync(folder, { recursive: true }));

const children = [];
after(() => children.forEach((child) => child.kill()));

/** Starts a server, of sessions unless it is `ws`; it ends with its stdin, when `stop` is called. */
async function serve(version, ...args) {
  const program = version === "ws" ? [here("ws_server.js")] : [here("server.js"), version];
  const child = spawn("node", [...program, ...args], { stdio: ["pipe", "pipe", "pipe"] });
  children.push(child);
  const log = [];
  readline.createInterface({ input: child.stderr }).on("line", (line) => log.push(line));
  const [line] = await new Promise((resolve) => readline.createInterface({ input: child.stdout }).once("line", (...all) => resolve(all)));
  const { port } = JSON.parse(line);
  const stop = () => new Promise((resolve) => child.once("exit", resolve) && child.stdin.end());
  const stats = async () => (await fetch(`http://127.0.0.1:${port}/__stats`)).json();
  return { port, log, stats, stop };
}

/** Runs a batch of clients and gives its summary with the exit code in it. */
async function batch(version, ...args) {
  const [program, ...head] = version === "python" ? [python, here("../python/client.py")] : ["node", here("client.js"), version];
  const child = spawn(program, [...head, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (chunk) => (text += chunk));
  const code = await new Promise((resolve) => child.on("close", resolve));
  return { ...JSON.parse(text), code };
}

const pairs = [
  ["v4", "v4"], ["v4", "v3"], ["v4", "v2"], ["v4", "python"],
  ["v3", "v3"], ["v3", "v2"], ["v2", "v2"], ["v0.9", "v0.9"],
];
const transports = ["polling", "websocket", "polling,websocket"];
const addresses = ["--local-addresses", "127.0.0.2-127.0.0.60"];

const missing = (client) => client === "python" && !fs.existsSync(python) && "python-socketio is not installed: scripts/node-deps";

for (const [server, client] of pairs) {
  const skip = missing(client);
  for (const offered of transports) {
    for (const scheme of ["http", "https"]) {
      if (client === "python" && scheme === "https" && offered !== "polling") continue; // see tests/python/client.py
      test(`${client} clients talk to a ${server} server by ${offered} over ${scheme}`, { skip }, async () => {
        const secure = scheme === "https";
        const { port, log, stop } = await serve(server, ...(secure ? ["--cert", cert, "--key", key] : []));
        const trust = secure ? ["--ca", cert] : [];
        const url = `${scheme}://127.0.0.1:${port}`;
        const got = await batch(client, "--url", url, "--transports", offered, "--sessions", "60", ...addresses, ...trust);
        await stop();
        assert.equal(got.code, 0, JSON.stringify(got));
        assert.deepEqual([got.connected, got.messages, got.servers], [60, 300, { a: 60 }]);
        const sources = new Set(log.filter((line) => line.includes(" open ")).map((line) => line.split(" ").at(-1)));
        assert.equal(sources.size, 59, `sources seen by the server: ${[...sources]}`);
      });
    }
    for (const payload of server === "v0.9" ? ["big"] : ["binary", "big"]) {
      test(`${client} clients get ${payload} payloads back from a ${server} server by ${offered}`, { skip }, async () => {
        const { port, stop } = await serve(server);
        const size = payload === "big" ? ["--sessions", "2", "--messages", "2"] : ["--sessions", "10"];
        const got = await batch(client, "--url", `http://127.0.0.1:${port}`, "--transports", offered, "--payload", payload, ...size);
        await stop();
        assert.equal(got.code, 0, JSON.stringify(got));
      });
    }
  }
}

/** A balancer without affinity: each new connection goes to the next port. */
async function roundRobin(ports) {
  let next = 0;
  const proxy = net.createServer((client) => {
    const server = net.connect(ports[next++ % ports.length], "127.0.0.1");
    client.pipe(server).pipe(client);
    for (const socket of [client, server]) socket.on("error", () => (client.destroy(), server.destroy()));
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return { port: proxy.address().port, stop: () => proxy.close() };
}

for (const [server, client] of pairs) {
  test(`polling without affinity is noticed by ${client} clients of ${server} servers`, { skip: missing(client) }, async () => {
    const servers = await Promise.all([serve(server, "--id", "a"), serve(server, "--id", "b")]);
    const proxy = await roundRobin(servers.map(({ port }) => port));
    const url = `http://127.0.0.1:${proxy.port}`;
    const got = await batch(client, "--url", url, "--transports", "polling", "--sessions", "4", "--timeout", "2000");
    const refused = (await Promise.all(servers.map(({ stats }) => stats()))).map((stats) => stats.refused);
    proxy.stop();
    await Promise.all(servers.map(({ stop }) => stop()));
    assert.equal(got.code, 1);
    assert.ok(got.session_id_unknown > 0, JSON.stringify(got));
    assert.match(JSON.stringify(refused), /Session ID unknown|client not handshaken/);
  });
}

/** A client that obeys: `next(event)` resolves with its next such event, `order` steers it. */
function puppet(version, ...args) {
  const program = version === "python" ? [python, here("../python/client.py")] : ["node", here("client.js"), version];
  const child = spawn(program[0], [...program.slice(1), "--stay", ...args], { stdio: ["pipe", "pipe", "inherit"] });
  children.push(child);
  const heard = [];
  let wake = () => {};
  readline.createInterface({ input: child.stdout }).on("line", (line) => (heard.push(JSON.parse(line)), wake()));
  return {
    order: (order) => child.stdin.write(JSON.stringify(order) + "\n"),
    exited: new Promise((resolve) => child.once("exit", resolve)),
    async next(event) {
      for (;;) {
        const at = heard.findIndex((one) => one.event === event);
        if (at >= 0) return heard.splice(0, at + 1).at(-1);
        await new Promise((resolve) => (wake = resolve));
      }
    },
  };
}

for (const [server, client] of pairs) {
  test(`a ${client} client of a ${server} server obeys orders and tells what befalls it`, { skip: missing(client), timeout: 20000 }, async () => {
    const { port, stats, stop } = await serve(server, "--id", "z");
    const one = puppet(client, "--url", `http://127.0.0.1:${port}`, "--transports", "polling");
    assert.match((await one.next("connect")).transport, /polling/);
    one.order({ do: "emit", name: "echo", args: ["hé"], tag: 1 });
    assert.deepEqual(await one.next("ack"), { event: "ack", tag: 1, args: ["hé"] });
    one.order({ do: "emit", name: "push", args: [1] });
    assert.deepEqual((await one.next("message")).name, "push");
    const until = async (name, value) => {
      while ((await stats())[name] !== value) await new Promise(setImmediate);
    };
    one.order({ do: "disconnect" });
    await one.next("disconnect");
    await until("sessions_open", 0); // a client of 2 or 3 that connects while it still says goodbye loses both
    one.order({ do: "connect" });
    await one.next("connect");
    await until("polls_open", 1);
    const before = (await stats()).polls_aborted;
    one.order({ do: "cut" });
    assert.equal(await one.exited, 0);
    await until("polls_aborted", before + 1);
    if (server !== "v0.9") await until("sessions_open", 0); // 0.9 waits out its close timeout of a minute
    assert.equal((await stats()).sessions_opened, 2);
    await stop();
  });
}

test("the plain WebSocket server greets at once, chooses a subprotocol, compresses, refuses and closes as told", { timeout: 20000 }, async () => {
  const { WebSocket } = require("./v4/node_modules/ws");
  const { port, stats, stop } = await serve("ws");
  const at = `ws://127.0.0.1:${port}`;
  const first = (socket, event) => new Promise((resolve) => socket.once(event, (...all) => resolve(all)));

  const raw = net.connect(port, "127.0.0.1");
  raw.write("GET /greet HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
  const [segment] = await first(raw, "data");
  assert.match(segment.toString("latin1"), /^HTTP\/1.1 101 [^]*\r\n\r\n\x81\x0chello from a$/);
  raw.destroy();

  const socket = new WebSocket(at, ["unknown", "superchat"], { origin: "http://example.com" });
  await first(socket, "open");
  assert.deepEqual([socket.protocol, socket.extensions], ["superchat", "permessage-deflate"]);
  const ask = async (what) => (socket.send(what), (await first(socket, "message"))[0].toString());
  assert.equal(await ask("{}"), "{}");
  assert.equal(JSON.parse(await ask('{"do":"headers"}')).headers.origin, "http://example.com");
  assert.equal(await ask('{"do":"ping"}'), "pong");
  assert.equal(await ask('{"do":"fragments","n":3}'), "1 2 3 ");
  socket.send('{"do":"close","code":4001,"reason":"enough"}');
  const [code, why] = await first(socket, "close");
  assert.deepEqual([code, why.toString()], [4001, "enough"]);

  const refused = new WebSocket(`${at}/refuse?status=401`);
  const [, answer] = await first(refused, "unexpected-response");
  assert.equal(answer.statusCode, 401);
  answer.destroy();
  assert.equal((await stats()).refused, 1);
  await stop();
});
