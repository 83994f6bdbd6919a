// What the peers share: arguments, packages by version, listening, stopping, and plain HTTP answers.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const path = require("node:path");
const { parseArgs } = require("node:util");

/** Parses `<positional> --options`; ends the process with one sentence when they make no sense. */
function args(usage, options, positionals = 0) {
  try {
    const parsed = parseArgs({ options, allowPositionals: positionals > 0 });
    if (parsed.positionals.length !== positionals) throw new Error(`expected ${positionals} positional argument(s)`);
    return { ...parsed.values, positionals: parsed.positionals };
  } catch (error) {
    process.stderr.write(`${error.message}\nusage: ${usage}\n`);
    process.exit(2);
  }
}

/** Loads a package as pinned for one Socket.IO version (`v4`, `v3`, `v2`, `v0.9`). */
function load(version, name) {
  const at = path.join(__dirname, version, "node_modules", name);
  if (!fs.existsSync(at)) {
    process.stderr.write(`${name} for ${version} is not installed: run scripts/node-deps\n`);
    process.exit(2);
  }
  return require(at);
}

/** One JSON line on stdout: the only thing the peers ever write there. */
function say(object) {
  process.stdout.write(JSON.stringify(object) + "\n");
}

/** An HTTP server, or an HTTPS one when `--cert` and `--key` are given. */
function createServer({ cert, key }) {
  return cert ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }) : http.createServer();
}

/** Listens, then says `{"port":…,"id":…}`; ends with the test that started it, because its stdin closes then. */
function listen(server, { id, port, host }) {
  server.once("error", (error) => {
    process.stderr.write(`${id} cannot listen on ${host}:${port}: ${error.message}\n`);
    process.exit(1);
  });
  server.listen({ port: Number(port), host, backlog: 4096 }, () => say({ port: server.address().port, id }));
  process.stdin.on("error", () => process.exit(0)).on("end", () => process.exit(0)).resume();
}

function json(res, value, status = 200) {
  const body = JSON.stringify(value);
  res.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
  res.end(body);
}

/** Reads a request body; keeps the first 64 KiB of it and counts the rest. */
function readBody(req, done) {
  const kept = [];
  let bytes = 0;
  req.on("data", (chunk) => {
    if (bytes < 65536) kept.push(chunk.subarray(0, 65536 - bytes));
    bytes += chunk.length;
  });
  req.on("end", () => done({ bytes, text: Buffer.concat(kept).toString("latin1") }));
}

/**
 * Plain HTTP answers. Any path says what the server saw; some paths misbehave on purpose:
 * `/__stats` counters · `/status/<n>` that status · `/slow?ms=` answers late · `/hang` never answers ·
 * `/chunks?n=&size=&ms=` chunked · `/sse?n=&ms=` events · `/upload` counts a body · `/bytes?n=` that many bytes ·
 * `/close` answers without a length and closes · `/reset` cuts the connection · `/cut` cuts it mid-body.
 */
function web(id, stats) {
  return (req, res) => {
    const url = new URL(req.url, "http://peer");
    const number = (name, fallback) => Number(url.searchParams.get(name) ?? fallback);
    const paced = (count, ms, write) => {
      let sent = 0;
      const timer = setInterval(() => {
        if (sent < count) return write(sent++);
        clearInterval(timer);
        res.end();
      }, ms);
      res.on("close", () => clearInterval(timer));
    };
    if (url.pathname === "/__stats") return json(res, stats());
    if (url.pathname === "/hang") return;
    if (url.pathname === "/reset") return req.socket.resetAndDestroy();
    if (url.pathname === "/slow") return void setTimeout(() => json(res, { id, slow: number("ms", 1000) }), number("ms", 1000));
    if (url.pathname.startsWith("/status/")) return json(res, { id }, Number(url.pathname.slice(8)));
    if (url.pathname === "/bytes") return res.end(Buffer.alloc(number("n", 1024), 120));
    if (url.pathname === "/chunks") {
      const chunk = Buffer.alloc(number("size", 16), 99);
      res.writeHead(200, { "Content-Type": "application/octet-stream" });
      return paced(number("n", 5), number("ms", 5), () => res.write(chunk));
    }
    if (url.pathname === "/sse") {
      res.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
      return paced(number("n", 5), number("ms", 20), (n) => res.write(`id: ${n}\ndata: ${id}\n\n`));
    }
    if (url.pathname === "/close") {
      res.shouldKeepAlive = false;
      res.useChunkedEncodingByDefault = false;
      return res.end(`${id} until close`);
    }
    if (url.pathname === "/cut") {
      res.writeHead(200, { "Content-Length": 1000 });
      return res.write("cut", () => req.socket.destroy());
    }
    readBody(req, ({ bytes, text }) => {
      if (url.pathname === "/upload") return json(res, { id, bytes });
      const { method, headers, httpVersion } = req;
      json(res, { id, method, url: req.url, version: httpVersion, headers, remote: req.socket.remoteAddress, bytes, body: text });
    });
  };
}

/** Counts one more of `name` in a histogram. */
function count(histogram, name, by = 1) {
  histogram[name] = (histogram[name] ?? 0) + by;
}

module.exports = { args, count, createServer, json, listen, load, readBody, say, web };
