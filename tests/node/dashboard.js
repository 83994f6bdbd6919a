// Opens the dashboard in Chromium and does there what an operator would; prints one line of JSON of what it saw.
//
//   node dashboard.js URL drain SERVER          drains a server from the page
//   node dashboard.js URL watch                 says when the page has lost the gateway, and when it is back
//   node dashboard.js URL shot FILE [WIDTH] [dark]
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const WebSocket = require(path.join(__dirname, 'v4/node_modules/ws'));

const PATIENCE = 30000;
const [url, what, ...more] = process.argv.slice(2);
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

  async go(to) {
    await this.call('Runtime.enable');
    await this.call('Log.enable');
    await this.call('Page.enable');
    await this.call('Page.navigate', { url: to });
    await eventually('the servers are shown', () => this.js('document.querySelectorAll("#servers tbody tr").length > 0').catch(() => false));
  }
}

const tasks = {
  async drain(page, server) {
    const row = `[...document.querySelectorAll('#servers tbody tr')].find((row) => row.dataset.key === ${JSON.stringify(server)})`;
    const sessions = () => page.js(`+${row}.querySelector('.load span').firstChild.textContent.replace(/\\D/g, '')`);
    const homes = () => page.js(`Object.fromEntries([...document.querySelectorAll('#servers tbody tr')].map((row) => [row.dataset.key, +(row.querySelector('.load span')?.firstChild.textContent.replace(/\\D/g, '') ?? 0)]))`);
    const all = async () => Object.values(await homes()).reduce((sum, one) => sum + one, 0);
    const before = await eventually('its sessions are shown', sessions);
    const total = await all();
    await page.js(`${row}.querySelector('[data-act=drain]').click()`);
    const told = await eventually('it says what it will do', () => page.js('document.getElementById("dialog").open && document.getElementById("dialog-body").textContent'));
    await page.js('document.getElementById("pace").value = "20"; document.getElementById("dialog-do").click()');
    await eventually('it drains', () => page.js(`${row}.className === 'draining' && !document.getElementById('drains').hidden`));
    await eventually('its sessions have moved', async () => await sessions() === 0);
    const rates = `[...document.querySelectorAll('#map svg text')].filter((text) => text.dataset.key.startsWith('l ')).map((text) => text.textContent).filter((text) => text.includes('/s'))`;
    const lines = await eventually('a line from a listener to a route has a rate', async () => { const found = await page.js(rates); return found.length > 0 && found; });
    const bar = await page.js('document.getElementById("drains").textContent');
    await eventually('all are elsewhere', async () => await all() === total && await sessions() === 0);
    const others = await homes();
    await page.js('document.querySelector("#drains [data-act=undrain]").click()');
    await eventually('it asks', () => page.js('document.getElementById("dialog").open'));
    await page.js('document.getElementById("dialog-do").click()');
    await eventually('it is back', () => page.js(`${row}.className === 'up' && document.getElementById('drains').hidden`));
    return { before, told, lines, bar, others };
  },

  async watch(page) {
    const pill = () => page.js('document.getElementById("pill").textContent');
    // Whoever runs this knows by the line that the page is there.
    console.log(JSON.stringify({ shown: await pill() }));
    await eventually('it is lost', () => page.js('document.body.classList.contains("gone") && !document.getElementById("lost").hidden'));
    const said = await page.js('document.getElementById("lost").textContent');
    await eventually('it is back', async () => await page.js('!document.body.classList.contains("gone") && document.getElementById("lost").hidden') && await pill() === 'ready');
    return { said, back: await pill() };
  },

  async shot(page, file, width = '1280', scheme = 'light') {
    await page.call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
    await page.call('Emulation.setDeviceMetricsOverride', { width: +width, height: 900, deviceScaleFactor: 1, mobile: +width < 600 });
    await sleep(+(process.env.WAIT ?? 3000));
    const { cssContentSize: size } = await page.call('Page.getLayoutMetrics');
    await page.call('Emulation.setDeviceMetricsOverride', { width: +width, height: Math.ceil(size.height), deviceScaleFactor: 1, mobile: +width < 600 });
    await sleep(1500);
    const { data } = await page.call('Page.captureScreenshot', { captureBeyondViewport: true });
    fs.writeFileSync(file, Buffer.from(data, 'base64'));
    return { file, overflows: await page.js('document.documentElement.scrollWidth > document.documentElement.clientWidth') };
  },
};

(async () => {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'dashboard-'));
  const switches = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank'];
  const browser = spawn('chromium', switches, { stdio: 'ignore' });
  const gone = new Promise((end) => { browser.on('exit', end).on('error', end); });
  let code = 0;
  let page;
  try {
    page = await Page.open(profile);
    await page.go(url);
    const seen = await tasks[what](page, ...more);
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
})();
