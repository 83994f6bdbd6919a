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

/** Starts a server; it ends with its stdin, when `stop` is called. */
async function serve(...args) {
  const child = spawn("node", [here("server.js"), ...args], { stdio: ["pipe", "pipe", "pipe"] });
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

for (const [server, client] of pairs) {
  const skip = client === "python" && !fs.existsSync(python) && "python-socketio is not installed: scripts/node-deps";
  for (const offered of transports) {
    for (const scheme of ["http", "https"]) {
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
  const skip = client === "python" && !fs.existsSync(python) && "python-socketio is not installed: scripts/node-deps";
  test(`polling without affinity is noticed by ${client} clients of ${server} servers`, { skip }, async () => {
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
