// What the dashboard does: it follows the gateway's events, draws what they say, and asks before it does anything.
'use strict';

const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

// An element with attributes and children: text, elements, lists of them, or nothing.
function el(name, attributes, ...children) {
  const [tag, ...classes] = name.split('.');
  const node = ['svg', 'path', 'text'].includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (classes.length) node.setAttribute('class', classes.join(' '));
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === false || value == null) continue;
    if (key.startsWith('--')) node.style.setProperty(key, value);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat(3).filter((child) => child != null && child !== false));
  return node;
}

// Makes one node look like another and keeps what is the same, so that nobody's click or focus is lost.
function morph(old, now) {
  if (old.nodeName !== now.nodeName) return old.replaceWith(now);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return undefined;
  }
  for (const { name } of [...old.attributes]) if (!now.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of now.attributes) {
    if (name === 'style') {
      if (old.style.cssText !== now.style.cssText) old.style.cssText = now.style.cssText;
    } else if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  fill(old, [...now.childNodes]);
  return undefined;
}

const keyOf = (node) => node.dataset?.key;

function fill(parent, children) {
  const keyed = new Map([...parent.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let at = parent.firstChild;
  for (const child of children) {
    const key = keyOf(child);
    const match = key ? keyed.get(key) : at && !keyOf(at) && at.nodeName === child.nodeName ? at : null;
    if (!match) {
      parent.insertBefore(child, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else parent.insertBefore(match, at);
    keyed.delete(key);
    morph(match, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const draw = (id, ...children) => fill($(id), children.flat(3).filter((child) => child != null && child !== false)
  .map((child) => typeof child === 'string' ? document.createTextNode(child) : child));

// -- Words and numbers

const whole = new Intl.NumberFormat('en');
const count = (number) => whole.format(number);
const rate = (number) => number == null ? '–' : number >= 100 ? count(Math.round(number)) : `${+number.toFixed(number < 10 ? 1 : 0)}`;
const perSecond = (number) => `${rate(number)}/s`;
const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const some = (number, what) => `${count(number)} ${what}${number === 1 ? '' : 's'}`;

function time(seconds) {
  const units = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const at = units.findIndex(([size]) => seconds >= size);
  if (at < 0) return '0 s';
  const [size, unit] = units[at];
  const rest = units[at + 1] && Math.floor((seconds % size) / units[at + 1][0]);
  return `${Math.floor(seconds / size)} ${unit}${rest && at < 3 && seconds < 10 * size ? ` ${rest} ${units[at + 1][1]}` : ''}`;
}

const ago = (moment) => `${time(Math.max(0, (Date.parse(state.at) - Date.parse(moment)) / 1000))} ago`;
const part = (of, all) => (all > 0 ? Math.min(1, of / all) : 0).toFixed(4);
const serverPath = (server) => `/api/v1/servers/${encodeURIComponent(server.upstream)}/${encodeURIComponent(server.name)}`;

// -- The gateway

let state = null;
let lastHeard = 0;
const history = { requests: [], sessions: [] };
const seenErrors = new Map();

function headers() {
  const token = sessionStorage.getItem('token');
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// Asks the API; an error says what the gateway says.
async function api(method, path, body) {
  const answer = await fetch(path, {
    method, headers: headers(), body: body && JSON.stringify(body), cache: 'no-store',
  });
  const text = await answer.text();
  let told = null;
  try { told = JSON.parse(text); } catch { /* It is said in plain words. */ }
  if (!answer.ok) throw new Error(told?.error ? `${told.error}${told.hint ? `: ${told.hint}` : ''}` : text.trim() || `status ${answer.status}`);
  return told;
}

async function follow() {
  for (let wait = 500; ; wait = Math.min(wait * 1.5, 5000)) {
    try {
      const abort = new AbortController();
      const answer = await fetch('/api/v1/events', { headers: headers(), cache: 'no-store', signal: abort.signal });
      if (answer.status === 401) {
        $('token').hidden = false;
        $('pill').textContent = 'locked';
        await new Promise((shown) => { unlock = shown; });
        wait = 500;
        continue;
      }
      if (!answer.ok) throw new Error((await answer.text()).trim());
      $('token').hidden = true;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      // A gateway that hangs says nothing either.
      const watchdog = setInterval(() => { if (Date.now() - lastHeard > 5000) abort.abort(); }, 1000);
      lastHeard = Date.now();
      try {
        for (let text = ''; ;) {
          const { value, done } = await reader.read();
          if (done) throw new Error('it has closed the connection');
          text += value;
          for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
            const data = text.slice(0, end).split('\n').find((line) => line.startsWith('data: '));
            if (!data) continue;
            lastHeard = Date.now();
            wait = 500;
            heard(JSON.parse(data.slice(6)));
          }
        }
      } finally {
        clearInterval(watchdog);
      }
    } catch (fault) {
      lost(fault);
    }
    await new Promise((next) => { setTimeout(next, wait); });
  }
}

let unlock = () => {};
let lostSince = 0;

function lost(fault) {
  lostSince ||= Date.now();
  document.body.classList.add('gone');
  $('pill').className = 'pill down';
  $('pill').textContent = 'no answer';
  const why = fault.name === 'AbortError' ? 'it says nothing any more' : fault.message;
  $('lost').hidden = false;
  $('lost').textContent = `The gateway at ${location.host} does not answer since ${time((Date.now() - lostSince) / 1000)}: ${why}. `
    + `${state ? 'What is shown is the last that it said. ' : ''}This page goes on trying.`;
}

function heard(now) {
  const came = !state || now.status.process !== state.status.process;
  state = now;
  lostSince = 0;
  $('lost').hidden = true;
  document.body.classList.remove('gone', 'waiting');
  if (came) {
    history.requests.length = history.sessions.length = 0;
    seenErrors.clear();
    now.errors.forEach((error) => seenErrors.set(`${error.subject} ${error.cause}`, error.count));
  }
  remember(history.requests, now.status.answered_per_second ?? 0);
  remember(history.sessions, now.status.sessions);
  head();
  tiles();
  drains();
  map();
  servers();
  shares();
  errors();
  reload();
  clients();
  if (came) listSessions();
}

function remember(list, value) {
  list.push(value);
  if (list.length > 180) list.shift();
}

// -- What is drawn

function head() {
  const { version, uptime_seconds: up, process, ready, notes, stopping } = state.status;
  draw('who', `${location.host} · version ${version} · process ${process} · up ${time(up)}`);
  const pill = $('pill');
  pill.className = `pill ${stopping ? 'draining' : !ready ? 'down' : notes.length ? 'draining' : 'up'}`;
  pill.textContent = stopping ? 'stopping' : ready ? notes.length ? 'ready, with trouble' : 'ready' : 'not ready';
  pill.title = notes.join('\n');
  document.title = `${stopping || !ready || notes.length ? '● ' : ''}Sockgate · ${location.host}`;
}

function spark(values) {
  const most = Math.max(...values, 1);
  const step = 180 / 179;
  const points = values.map((value, at) => `${((180 - values.length + at) * step).toFixed(1)} ${(28 - (value / most) * 26).toFixed(1)}`);
  const line = `M${points.join('L')}`;
  return el('svg.spark', { viewBox: '0 0 180 30', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    el('path.area', { d: `${line}V30H${((180 - values.length) * step).toFixed(1)}Z` }), el('path', { d: line }));
}

function split(sessions, websockets) {
  return el('div.bar', { role: 'img', 'aria-label': `${websockets} on a WebSocket, ${sessions - websockets} polling` },
    el('i.websocket', { '--part': part(websockets, sessions) }), el('i.polling', { '--part': part(sessions - websockets, sessions) }));
}

function tiles() {
  const s = state.status;
  const tile = (key, title, value, ...more) => el('article.tile', { 'data-key': key }, el('h3', {}, title), el('b', {}, value), more);
  const polling = s.sessions - s.sessions_on_websocket;
  draw('tiles',
    tile('requests', 'Answers a second', rate(s.answered_per_second), spark(history.requests)),
    tile('sessions', 'Sessions', count(s.sessions), s.sessions ? split(s.sessions, s.sessions_on_websocket) : null,
      el('p', {}, s.sessions ? `${count(s.sessions_on_websocket)} on WebSocket, ${count(polling)} polling` : 'nobody has one')),
    tile('connections', 'Connections', count(s.connections), spark(history.sessions.length ? connectionsHistory() : [0])),
    tile('servers', 'Servers up', [count(s.servers_up), el('small', {}, ` of ${count(s.servers)}`)],
      el('p', {}, s.notes.length ? s.notes[0] : s.servers_up === s.servers ? 'all of them take new work' : 'the others take no new work')),
    tile('configuration', 'Configuration', [el('small', {}, 'no. '), count(s.configuration.generation)],
      el('p', {}, s.configuration.error ? el('span.fault', {}, 'the last reload failed') : `loaded ${ago(s.configuration.loaded)}`)));
}

const connections = [];
function connectionsHistory() {
  remember(connections, state.status.connections);
  return connections;
}

const allServers = () => state.upstreams.flatMap((upstream) => upstream.servers);

function drains() {
  const under = allServers().filter((server) => server.drain);
  $('drains').hidden = under.length === 0;
  draw('drains-list', under.map((server) => {
    const { told_goodbye: told, open, sessions, over } = server.drain;
    const left = over ? 'everybody has been told' : told || open ? `${count(told)} told goodbye, ${count(open)} open` : 'nobody is there';
    return el('div.drain', { 'data-key': `${server.upstream}/${server.name}` },
      el('span', {}, el('b', {}, server.name), ` of ${server.upstream}: `, `${left}, ${some(sessions, 'session')} left`),
      server.removed ? el('small', {}, 'it was taken out of the file') : el('button', { 'data-act': 'undrain', 'data-of': `${server.upstream}/${server.name}` }, 'Take it back'),
      el('div.bar', { role: 'progressbar', 'aria-valuenow': told, 'aria-valuemax': told + open, 'aria-label': `goodbyes on ${server.name}` },
        el('i', { '--part': over && !open ? '1' : part(told, told + open) })));
  }));
}

const MOST_NODES = 14;

function map() {
  const busiest = (nodes, of) => {
    const shown = new Set([...nodes].sort((one, other) => of(other) - of(one)).slice(0, MOST_NODES));
    return [nodes.filter((node) => shown.has(node)), nodes.length - shown.size];
  };
  const [listeners, fewerListeners] = busiest(state.listeners, (one) => one.connections);
  const [routes, fewerRoutes] = busiest(state.routes, (one) => (one.per_second ?? 0) + one.sockets / 1000);
  const [upstreams, fewerUpstreams] = busiest(state.upstreams, (one) => one.answered_per_second ?? 0);
  const [servers, fewerServers] = busiest(upstreams.flatMap((one) => one.servers), (one) => one.per_second ?? 0);
  const node = (key, state, name, right, ...small) => el(`div.node${state}`, { 'data-key': key }, el('b', {}, el('span', {}, name), el('small', {}, right)),
    small.map((line) => line && el('small', {}, line)));
  const column = (title, nodes, fewer) => el('div.column', { 'data-key': title }, el('h3', {}, title), nodes, fewer > 0 ? el('small', {}, `and ${fewer} more`) : null);
  const upstreamState = (one) => one.ready ? one.servers.every((server) => server.state === 'up') ? '.up' : '.draining' : '.down';
  const link = [];
  for (const one of listeners) {
    // Raw bytes have no route.
    if (one.sockets['-']) state.upstreams.filter((up) => up.kind === 'tcp').forEach((up) => link.push([`l ${one.name}`, `u ${up.name}`, '', one.sockets['-']]));
    // A route may be asked by any listener, whether anybody is there now or not.
    for (const route of routes) {
      const said = /(?:^|, )listener ([^,]*)/.exec(route.matches);
      const may = one.protocol === 'http' && (!said || said[1].split(' or ').includes(one.name)) && listeners.length * routes.length <= 24;
      const [sockets, asked] = [one.sockets[route.name] ?? 0, route.per_second_from[one.name] ?? 0];
      const label = [asked ? perSecond(asked) : '', sockets ? some(sockets, 'socket') : ''].filter(Boolean).join(', ');
      if (may || sockets || asked) link.push([`l ${one.name}`, `r ${route.place}`, label, asked + sockets]);
    }
  }
  for (const route of routes) {
    for (const name of route.upstreams) link.push([`r ${route.place}`, `u ${name}`, perSecond(route.per_second), route.per_second ?? 0]);
  }
  for (const one of upstreams) {
    for (const server of one.servers) link.push([`u ${one.name}`, `s ${one.name}/${server.name}`, perSecond(server.per_second), server.per_second ?? 0]);
  }
  const old = $('map').querySelector('svg');
  draw('map',
    old ?? el('svg', { 'aria-hidden': 'true' }),
    column('listeners', listeners.map((one) => node(`l ${one.name}`, '', one.name, perSecond(one.accepted_per_second),
      `${one.address}${one.tls ? ' · TLS' : ''}${one.protocol === 'http' ? '' : ` · ${one.protocol}`}`, some(one.connections, 'connection'))), fewerListeners),
    column('routes', routes.map((one) => node(`r ${one.place}`, '', one.name, perSecond(one.per_second),
      one.matches || 'everything else', one.upstreams.length ? null : { respond: 'answered here', redirect: 'sent elsewhere', files: 'files' }[one.action])), fewerRoutes),
    column('upstreams', upstreams.map((one) => node(`u ${one.name}`, upstreamState(one), one.name, perSecond(one.answered_per_second),
      `${one.kind} · ${one.balance.replaceAll('_', ' ')}`, one.sessions ? some(one.sessions.live, 'session') : some(one.tunnels, 'tunnel'),
      one.waiting ? `${count(one.waiting)} wait for a server` : null)), fewerUpstreams),
    column('servers', servers.map((one) => node(`s ${one.upstream}/${one.name}`, `.${one.state}`, one.name, perSecond(one.per_second),
      `${one.state}${one.sessions_on_websocket == null ? '' : ` · ${some(one.sessions, 'session')}`} · ${count(one.in_flight)} in flight`)), fewerServers));
  wires(link);
}

// Draws the lines between nodes: as thick as what goes there, with the rate in the middle.
function wires(link) {
  const svg = $('map').querySelector('svg');
  const frame = $('map').getBoundingClientRect();
  const nodes = new Map([...$('map').querySelectorAll('.node')].map((node) => [keyOf(node), node.getBoundingClientRect()]));
  const drawn = [];
  const labels = [];
  for (const [from, to, label, load] of link) {
    const [one, other] = [nodes.get(from), nodes.get(to)];
    if (!one || !other) continue;
    const [x, y] = [one.right - frame.left, one.top + one.height / 2 - frame.top];
    const [u, v] = [other.left - frame.left, other.top + other.height / 2 - frame.top];
    const bend = (u - x) / 2;
    const width = Math.min(8, 1.5 + Math.log2(1 + load));
    drawn.push(el(`path${load > 0 ? '.live' : ''}`, { 'data-key': `${from}>${to}`, d: `M${x} ${y}C${x + bend} ${y} ${u - bend} ${v} ${u} ${v}`, 'stroke-width': width.toFixed(1) }));
    if (label && load > 0) labels.push(el('text', { 'data-key': `${from}>${to}#`, x: (x + u) / 2, y: (y + v) / 2 + 4 }, label));
  }
  fill(svg, [...drawn, ...labels]);
}

const WINDOW = 30 * 60;

function strip(server) {
  const now = Date.parse(state.at);
  const begin = Math.max(now - WINDOW * 1000, Math.min(now - 60000, Date.parse(server.history[0]?.at ?? state.at)));
  const spans = server.history.map(({ at, state: was }, index) => {
    const end = server.history[index + 1] ? Date.parse(server.history[index + 1].at) : now;
    return { was, from: Math.max(begin, Date.parse(at)), end };
  }).filter(({ from, end }) => end >= begin && end - from > 0);
  const said = spans.map(({ was, from, end }) => `${was} for ${time((end - from) / 1000)}`).join(', ');
  return el('div.strip', { role: 'img', 'aria-label': said, title: said },
    spans.map(({ was, from, end }) => el(`i.${was}`, { '--time': ((end - from) / 1000).toFixed(0) })));
}

function servers() {
  const cell = (label, ...content) => el('td', { 'data-label': label }, el('span', {}, content));
  const number = (label, value, small) => el('td.number', { 'data-label': label }, el('span', {}, value, small ? el('small', {}, small) : null));
  draw('servers', state.upstreams.map((upstream) => el('div.upstream', { 'data-key': upstream.name },
    el('h3', {}, upstream.name, el('small', {}, `${upstream.kind} · ${upstream.balance.replaceAll('_', ' ')} · ${perSecond(upstream.answered_per_second)}`
      + `${upstream.failed_per_second ? ` · ${perSecond(upstream.failed_per_second)} failed` : ''}`
      + `${upstream.waiting ? ` · ${count(upstream.waiting)} waiting` : ''}`
      + `${upstream.discovery ? ` · found by ${upstream.discovery.source}` : ''}`)),
    el('table', {}, el('thead', {}, el('tr', {}, ['Server', 'State', upstream.sessions ? 'Sessions' : 'Open'].map((title) => el('th', { scope: 'col' }, title)),
      ['In flight', 'Rate', 'Faults', 'Weight'].map((title) => el('th.number', { scope: 'col' }, title)),
      ['Check', 'Last half hour', ''].map((title) => el('th', { scope: 'col' }, title)))),
    el('tbody', {}, upstream.servers.map((server) => {
      const of = `${server.upstream}/${server.name}`;
      const most = Math.max(...upstream.servers.map((one) => one.sessions), 1);
      const button = (act, text) => el('button', { 'data-act': act, 'data-of': of, 'aria-label': `${text} ${server.name}` }, text);
      return el(`tr.${server.state}`, { 'data-key': server.name },
        el('td', {}, el('b', {}, server.name), server.name === server.address ? null : el('small.mono', {}, server.address), server.priority ? el('small', {}, `priority ${server.priority}`) : null),
        el('td', { 'data-label': 'State' }, el('span', {}, el('span.state', {}, server.ejected_for_seconds ? 'passed over' : server.state), el('small.why', {}, `${server.why} · since ${ago(server.history.at(-1)?.at ?? server.since).replace(' ago', '')}`))),
        upstream.sessions
          ? el('td.load', { 'data-label': 'Sessions' }, el('span', {}, count(server.sessions), el('small', {}, `${count(server.sessions_on_websocket ?? 0)} on WebSocket`),
            el('div.bar', {}, el('i.websocket', { '--part': part(server.sessions_on_websocket ?? 0, most) }), el('i.polling', { '--part': part(server.sessions - (server.sessions_on_websocket ?? 0), most) }))))
          : cell('Open', count(server.open)),
        number('In flight', count(server.in_flight), server.max_connections ? `of ${count(server.max_connections)}` : null),
        number('Rate', perSecond(server.per_second)),
        number('Faults', count(server.connect_failures + server.bad_answers), server.faults_per_second ? perSecond(server.faults_per_second) : null),
        number('Weight', count(server.weight), server.weight === server.configured_weight ? null : `file: ${server.configured_weight}`),
        cell('Check', server.last_check ? [server.last_check.good ? 'good' : 'failed', el('small', {}, `${(server.last_check.took_seconds * 1000).toFixed(1)} ms, ${ago(server.last_check.at)}`)] : 'none'),
        el('td', { 'data-label': 'Half hour' }, strip(server)),
        el('td.actions', {}, server.removed ? el('small', {}, 'removed') : server.state === 'draining' || server.drain
          ? button('undrain', 'Take back') : [button('drain', 'Drain'), button('disable', 'Disable')], server.removed ? null : button('weight', 'Weight')));
    }))))));
}

function shares() {
  const those = state.upstreams.filter((upstream) => upstream.sessions);
  draw('share', those.length === 0 ? el('p.empty', {}, 'No upstream has sessions.') : el('ul.shares', {}, those.map((upstream) => {
    const { live, upgrades: { last_minute: minute, offered, reached } } = upstream.sessions;
    const websockets = upstream.servers.reduce((sum, server) => sum + (server.sessions_on_websocket ?? 0), 0);
    const said = minute.ratio == null ? offered ? `${percent(reached / offered)} of those offered a WebSocket reached it` : 'nobody was offered a WebSocket yet'
      : `${percent(minute.ratio)} reached their WebSocket in the last minute`;
    return el('li', { 'data-key': upstream.name }, el('span', {}, upstream.name, el('small', {}, ` ${count(live)}`)), split(live, websockets), el('small', {}, said));
  })), those.length ? el('p.note', {}, el('span.key.websocket', {}, 'WebSocket'), el('span.key.polling', {}, 'polling')) : null);
  const names = those.flatMap((upstream) => upstream.servers.map((server) => server.name));
  fill($('by-server'), ['', ...new Set(names)].map((name) => el('option', { value: name, 'data-key': `o ${name}` }, name || 'all')));
}

function errors() {
  draw('errors', state.errors.length === 0 ? el('p.empty', {}, 'Nothing so far.') : el('table', {}, el('tbody', {}, state.errors.slice(0, 12).map((error) => {
    const key = `${error.subject} ${error.cause}`;
    const more = error.count - (seenErrors.get(key) ?? 0);
    return el('tr', { 'data-key': key }, el('td', {}, error.cause.replaceAll('_', ' '), el('small', {}, error.subject)),
      el('td.number', {}, el('span', {}, count(error.count), more > 0 ? el('small.warn', {}, `+${count(more)} since this page opened`) : null)));
  }))));
}

function reload() {
  const { generation, loaded, tried, error, cause, plan } = state.reload;
  const fates = (what, { kept, drained, closed }) => el('dd', {}, `${what}: ${count(kept)} kept, ${count(drained)} drained, ${count(closed)} closed`);
  const changes = plan?.changes ?? [];
  draw('reload', el('dl.facts', {},
    el('div', {}, el('dt', {}, 'In force'), el('dd', {}, `no. ${generation}, loaded ${ago(loaded)} by ${cause}`)),
    error ? el('div', {}, el('dt', {}, `Failed ${ago(tried)}; everything has stayed as it was`), el('dd.fault', {}, error)) : null,
    plan ? el('div', {}, el('dt', {}, 'What it changed'), changes.length === 0 ? el('dd', {}, 'nothing') : changes.slice(0, 6).map((change) => el('dd', {}, inWords(change))),
      changes.length > 6 ? el('dd', {}, `and ${changes.length - 6} more`) : null) : null,
    plan ? el('div', {}, el('dt', {}, 'What it meant'), fates('sockets', plan.sockets), fates('sessions', plan.sessions)) : null,
    state.certificates.map((one) => el('div', {}, el('dt', {}, 'Certificate'), el(`dd${one.ends_in_seconds < 14 * 86400 ? '.warn' : ''}`, {}, `${one.file}: ${one.ends_in_seconds < 0 ? 'has ended' : `ends in ${time(one.ends_in_seconds)}`}`)))),
  el('p.more', {}, el('button', { 'data-act': 'reload' }, 'Reload …')));
}

const inWords = (change) => `${change.subject} ${change.name} ${change.verb}${change.what?.length ? `: ${change.what.join(', ')}` : ''}`
  + (change.sockets + change.sessions ? ` (${some(change.sockets, 'socket')}, ${some(change.sessions, 'session')} are there)` : '');

function clients() {
  draw('clients', state.clients.length === 0 ? el('p.empty', {}, 'No session was opened yet.') : state.clients.slice(0, 8).map((client) => el('div.client', { 'data-key': `${client.upstream} ${client.address}` },
    el('span', {}, el('span.mono', {}, client.address), el('small', {}, ` ${client.upstream}`)), el('span', {}, percent(client.share)),
    el('div.bar', {}, el('i', { '--part': client.share.toFixed(4) })))));
}

// -- Sessions, in pages

let cursors = [null];
let listing = 0;

async function listSessions() {
  const mine = ++listing;
  const id = $('by-id').value.trim();
  try {
    const query = new URLSearchParams({ limit: matchMedia('(max-width: 48rem)').matches ? '6' : '12' });
    for (const key of ['server', 'transport', 'address']) if ($(`by-${key}`).value.trim()) query.set(key, $(`by-${key}`).value.trim());
    if (cursors.at(-1)) query.set('cursor', cursors.at(-1));
    const page = id ? { sessions: [await api('GET', `/api/v1/sessions/${encodeURIComponent(id)}`)], next: null } : await api('GET', `/api/v1/sessions?${query}`);
    if (mine !== listing) return;
    draw('sessions', page.sessions.length === 0 ? el('p.empty', {}, 'No such session lives here.') : el('table', {},
      el('thead', {}, el('tr', {}, ['Session', 'Server', 'Transport', 'Age', 'Client', ''].map((title) => el('th', { scope: 'col' }, title)))),
      el('tbody', {}, page.sessions.map((one) => el('tr', { 'data-key': one.session },
        el('td', {}, el('span.mono', {}, one.session)), el('td', { 'data-label': 'Server' }, `${one.server}`),
        el('td', { 'data-label': 'Transport' }, el('span', {}, el(`span.key.${one.transport}`, {}, one.transport), one.leaving ? el('small', {}, 'leaves with its next request') : null)),
        el('td', { 'data-label': 'Age' }, time(one.age_seconds)),
        el('td', { 'data-label': 'Client' }, one.address ? el('span', {}, el('span.mono', {}, one.address), el('small', {}, `by ${one.listener}`)) : el('small', {}, 'between two polls')),
        el('td.actions', {}, el('button', { 'data-act': 'end', 'data-of': one.session, 'data-upstream': one.upstream, 'data-server': one.server }, 'End')))))),
    el('p.more', {}, cursors.length > 1 ? el('button', { 'data-act': 'first', type: 'button' }, 'First page') : null,
      page.next ? el('button', { 'data-act': 'next', 'data-of': page.next, type: 'button' }, 'Next page') : null,
      id ? null : el('small', {}, `page ${cursors.length}; ${some(state.status.sessions, 'session')} in all`)));
  } catch (fault) {
    if (mine === listing) draw('sessions', el('p.fault', {}, fault.message));
  }
}

setInterval(() => {
  if (state && !document.hidden && !document.body.classList.contains('gone')) listSessions();
}, 3000);

// -- What is done, and what it will do before it is

const dialog = $('dialog');
let doing = null;

// Shows what would happen; `act` does it when that is wanted.
function propose(title, verb, body, act) {
  $('dialog-title').textContent = title;
  $('dialog-do').textContent = verb;
  $('dialog-fault').textContent = '';
  $('dialog-body').replaceChildren(...body.filter(Boolean));
  doing = act;
  if (!dialog.open) dialog.showModal();
}

$('dialog-form').addEventListener('submit', async (event) => {
  if (event.submitter?.value !== 'do') return;
  event.preventDefault();
  try {
    await doing();
    dialog.close();
    listSessions();
  } catch (fault) {
    $('dialog-fault').textContent = fault.message;
  }
});

const field = (label, attributes) => el('label', {}, label, el('input', attributes));
const find = (of) => allServers().find((server) => `${server.upstream}/${server.name}` === of);

const acts = {
  async drain(of) {
    const server = find(of);
    const { would } = await api('GET', `${serverPath(server)}/drain`);
    const pace = field('Goodbyes a second', { id: 'pace', type: 'number', min: '0.1', step: 'any', value: would.rate ?? 50 });
    const deadline = field('Everybody who is left goes after', { id: 'deadline', value: '5m' });
    const said = el('p', {});
    const say = () => {
      const seconds = would.open / Math.max(0.1, +pace.querySelector('input').value || 0.1);
      said.textContent = would.open + would.sessions === 0 ? `Nobody is on ${server.name}. It gets no new sessions from then on.`
        : `${some(would.sessions, 'session')} live on ${server.name}, ${some(would.open, 'socket')} are open there. It gets no new sessions from then on, `
          + `and they are told goodbye one after the other, which takes about ${time(Math.max(1, Math.ceil(seconds)))}. `
          + `${would.elsewhere.length ? `Their clients come back on ${would.elsewhere.join(', ')}.` : ''}`;
    };
    pace.addEventListener('input', say);
    say();
    propose(`Drain ${server.name}?`, 'Drain it', [said, would.warning ? el('p.warn', {}, `Mind: ${would.warning}.`) : null, pace, deadline],
      () => api('POST', `${serverPath(server)}/drain`, { rate: +$('pace').value, deadline: $('deadline').value }));
  },
  undrain(of) {
    const server = find(of);
    propose(`Take ${server.name} back?`, 'Take it back', [el('p', {}, `Nobody else is told goodbye, and ${server.name} gets new sessions again. Those that have left stay where they are.`)],
      () => api('DELETE', `${serverPath(server)}/drain`));
  },
  disable(of) {
    const server = find(of);
    propose(`Disable ${server.name}?`, 'Disable it', [el('p', {}, `It gets no new work. Nobody is told goodbye: ${some(server.sessions, 'session')} and ${some(server.in_flight, 'request or tunnel').replace('tunnels', 'tunnels')} go on until they end by themselves.`)],
      () => api('POST', `${serverPath(server)}/disable`));
  },
  weight(of) {
    const server = find(of);
    propose(`Weight of ${server.name}`, 'Set it', [el('p', {}, `It is ${server.weight} now, and ${server.configured_weight} in the file. Another one holds over reloads, until the file says something new of it. Sessions that are there stay.`),
      field('Weight, 1 to 256', { id: 'weight', type: 'number', min: '1', max: '256', value: server.weight })],
    () => api('PUT', `${serverPath(server)}/weight`, { weight: +$('weight').value === server.configured_weight ? null : +$('weight').value }));
  },
  end(of, { upstream, server }) {
    propose('End this session?', 'End it', [el('p', {}, 'Its client is told goodbye and opens another session by itself, most likely within a second or two.'), el('p.mono', {}, `${of} on ${server}`)],
      () => api('DELETE', `/api/v1/sessions/${of}?upstream=${encodeURIComponent(upstream)}`));
  },
  async reload() {
    let plan;
    try {
      plan = await api('GET', '/api/v1/reload/plan');
    } catch (fault) {
      propose('The file can’t be loaded', 'Try it all the same', [el('p.fault', {}, fault.message), el('p', {}, 'Everything would stay as it is.')], () => api('POST', '/api/v1/reload'));
      return;
    }
    const { sockets, sessions } = plan;
    propose('Load the file anew?', 'Reload', [
      el('ul.plan', {}, plan.changes.length ? plan.changes.map((change) => el('li', {}, inWords(change))) : el('li', {}, 'Nothing is different.')),
      el('p', {}, `Sockets: ${count(sockets.kept)} kept, ${count(sockets.drained)} drained, ${count(sockets.closed)} closed. Sessions: ${count(sessions.kept)} kept, ${count(sessions.drained)} drained, ${count(sessions.closed)} closed.`),
      plan.at_next_start.length ? el('p', {}, `Only at the next start: ${plan.at_next_start.join('; ')}.`) : null,
      ...(plan.warnings ?? []).map((warning) => el('p.warn', {}, warning))], () => api('POST', '/api/v1/reload'));
  },
  next(of) {
    cursors.push(of);
    listSessions();
  },
  first() {
    cursors = [null];
    listSessions();
  },
};

document.addEventListener('click', async (event) => {
  const button = event.target.closest('button[data-act]');
  if (!button) return;
  try {
    await acts[button.dataset.act](button.dataset.of, button.dataset);
  } catch (fault) {
    propose('That can’t be done', 'Try again', [el('p.fault', {}, fault.message)], async () => {});
  }
});

$('filters').addEventListener('input', () => acts.first());
$('filters').addEventListener('submit', (event) => event.preventDefault());
$('token').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem('token', $('secret').value.trim());
  $('secret').value = '';
  unlock();
});
addEventListener('resize', () => { if (state) map(); });
follow();
