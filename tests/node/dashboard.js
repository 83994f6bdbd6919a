// Opens the dashboard in Chromium and does there what an operator would; prints one line of JSON of what it saw.
//
//   node dashboard.js URL drain SERVER          drains a server from the page
//   node dashboard.js URL watch                 says when the page has lost the gateway, and when it is back
//   node dashboard.js URL shot FILE [WIDTH] [dark]
'use strict';

const fs = require('node:fs');
const { eventually, sleep, withPage } = require('./chromium.js');

const [url, what, ...more] = process.argv.slice(2);

async function go(page, to) {
  await page.call('Runtime.enable');
  await page.call('Log.enable');
  await page.call('Page.enable');
  await page.call('Page.navigate', { url: to });
  await eventually('the servers are shown', () => page.js('document.querySelectorAll("#servers tbody tr").length > 0').catch(() => false));
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

withPage(async (page) => {
  await go(page, url);
  return tasks[what](page, ...more);
});
