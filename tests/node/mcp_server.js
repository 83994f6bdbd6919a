// A server of the Model Context Protocol by the official TypeScript SDK, version 1 (`mcp1`) or 2 (`mcp2`), with sessions, and
// with a store of events so that streams can be resumed. Version 2 answers revision 2026-07-28, too, which has none.
//
// It says {"port":…,"id":…} on stdout once it listens, counts in `/__stats`, and ends when its stdin closes.
"use strict";

const crypto = require("node:crypto");
const http = require("node:http");
const path = require("node:path");
const { createRequire } = require("node:module");
const lib = require("./lib.js");

const options = lib.args("node mcp_server.js mcp1|mcp2 [--id a] [--host 127.0.0.1] [--port 0] [--json] [--stateless]", {
  id: { type: "string", default: "a" },
  host: { type: "string", default: "127.0.0.1" },
  port: { type: "string", default: "0" },
  json: { type: "boolean", default: false }, // answers in JSON instead of event streams
  stateless: { type: "boolean", default: false }, // has no sessions, and takes any id for good
}, 1);
const [version] = options.positionals;
const { id } = options;
const need = createRequire(path.join(__dirname, version, "package.json"));

const stats = { id, opened: 0, open: 0, calls: 0, modern: 0, unknown: 0, questions: 0, gets: 0 };
const sessions = new Map();
const older = new Map();

const TOOL = { name: "who", description: "Says who serves.", inputSchema: { type: "object", properties: {} } };
const info = { name: `server-${id}`, version: "1.0.0" };
const capabilities = { capabilities: { tools: {} } };

/** What the tool does: two steps of progress, where somebody wants to know of them, and then who and which call it was. */
async function who(counted, token, notify) {
  stats.calls++;
  counted.calls++;
  for (const progress of token === undefined ? [] : [1, 2]) {
    await notify({ method: "notifications/progress", params: { progressToken: token, progress, total: 2 } });
    await new Promise((done) => setImmediate(done));
  }
  return { content: [{ type: "text", text: JSON.stringify({ id, calls: counted.calls }) }] };
}

function application() {
  const counted = { calls: 0 };
  if (version === "mcp1") {
    const { Server } = need("@modelcontextprotocol/sdk/server/index.js");
    const { ListToolsRequestSchema, CallToolRequestSchema } = need("@modelcontextprotocol/sdk/types.js");
    const server = new Server(info, capabilities);
    server.setRequestHandler(ListToolsRequestSchema, () => ({ tools: [TOOL] }));
    server.setRequestHandler(CallToolRequestSchema, (request, extra) =>
      who(counted, request.params._meta?.progressToken, (note) => extra.sendNotification(note)));
    return server;
  }
  const { Server } = need("@modelcontextprotocol/server");
  const server = new Server(info, capabilities);
  server.setRequestHandler("tools/list", () => ({ tools: [TOOL] }));
  server.setRequestHandler("tools/call", (request, context) =>
    who(counted, request.params._meta?.progressToken, (note) => context.mcpReq.notify(note)));
  return server;
}

/** Keeps the events of all streams of a session, for `Last-Event-ID`. */
class Events {
  events = [];
  async storeEvent(stream, message) {
    this.events.push({ stream, message });
    return `${stream}_${this.events.length - 1}`;
  }
  async replayEventsAfter(last, { send }) {
    const at = Number(last.slice(last.lastIndexOf("_") + 1));
    const { stream } = this.events[at];
    for (let next = at + 1; next < this.events.length; next++) {
      if (this.events[next].stream === stream) await send(`${stream}_${next}`, this.events[next].message);
    }
    return stream;
  }
}

function transport(onOpen) {
  const said = {
    sessionIdGenerator: options.stateless ? undefined : () => crypto.randomUUID(),
    enableJsonResponse: options.json,
    eventStore: options.json || options.stateless ? undefined : new Events(),
    onsessioninitialized: onOpen,
  };
  if (version === "mcp1") {
    const { StreamableHTTPServerTransport } = need("@modelcontextprotocol/sdk/server/streamableHttp.js");
    return new StreamableHTTPServerTransport(said);
  }
  const { NodeStreamableHTTPServerTransport } = need("@modelcontextprotocol/node");
  return new NodeStreamableHTTPServerTransport(said);
}

function refuse(res, status, code, message) {
  lib.json(res, { jsonrpc: "2.0", error: { code, message }, id: null }, status);
}

let modern;
async function isModern(req, body) {
  if (version === "mcp1") return false;
  const { createMcpHandler, isLegacyRequest } = need("@modelcontextprotocol/server");
  const { toNodeHandler, toWebRequest } = need("@modelcontextprotocol/node");
  modern ??= toNodeHandler(createMcpHandler(application, { legacy: "reject" }));
  return !(await isLegacyRequest(await toWebRequest(req, body)));
}

async function streamable(req, res, body) {
  const named = req.headers["mcp-session-id"];
  if (req.method === "POST" && await isModern(req, body)) {
    stats.modern++;
    return modern(req, res, body);
  }
  if (req.method === "GET") stats.gets++;
  const asks = body?.method === "notifications/cancelled";
  if (asks) stats.questions++;
  if (options.stateless) {
    // Of version 1, one for each request.
    const only = transport();
    await application().connect(only);
    return only.handleRequest(req, res, body);
  }
  const known = named && sessions.get(named);
  if (known) return known.handleRequest(req, res, body);
  if (named) {
    if (!asks) stats.unknown++;
    return refuse(res, 404, -32001, "Session not found");
  }
  if (body?.method !== "initialize") return refuse(res, 400, -32000, "Mcp-Session-Id is missing");
  const opened = transport((session) => {
    sessions.set(session, opened);
    stats.opened++;
    stats.open++;
  });
  opened.onclose = () => {
    if (sessions.delete(opened.sessionId)) stats.open--;
  };
  await application().connect(opened);
  return opened.handleRequest(req, res, body);
}

/** The older transport, which version 2 has no server for any more. */
async function events(req, res, url, body) {
  if (req.method === "GET") {
    const { SSEServerTransport } = need("@modelcontextprotocol/sdk/server/sse.js");
    const opened = new SSEServerTransport("/messages", res);
    older.set(opened.sessionId, opened);
    opened.onclose = () => older.delete(opened.sessionId);
    stats.opened++;
    return application().connect(opened);
  }
  const known = older.get(url.searchParams.get("sessionId"));
  if (known) return known.handlePostMessage(req, res, body);
  stats.unknown++;
  return refuse(res, 404, -32001, "Session not found");
}

const server = http.createServer((req, res) => {
  const parts = [];
  req.on("data", (part) => parts.push(part)).on("end", async () => {
    const url = new URL(req.url, "http://localhost");
    try {
      const text = Buffer.concat(parts).toString();
      const body = text ? JSON.parse(text) : undefined;
      if (url.pathname === "/__stats") return lib.json(res, stats);
      if (url.pathname === "/mcp") return await streamable(req, res, body);
      if (["/sse", "/messages"].includes(url.pathname) && version === "mcp1") return await events(req, res, url, body);
      res.writeHead(404).end();
    } catch (error) {
      process.stderr.write(`${id} ${error.stack}\n`);
      if (!res.headersSent) refuse(res, 500, -32603, String(error));
    }
  });
});
lib.listen(server, options);
