// WebSockets over HTTP/2 (RFC 8441) by Node.js's own client: C connections with N sockets each, all open at once, that
// speak Socket.IO 4, ask who answers, and say goodbye. One JSON line sums up.
"use strict";

const crypto = require("node:crypto");
const http2 = require("node:http2");

const [url, connections, sockets] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const summary = { sockets: 0, by_server: {}, failed: [] };

/** A masked frame of up to 125 bytes. */
function frame(opcode, payload) {
  const mask = crypto.randomBytes(4);
  const masked = Buffer.from(payload).map((byte, at) => byte ^ mask[at % 4]);
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | masked.length]), mask, masked]);
}

/** Opens one, and is over with the server's answer to a question; `leave` says when to go. */
function open(session, leave) {
  const stream = session.request({
    ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/socket.io/?EIO=4&transport=websocket",
    ":authority": new URL(url).host, "sec-websocket-version": "13",
  });
  let unread = Buffer.alloc(0);
  const send = (opcode, payload) => stream.write(frame(opcode, payload));
  const talked = new Promise((resolve, reject) => {
    stream.on("error", reject);
    stream.on("close", () => reject(new Error("the stream ended early")));
    stream.on("response", (headers) => headers[":status"] === 200 || reject(new Error(`status ${headers[":status"]}`)));
    stream.on("data", (bytes) => {
      unread = Buffer.concat([unread, bytes]);
      while (unread.length >= 2 && unread.length >= 2 + unread[1]) {
        const [opcode, payload] = [unread[0] & 15, unread.subarray(2, 2 + unread[1])];
        unread = unread.subarray(2 + unread[1]);
        const text = payload.toString();
        if (opcode === 1 && text.startsWith("0{")) send(1, "40");
        else if (opcode === 1 && text.startsWith("40{")) send(1, '420["who"]');
        else if (opcode === 1 && text.startsWith("430[")) resolve(JSON.parse(text.slice(3))[0]);
        else if (opcode === 1 && text === "2") send(1, "3");
        else if (opcode === 8) stream.end();
      }
    });
  });
  const closed = new Promise((resolve) => stream.on("close", resolve));
  return talked.then(async (server) => {
    summary.sockets++;
    summary.by_server[server] = (summary.by_server[server] ?? 0) + 1;
    await leave;
    send(8, Buffer.from([3, 232]));
    await closed;
    if (stream.rstCode) throw new Error(`reset with ${stream.rstCode}`);
  });
}

async function main() {
  let go;
  const leave = new Promise((resolve) => (go = resolve));
  const all = [];
  const sessions = [];
  for (let connection = 0; connection < connections; connection++) {
    const session = http2.connect(url);
    sessions.push(session);
    const settings = await new Promise((resolve, reject) => {
      session.on("remoteSettings", resolve);
      session.on("error", reject);
    });
    if (!settings.enableConnectProtocol) throw new Error("the server takes no WebSockets");
    for (let socket = 0; socket < sockets; socket++) {
      all.push(open(session, leave).catch((error) => summary.failed.push(String(error))));
    }
  }
  const everybody = connections * sockets;
  const waiting = setInterval(() => {
    if (summary.sockets + summary.failed.length >= everybody) go(clearInterval(waiting));
  }, 20);
  await Promise.all(all);
  sessions.forEach((session) => session.close());
  process.stdout.write(`${JSON.stringify(summary)}\n`);
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
