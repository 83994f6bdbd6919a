// Many clients of the Model Context Protocol by the official TypeScript SDK, version 1 (`mcp1`) or 2 (`mcp2`).
//
// It opens its sessions and says a line of JSON; then each line on stdin has all of them do something at once, and says a line
// of what came of it: `call` calls the tool with progress, `renew` opens a new session for those whose call failed, `close` ends
// all sessions (DELETE). It ends when its stdin does.
"use strict";

const path = require("node:path");
const readline = require("node:readline");
const { createRequire } = require("node:module");
const lib = require("./lib.js");

const options = lib.args("node mcp_client.js mcp1|mcp2 --url URL[,URL] [--sessions 10] [--mode legacy] [--sse]", {
  url: { type: "string" }, // each session takes the next one; its calls go to all of them in turn
  sessions: { type: "string", default: "10" },
  mode: { type: "string", default: "legacy" }, // of version 2: legacy or auto, which speaks 2026-07-28 with those that do
  sse: { type: "boolean", default: false }, // by the transport of 2024-11-05
}, 1);
const [version] = options.positionals;
const need = createRequire(path.join(__dirname, version, "package.json"));
const urls = options.url.split(",");

function sdk() {
  if (version === "mcp2") return need("@modelcontextprotocol/client");
  return {
    ...need("@modelcontextprotocol/sdk/client/index.js"),
    ...need("@modelcontextprotocol/sdk/client/streamableHttp.js"),
    ...need("@modelcontextprotocol/sdk/client/sse.js"),
  };
}
const { Client, StreamableHTTPClientTransport, SSEClientTransport } = sdk();

const faults = {};
const note = (error) => {
  const text = String(error?.message ?? error).replace(/[0-9a-f-]{32,36}/g, "ID").slice(0, 160);
  faults[text] = (faults[text] ?? 0) + 1;
};

class Session {
  constructor(number) {
    Object.assign(this, { number, calls: 0, sent: 0, server: undefined });
  }

  async open() {
    // Each request by the next gateway, as behind a balancer that keeps nothing.
    const fetchNext = (url, init) => {
      const to = new URL(url);
      const base = new URL(urls[(this.number + this.sent++) % urls.length]);
      [to.protocol, to.host] = [base.protocol, base.host];
      return fetch(to, init);
    };
    const url = new URL(urls[this.number % urls.length]);
    const said = urls.length > 1 ? { fetch: fetchNext } : {};
    this.transport = options.sse ? new SSEClientTransport(url) : new StreamableHTTPClientTransport(url, said);
    const negotiation = options.mode === "legacy" ? {} : { versionNegotiation: { mode: options.mode } };
    this.client = new Client({ name: "client", version: "1.0.0" }, negotiation);
    this.client.onerror = () => {};
    this.calls = 0;
    await this.client.connect(this.transport);
  }

  async call() {
    let progress = 0;
    const asked = { name: "who", arguments: {} };
    const watch = { onprogress: () => progress++, timeout: 20000 };
    const answer = version === "mcp2" ? this.client.callTool(asked, watch) : this.client.callTool(asked, undefined, watch);
    const { id, calls } = JSON.parse((await answer).content[0].text);
    this.calls++;
    const before = this.server;
    this.server = id;
    return { id, moved: before !== undefined && before !== id, lost: calls !== this.calls, progress };
  }
}

const sessions = Array.from({ length: Number(options.sessions) }, (_, number) => new Session(number));

async function all(some, deed) {
  const done = await Promise.allSettled(some.map(deed));
  done.filter(({ status }) => status === "rejected").forEach(({ reason }) => note(reason));
  some.forEach((session, at) => session.failed = done[at].status === "rejected");
  return done.filter(({ status }) => status === "fulfilled").map(({ value }) => value);
}

const deeds = {
  async open() {
    return { opened: (await all(sessions, (session) => session.open())).length };
  },
  async call() {
    // In any order: by that of their opening, servers that take turns would seem to know them.
    const order = sessions.map((session) => ({ session, place: Math.random() })).sort((a, b) => a.place - b.place);
    const called = await all(order.map(({ session }) => session), (session) => session.call());
    const servers = {};
    called.forEach(({ id }) => servers[id] = (servers[id] ?? 0) + 1);
    const count = (what) => called.filter(what).length;
    return {
      called: called.length,
      moved: count(({ moved }) => moved),
      lost: count(({ lost }) => lost),
      progress: called.reduce((sum, { progress }) => sum + progress, 0),
      servers,
    };
  },
  async renew() {
    const failed = sessions.filter((session) => session.failed);
    await Promise.allSettled(failed.map((session) => session.client.close()));
    failed.forEach((session) => session.server = undefined);
    return { opened: (await all(failed, (session) => session.open())).length, failed: failed.length };
  },
  async close() {
    const end = async ({ client, transport }) => {
      await transport.terminateSession?.();
      await client.close();
    };
    return { closed: (await all(sessions, end)).length };
  },
};

async function run(deed) {
  const outcome = await deeds[deed]();
  lib.say({ ...outcome, faults: { ...faults } });
  Object.keys(faults).forEach((text) => delete faults[text]);
}

run("open").then(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) await run(line.trim());
  process.exit(0);
});
