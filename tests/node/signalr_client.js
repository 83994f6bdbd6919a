// Connections by the official client of SignalR, over one transport, and over any number of gateways in turn. It says how many have
// opened, and then does what its stdin asks for: `call`, `left`, `cut`, `stop`.
"use strict";

const path = require("node:path");
const http = require("node:http");
const readline = require("node:readline");
const { createRequire } = require("node:module");
const lib = require("./lib.js");

const options = lib.args("node signalr_client.js --url URL[,URL…] [--transport websocket] [--connections 1]", {
  url: { type: "string" },
  transport: { type: "string", default: "websocket" },
  connections: { type: "string", default: "1" },
  packed: { type: "boolean", default: false }, // MessagePack
  stateful: { type: "boolean", default: false },
  skip: { type: "boolean", default: false }, // no negotiation
  query: { type: "string", default: "" },
});
const need = createRequire(path.join(__dirname, "signalr", "package.json"));
const signalr = need("@microsoft/signalr");
const { MessagePackHubProtocol } = need("@microsoft/signalr-protocol-msgpack");
const { HttpTransportType: Type } = signalr;

const transport = { websocket: Type.WebSockets, sse: Type.ServerSentEvents, polling: Type.LongPolling }[options.transport];
const urls = options.url.split(",");

// Each new request of any connection goes to the next gateway.
if (urls.length > 1) {
  const ports = urls.map((url) => new URL(url).port);
  let turn = 0;
  const realFetch = globalThis.fetch;
  const other = (url) => { const to = new URL(url); to.port = ports[turn++ % ports.length]; return to; };
  globalThis.fetch = (url, said) => realFetch(other(url), said);
}

const sleep = (time) => new Promise((done) => { setTimeout(done, time); });
async function until(look, time = 20000) {
  const end = Date.now() + time;
  while (!look() && Date.now() < end) await sleep(10);
  return look();
}
async function within(promise, time = 15000) {
  return Promise.race([promise, sleep(time).then(() => { throw new Error("no answer"); })]);
}

class Connection {
  async begin() {
    const query = options.query ? `?${options.query}` : "";
    let builder = new signalr.HubConnectionBuilder()
      .withUrl(urls[0] + query, { transport, skipNegotiation: options.skip })
      .configureLogging(signalr.LogLevel.None)
      .withAutomaticReconnect([0, 100, 500, 1000, 2000]);
    if (options.packed) builder = builder.withHubProtocol(new MessagePackHubProtocol());
    if (options.stateful) builder = builder.withStatefulReconnect();
    this.hub = builder.build();
    this.reconnected = 0;
    this.hub.onreconnected(async () => {
      this.home = await this.hub.invoke("who").catch(() => undefined);
      this.reconnected++;
    });
    this.hub.onclose((error) => { this.closed = String(error); });
    await within(this.hub.start());
    this.home = await within(this.hub.invoke("who"));
  }
}

const all = Array.from({ length: Number(options.connections) }, () => new Connection());
let round = 0;
function homes() {
  const homes = {};
  for (const { home, closed } of all) if (home && !closed) lib.count(homes, home);
  return homes;
}

const commands = {
  /** Each calls its hub, which answers who it is. */
  async call() {
    const faults = {};
    let moved = 0;
    let called = 0;
    const text = `${round++}`;
    await Promise.all(all.map(async (one) => {
      try {
        const said = await within(one.hub.invoke("echo", text));
        called++;
        if (said !== `${one.home} ${text}`) moved++;
      } catch (error) {
        lib.count(faults, String(error.message ?? error));
      }
    }));
    return { called, moved, homes: homes(), faults };
  },
  /** Waits until none is left on a server. */
  async left(server) {
    await until(() => !all.some(({ home, closed }) => home === server && !closed));
    return {
      reconnected: all.reduce((sum, { reconnected }) => sum + reconnected, 0),
      closed: all.filter(({ closed }) => closed).length,
      homes: homes(),
    };
  },
  /** Has the WebSocket of each cut, as a network might. */
  async cut() {
    for (const { hub } of all) hub.send("cut").catch(() => {});
    return { cut: all.length };
  },
  async stop() {
    await Promise.all(all.map(({ hub }) => hub.stop()));
    return { stopped: all.length };
  },
};

process.on("unhandledRejection", () => {});
(async () => {
  const faults = {};
  await Promise.all(all.map((one) => one.begin().catch((error) => lib.count(faults, String(error.message ?? error)))));
  lib.say({ opened: all.filter(({ home }) => home).length, homes: homes(), faults });
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("close", () => process.exit(0));
  for await (const line of lines) {
    const [command, ...rest] = line.split(" ");
    lib.say(await commands[command](...rest));
  }
})();
