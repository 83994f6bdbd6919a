// Opens a Socket.IO session through the gateway and shows what becomes of it.
"use strict";

const ECHO_EVERY = 2000; // milliseconds between two measurements of the round trip
const KEPT_SAMPLES = 40;
const KEPT_EVENTS = 60;
const GUESTS = 6;
const BIRDS = ["Wren", "Heron", "Swift", "Plover", "Siskin", "Avocet", "Dunlin", "Kestrel", "Linnet", "Curlew", "Merlin", "Osprey"];

const $ = (id) => document.getElementById(id);
const myName = nameOfThisTab();

let socket;
let opened = 0; // when the current session was asked for, by performance.now()
let shownServers = [];
let people = [];
let samples = [];
let requests = new Map(); // server → requests of this session that it answered
let reconnects = 0;
let guests = [];

$("address").textContent = location.host;
$("you").textContent = `You, ${myName}`;
for (const button of document.querySelectorAll("[data-transports]")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("[data-transports]")) other.setAttribute("aria-pressed", other === button);
    open(button.dataset.transports.split(","));
  });
}
$("guests").addEventListener("click", inviteOrPart);
$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text && socket.connected) socket.emit("say", text);
  $("text").value = "";
});
addEventListener("pagehide", () => socket.disconnect());
addEventListener("pageshow", (event) => event.persisted && socket.connect());
setInterval(measure, ECHO_EVERY);
setInterval(showAge, 1000);
watchRequests();
open(["polling", "websocket"]);

function open(transports) {
  if (socket) {
    socket.off();
    socket.disconnect();
    log("session closed by you");
  }
  state("connecting");
  socket = io({ transports, forceNew: true, auth: { name: myName } });
  // A handshake begins with the session asked for, and again with each reconnect.
  begin();
  socket.io.on("reconnect_attempt", begin);
  socket.io.on("open", handshaken);
  socket.io.on("reconnect", () => {
    reconnects += 1;
    $("reconnects").textContent = reconnects;
  });
  socket.on("connect", connected);
  socket.on("connect_error", (fault) => log(`no connection: ${fault.message}`));
  socket.on("disconnect", (reason) => {
    state("reconnecting");
    $("reason").textContent = `last: ${reason}`;
    log(`session lost: ${reason}`);
  });
  socket.on("welcome", welcomed);
  socket.on("people", (list) => {
    people = list;
    showPeople();
  });
  socket.on("chat", (line) => {
    showLine(line);
    beat();
  });
}

/** Guests are sessions of this page that open with WebSocket, so that one browser is enough to see servers take turns. */
function inviteOrPart() {
  if (guests.length) {
    guests.forEach((guest) => guest.disconnect());
    guests = [];
  } else {
    guests = Array.from({ length: GUESTS }, () => io({ transports: ["websocket"], forceNew: true, auth: { name: birdName() } }));
  }
  $("guests").textContent = guests.length ? "Send the guests home" : "Invite six guests";
}

function begin() {
  opened = performance.now();
  samples = [];
  requests = new Map();
  $("proof").textContent = "";
}

function handshaken() {
  const engine = socket.io.engine;
  log(`session ${short(engine.id)} opened by ${engine.transport.name === "websocket" ? "WebSocket" : "polling"}`);
  $("sid").textContent = short(engine.id);
  $("sid").title = engine.id;
  $("transport").textContent = transportName(engine.transport.name);
  $("upgrade").textContent = engine.opts.transports.length > 1 ? "upgrade under way" : "as you asked";
  engine.once("upgrade", (transport) => {
    const after = Math.round(performance.now() - opened);
    $("transport").textContent = transportName(transport.name);
    $("upgrade").textContent = `upgraded after ${after} ms`;
    log(`upgraded to ${transportName(transport.name)}`);
    socket.emit("upgraded");
  });
}

function connected() {
  state("connected");
  measure();
  showAge();
}

function welcomed({ server, servers, chat }) {
  log(`placed on ${capital(server)}`);
  document.documentElement.dataset.server = server;
  $("server").textContent = server;
  showProof();
  shownServers = servers;
  drawServers(server);
  $("lines").replaceChildren();
  if (chat.length) chat.forEach(showLine);
  else $("lines").append(element("li", "empty", "Nobody has said anything yet."));
}

