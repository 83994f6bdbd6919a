// Checks a running demo through the gateway with real Socket.IO clients: `node smoke.js http://127.0.0.1:9400`.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { io } = require("socket.io-client");

const SESSIONS = 9; // of each kind
const ECHOES = 10; // round trips of each session
const PATIENCE = 15_000; // milliseconds that any one thing may take

const KINDS = {
  polling: ["polling"],
  WebSocket: ["websocket"],
  "polling, then WebSocket": ["polling", "websocket"],
};

const base = process.argv[2];
const rows = [];
const sessions = [];
let addresses = 1;

main().then(
  (allWell) => finish(allWell),
  (fault) => {
    console.error(fault);
    finish(false);
  },
);

async function main() {
  await checkFile("the page", "/", (body) => body.includes("<title>Sockgate demo</title>"));
  await checkFile("its style", "/style.css", (body) => body.includes("--amber"));
  await checkFile("its script", "/page.js", (body) => body.includes("watchRequests"));
  const client = fs.readFileSync(path.join(__dirname, "node_modules/socket.io-client/dist/socket.io.min.js"), "utf8");
  await checkFile("the Socket.IO client", "/client.js", (body) => body === client);

  for (const [kind, transports] of Object.entries(KINDS)) await checkSessions(kind, transports);
  await checkChat();
  await checkLosses();
  return rows.every((row) => row.well);
}

async function checkFile(what, target, isRight) {
  const answer = await fetch(base + target, { signal: AbortSignal.timeout(PATIENCE) });
  const body = await answer.text();
  note(what, answer.status === 200 && isRight(body), `GET ${target}: ${answer.status}, ${body.length} characters`);
}

async function checkSessions(kind, transports) {
  const opened = await Promise.all(Array.from({ length: SESSIONS }, () => open(transports)));
  const servers = new Set(opened.map((session) => session.server));
  note(`${kind}: sessions`, true, `${opened.length} open, on ${[...servers].sort().join(", ")}`);

  const last = transports.at(-1);
  if (transports.length > 1) await Promise.all(opened.map((session) => within(session.upgraded, "an upgrade")));
  const there = opened.filter((session) => session.socket.io.engine.transport.name === last).length;
  note(`${kind}: transport`, there === SESSIONS, `${there} of ${SESSIONS} on ${last}`);

  const answers = await Promise.all(opened.map(echoes));
  const strays = answers.flat().filter((stayed) => !stayed).length;
  note(`${kind}: same server`, strays === 0, `${answers.flat().length} round trips, ${strays} met another server`);
}

/** Opens a session from a loopback address of its own, where the system has more than one: clients are told apart by it. */
async function open(transports) {
  addresses += 1;
  const localAddress = process.platform === "linux" ? `127.0.0.${addresses}` : "127.0.0.1";
  const agent = new http.Agent({ localAddress, keepAlive: true });
  const socket = io(base, { transports, agent, forceNew: true, auth: { name: `Smoke ${addresses}` } });
  const session = { socket, agent, losses: 0, heard: new Set() };
  sessions.push(session);

  session.upgraded = new Promise((resolve) => {
    socket.io.on("open", () => socket.io.engine.once("upgrade", resolve));
  });
  socket.on("connect_error", () => (session.losses += 1));
  socket.on("disconnect", () => (session.losses += 1));
  socket.on("chat", (line) => session.heard.add(line.text));
  const welcome = await within(new Promise((resolve) => socket.once("welcome", resolve)), `a welcome over ${transports}`);
  session.server = welcome.server;
  return session;
}

async function echoes({ socket, server }) {
  const stayed = [];
  for (let count = 0; count < ECHOES; count += 1) {
    stayed.push((await socket.timeout(PATIENCE).emitWithAck("echo")) === server);
  }
  return stayed;
}

async function checkChat() {
  const servers = [...new Set(sessions.map((session) => session.server))];
  note("servers in use", servers.length === 3, `${servers.length} of 3`);
  for (const server of servers) {
    const text = `from ${server}, ${Date.now()}`;
    const heard = sessions.map(({ socket }) => new Promise((resolve) => {
      socket.on("chat", (line) => line.text === text && resolve());
    }));
    sessions.find((session) => session.server === server).socket.emit("say", text);
    await within(Promise.all(heard), `the chat from ${server}`);
  }
  const complete = sessions.filter((session) => session.heard.size === servers.length).length;
  note("chat across servers", complete === sessions.length, `${servers.length} lines, heard by ${complete} of ${sessions.length}`);
}

async function checkLosses() {
  const losses = sessions.reduce((sum, session) => sum + session.losses, 0);
  note("lost or refused", losses === 0, `${losses} of ${sessions.length} sessions`);
}

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${PATIENCE / 1000} s for ${what}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function note(what, well, found) {
  rows.push({ what, well, found });
}

function finish(allWell) {
  const width = Math.max(...rows.map((row) => row.what.length), 0);
  for (const { what, well, found } of rows) console.log(`${well ? "ok  " : "FAIL"}  ${what.padEnd(width)}  ${found}`);
  console.log(allWell ? "The demo works." : "The demo does not work.");
  for (const { socket, agent } of sessions) {
    socket.disconnect();
    agent.destroy();
  }
  process.exit(allWell ? 0 : 1);
}
