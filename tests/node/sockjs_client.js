// Sessions by the npm package `sockjs-client`, over one transport, and over any number of gateways in turn. It says how many have
// opened, and then does what its stdin asks for: `echo`, `closed`, `stop`.
"use strict";

const path = require("node:path");
const readline = require("node:readline");
const http = require("node:http");
const { createRequire } = require("node:module");
const lib = require("./lib.js");

const options = lib.args("node sockjs_client.js --url URL[,URL…] [--transport xhr-polling] [--sessions 1]", {
  url: { type: "string" },
  transport: { type: "string", default: "xhr-polling" },
  sessions: { type: "string", default: "1" },
});
http.globalAgent.maxSockets = Infinity;
const need = createRequire(path.join(__dirname, "sockjs", "package.json"));
const SockJS = need("sockjs-client");

// Each new request of any session goes to the next gateway.
const urls = options.url.split(",");
if (urls.length > 1) {
  const ports = urls.map((url) => Number(new URL(url).port));
  const real = http.request;
  let turn = 0;
  http.request = (said, done) => real({ ...said, port: ports[turn++ % ports.length] }, done);
}

const wait = 20000;
const sleep = (time) => new Promise((done) => { setTimeout(done, time); });
async function until(look, time = wait) {
  const end = Date.now() + time;
  while (!look() && Date.now() < end) await sleep(10);
}

class Session {
  constructor(number) {
    this.number = number;
    this.begin();
  }

  begin() {
    const socket = new SockJS(urls[0], null, { transports: [options.transport], timeout: 8000 });
    Object.assign(this, { socket, home: undefined, closed: undefined, echoes: new Map() });
    socket.onmessage = ({ data }) => {
      const said = JSON.parse(data);
      if (said.hello) this.home = said.hello;
      else this.echoes.set(said.echo, said.id);
    };
    socket.onclose = ({ code, reason, wasClean }) => { this.closed = { code, reason, wasClean, home: this.home }; };
  }
}

const sessions = Array.from({ length: Number(options.sessions) }, (_, number) => new Session(number));
let round = 0;

function homes() {
  const homes = {};
  for (const { home, closed } of sessions) if (home && !closed) lib.count(homes, home);
  return homes;
}

const commands = {
  /** Each session that is open says something, and hears it from its server. */
  async echo() {
    const text = `${round++}`;
    const open = sessions.filter((session) => !session.closed);
    for (const session of open) session.socket.send(text);
    await until(() => open.every((session) => session.echoes.has(text) || session.closed));
    const heard = open.filter((session) => session.echoes.has(text));
    const faults = {};
    for (const { closed } of open) if (closed) lib.count(faults, `${closed.code} ${closed.reason}`);
    return {
      heard: heard.length,
      moved: heard.filter((session) => session.echoes.get(text) !== session.home).length,
      homes: homes(),
      faults,
    };
  },
  /** Waits until no session is left on a server; tells how they were closed. */
  async left(server) {
    await until(() => !sessions.some((session) => session.home === server && !session.closed));
    const closed = {};
    for (const { closed: said } of sessions) if (said) lib.count(closed, `${said.code} ${said.reason} ${said.wasClean}`);
    return { closed, homes: homes() };
  },
  /** Those that were closed begin anew. */
  async renew() {
    const closed = sessions.filter((session) => session.closed);
    for (const session of closed) session.begin();
    await until(() => closed.every((session) => session.home || session.closed));
    return { opened: closed.filter((session) => session.home && !session.closed).length, homes: homes() };
  },
  /** Each session is told to leave by its server. */
  async leave() {
    const open = sessions.filter((session) => !session.closed);
    for (const { socket } of open) socket.send("leave");
    await until(() => open.every((session) => session.closed));
    return { closed: open.filter(({ closed }) => closed?.code === 3000).length };
  },
};

(async () => {
  await until(() => sessions.every((session) => session.home || session.closed));
  const opened = sessions.filter((session) => session.home && !session.closed);
  const faults = {};
  for (const { closed } of sessions) if (closed) lib.count(faults, `${closed.code} ${closed.reason}`);
  lib.say({ opened: opened.length, homes: homes(), faults });
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("close", () => process.exit(0));
  for await (const line of lines) {
    const [command, ...rest] = line.split(" ");
    lib.say(await commands[command](...rest));
  }
})();