function drawServers(mine) {
  const width = 600;
  $("servers").style.setProperty("--count", shownServers.length);
  $("servers").replaceChildren(...shownServers.map((name) => {
    const card = element("li", name === mine ? "on" : "");
    card.dataset.server = name;
    const title = element("h3", "", capital(name));
    title.append(element("small", "", ""));
    card.append(title, element("ol", "people"));
    return card;
  }));
  // The chosen wire is drawn last, so that it lies over the others.
  const order = [...shownServers.keys()].sort((a, b) => (shownServers[a] === mine) - (shownServers[b] === mine));
  $("fan").replaceChildren(...order.map((index) => {
    const x = (width * (index + 0.5)) / shownServers.length;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M300 0C300 34 ${x} 26 ${x} 64`);
    if (shownServers[index] === mine) path.setAttribute("class", "on");
    return path;
  }));
  showPeople();
}

function showPeople() {
  for (const card of $("servers").children) {
    const here = people.filter((person) => person.server === card.dataset.server);
    card.querySelector("small").textContent = here.length === 1 ? "1 session" : `${here.length} sessions`;
    card.querySelector("ol").replaceChildren(...here.map((person) => {
      const me = person.id === socket.id;
      const item = element("li", `${person.transport}${me ? " me" : ""}`, me ? `${person.name} (you)` : person.name);
      item.title = transportName(person.transport);
      return item;
    }));
  }
}

function showLine({ name, server, text }) {
  const list = $("lines");
  list.querySelector(".empty")?.remove();
  const item = element("li", "", "");
  item.dataset.server = server;
  item.append(element("b", "", `${name} on ${capital(server)}`), text);
  list.append(item);
  list.scrollTop = list.scrollHeight;
}

function measure() {
  if (!socket.connected || document.hidden) return;
  const sent = performance.now();
  socket.timeout(ECHO_EVERY).emit("echo", (fault) => {
    if (fault) return;
    samples = [...samples, performance.now() - sent].slice(-KEPT_SAMPLES);
    $("latency").textContent = `${samples.at(-1).toFixed(1)} ms`;
    drawSamples();
    beat();
  });
}

function drawSamples() {
  const top = Math.max(...samples, 1);
  const points = samples.map((value, index) => `${(120 * index) / (KEPT_SAMPLES - 1)},${19 - (17 * value) / top}`);
  $("spark").firstElementChild.setAttribute("points", points.join(" "));
}

// Each answer of a server is signed in a Server-Timing header, so the browser itself can tell who answered.
function watchRequests() {
  if (!PerformanceObserver.supportedEntryTypes.includes("resource")) return;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const server = entry.serverTiming?.[0]?.description;
      if (server && entry.startTime >= opened && new URL(entry.name).pathname.startsWith("/socket.io/")) {
        requests.set(server, (requests.get(server) ?? 0) + 1);
      }
    }
    showProof();
  }).observe({ type: "resource", buffered: true });
}

function showProof() {
  const total = [...requests.values()].reduce((sum, count) => sum + count, 0);
  if (total) $("proof").textContent = `answered ${requests.get($("server").textContent) ?? 0} of ${total}`;
}

function beat() {
  const map = document.querySelector(".map");
  map.classList.remove("beat");
  void map.offsetWidth; // restarts the animation
  map.classList.add("beat");
}

function showAge() {
  if (socket.connected) $("age").textContent = `open for ${spoken(performance.now() - opened)}`;
}

function state(word) {
  $("state").textContent = word;
}

function log(text) {
  const list = $("events");
  const item = element("li", "", "");
  item.append(element("time", "", `${((performance.now() - opened) / 1000).toFixed(3)} s`), text);
  list.prepend(item);
  while (list.children.length > KEPT_EVENTS) list.lastElementChild.remove();
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function nameOfThisTab() {
  const name = sessionStorage.getItem("name") ?? birdName();
  sessionStorage.setItem("name", name);
  return name;
}

function birdName() {
  return `${BIRDS[Math.floor(Math.random() * BIRDS.length)]} ${Math.floor(10 + Math.random() * 90)}`;
}

function spoken(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

function short(id) {
  return id.length > 10 ? `${id.slice(0, 4)}…${id.slice(-4)}` : id;
}

function capital(word) {
  return word[0].toUpperCase() + word.slice(1);
}

function transportName(name) {
  return name === "websocket" ? "WebSocket" : "Polling";
}
