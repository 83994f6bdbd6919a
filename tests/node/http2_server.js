// A web app on Node.js's own HTTP/2, in plain: says how it was asked. Prints {"port": N}, and ends when standard input does.
"use strict";

const http2 = require("node:http2");

const server = http2.createServer((request, response) => {
  let length = 0;
  request.on("data", (bytes) => (length += bytes.length));
  request.on("end", () => {
    const { httpVersion: version, method, url, authority, scheme } = request;
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ version, method, url, authority, scheme, length, cookie: request.headers.cookie }));
  });
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
process.stdin.on("end", () => process.exit()).resume();
