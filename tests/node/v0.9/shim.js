// What Socket.IO 0.9 still expects of Node and a present Node no longer gives. Loaded before it, in its process only.
"use strict";

const crypto = require("node:crypto");
const { EventEmitter } = require("node:events");

// policyfile reads its prototype.
process.EventEmitter = EventEmitter;

// Strings were hashed as latin1; hixie-76 hashes bytes above 127.
const { createHash } = crypto;
crypto.createHash = (...given) => {
  const hash = createHash(...given);
  const { update } = hash;
  hash.update = (data, encoding = "latin1") => update.call(hash, data, encoding);
  return hash;
};

/** Makes an HTTP server as permissive as it was, where 0.9's transports lean on it. */
exports.loosen = (server) => {
  // hixie-76 sets an encoding on the upgraded socket, which an HTTP server's sockets now refuse.
  server.on("upgrade", (_, socket) => delete socket.setEncoding);
  // A policy request on the HTTP port is answered by policyfile's own listener, which comes after the parser's.
  server.on("clientError", (error, socket) => {
    if (!String(error.rawPacket).startsWith("<policy-file-request/>")) socket.end("HTTP/1.1 400 Bad Request\r\n\r\n");
  });
};
