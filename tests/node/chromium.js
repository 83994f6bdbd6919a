// Pages in Chromium, governed by its own protocol.
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const WebSocket = require(path.join(__dirname, 'v4/node_modules/ws'));

const PATIENCE = 30000;
const sleep = (time) => new Promise((done) => { setTimeout(done, time); });

async function eventually(what, look) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${PATIENCE} ms`);
    await sleep(50);
  }
}

// One page, governed by Chromium's own protocol.
class Page {
  static async open(profile) {
    const read = () => { try { return fs.readFileSync(path.join(profile, 'DevToolsActivePort'), 'utf8'); } catch { return ''; } };
    const [port, browser] = (await eventually('Chromium listens', async () => /\n/.test(read()) && read())).split('\n');
    const page = new Page(new WebSocket(`ws://127.0.0.1:${port}${browser}`));
    await new Promise((open, fail) => page.socket.on('open', open).on('error', fail));
    const { targetId } = await page.call('Target.createTarget', { url: 'about:blank' });
    ({ sessionId: page.session } = await page.call('Target.attachToTarget', { targetId, flatten: true }));
    return page;
  }

  constructor(socket) {
    Object.assign(this, { socket, waiting: new Map(), next: 1, faults: [] });
    socket.on('message', (text) => {
      const said = JSON.parse(text);
      if (said.method === 'Runtime.exceptionThrown') this.faults.push(said.params.exceptionDetails.exception?.description ?? said.params.exceptionDetails.text);
      // The network tells of connections that fail; a page that misbehaves says so as well.
      if (said.method === 'Log.entryAdded' && said.params.entry.source === 'security') this.faults.push(said.params.entry.text);
      const { done, fail } = this.waiting.get(said.id) ?? {};
      this.waiting.delete(said.id);
      if (said.error) fail?.(new Error(said.error.message));
      else done?.(said.result);
    });
  }

  call(method, params = {}) {
    const id = this.next++;
    this.socket.send(JSON.stringify({ id, method, params, sessionId: this.session }));
    return new Promise((done, fail) => { this.waiting.set(id, { done, fail }); });
  }

  async js(expression) {
    const { result, exceptionDetails } = await this.call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }
}

/** Does something with a page, says what came of it by one line of JSON, and ends. */
async function withPage(what) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'chromium-'));
  const switches = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank'];
  const browser = spawn('chromium', switches, { stdio: 'ignore' });
  const gone = new Promise((end) => { browser.on('exit', end).on('error', end); });
  let code = 0;
  let page;
  try {
    page = await Page.open(profile);
    const seen = await what(page);
    console.log(JSON.stringify({ ...seen, faults: page.faults }));
  } catch (fault) {
    console.log(JSON.stringify({ fault: String(fault.stack) }));
    code = 1;
  }
  // Told so, it takes its children with it.
  page?.call('Browser.close').catch(() => {});
  await Promise.race([gone, sleep(5000)]);
  browser.kill('SIGKILL');
  await gone;
  // What one of them still writes is not worth a failure.
  try { fs.rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }); } catch { /* It stays. */ }
  process.exit(code);
}

module.exports = { eventually, sleep, withPage };
