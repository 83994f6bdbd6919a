// Sessions of SockJS in Chromium, by transports that only browsers have; prints one line of JSON of what it saw: how each was
// answered, and how it was closed when the server of the first was drained by the admin address.
//
//   node sockjs_browser.js URL ADMIN
'use strict';

const http = require('node:http');
const { eventually, withPage } = require('./chromium.js');

const [url, admin] = process.argv.slice(2);
const TRANSPORTS = ['jsonp-polling', 'htmlfile', 'eventsource', 'xhr-streaming', 'websocket'];

const post = (to) => new Promise((done, fail) => {
  http.request(to, { method: 'POST' }, (answer) => answer.resume().on('end', () => done(answer.statusCode))).on('error', fail).end();
});

withPage(async (page) => {
  await page.call('Runtime.enable');
  await page.call('Page.enable');
  await page.call('Page.navigate', { url: `${url}/page` });
  await eventually('the client is loaded', () => page.js('typeof SockJS === "function"').catch(() => false));
  await page.js(`window.seen = {}; for (const transport of ${JSON.stringify(TRANSPORTS)}) {
    const socket = new SockJS('/echo', null, { transports: [transport], timeout: 8000 });
    const seen = window.seen[transport] = { transport };
    socket.onopen = () => { seen.by = socket.transport; socket.send('x'); };
    socket.onmessage = ({ data }) => { const said = JSON.parse(data); if (said.hello) seen.home = said.hello; else seen.echo = said.id; };
    socket.onclose = ({ code, reason, wasClean }) => { seen.closed = [code, reason, wasClean]; };
  }`);
  const seen = () => page.js('Object.values(window.seen)');
  await eventually('all have opened', async () => (await seen()).every(({ echo, closed }) => echo || closed));
  const opened = await seen();
  const drained = [];
  for (const server of ['a', 'b']) drained.push(await post(`${admin}/drain?upstream=app&server=${server}&rate=50`));
  await eventually('all are told', async () => (await seen()).every(({ closed }) => closed));
  return { opened, drained, closed: await seen() };
});
