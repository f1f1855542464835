// The console: polls this server's own /v1/status and one view, and shows what changed. Text only ever goes in as text.
'use strict';

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat('en');
const state = { views: [], before: null, cells: new Map(), asked: false, asking: false };

function element(name, attributes = {}, ...children) {
  const svg = ['svg', 'rect'].includes(name);
  const node = svg ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

async function ask(url) {
  const response = await fetch(url, { headers: { accept: 'application/json' } });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail || body.title || `status ${response.status}`);
  return body;
}

function sum(items, value) {
  return items.reduce((total, item) => total + (value(item) || 0), 0);
}

function span(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms < 1000) return `${ms} ms`;
  if (ms < 120000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.round(ms / 60000)} min`;
}

function showStatus(status) {
  const topics = Object.entries(status.topics);
  const partitions = topics.flatMap(([topic, t]) => t.partitions.map((p) => ({ topic, ...p })));
  const accepted = sum(topics, ([, t]) => t.accepted);
  const now = performance.now();
  if (state.before && now > state.before.at) {
    const perSecond = (accepted - state.before.accepted) * 1000 / (now - state.before.at);
    $('rate').textContent = `${count.format(Math.max(0, Math.round(perSecond)))} a second`;
  }
  state.before = { accepted, at: now };
  $('events').textContent = count.format(accepted);
  $('end').textContent = count.format(sum(partitions, (p) => p.end));
  $('lag').textContent = `${count.format(sum(partitions, (p) => p.lag_records))} not folded yet`;
  $('generation').textContent = status.generation === null ? 'none yet' : `generation ${status.generation}`;
  $('frontier').textContent = status.generation === null ? 'no batch run so far'
    : `${count.format(sum(partitions, (p) => p.frontier))} records recomputed`;
  const views = Object.entries(status.views);
  const slowest = views.reduce((worst, [name, v]) => (worst && worst[1] >= v.freshness_ms ? worst : [name, v.freshness_ms]), null);
  $('freshness').textContent = slowest ? span(slowest[1]) : '–';
  $('slowest').textContent = slowest ? `slowest of ${views.length} views` : 'no views';
  $('dead').textContent = count.format(sum(topics, ([, t]) => t.dead_letters));
  $('rejected').textContent = `${count.format(sum(topics, ([, t]) => t.rejected))} since the start`;
  const failed = views.filter(([, v]) => v.failed).map(([name]) => name);
  $('state').textContent = failed.length ? `failed: ${failed.join(', ')}`
    : status.ready ? `version ${status.version}, up ${span(status.uptime_seconds * 1000)}` : 'catching up';
  $('partitions').replaceChildren(...partitions.map(bar));
}

function bar(p) {
  const end = Math.max(p.end, 1);
  const frontier = p.frontier || 0;
  const position = Math.max(p.position || 0, frontier);
  return element('div', { class: 'partition' },
    element('span', {}, `${p.topic}/${p.partition}`),
    element('svg', { viewBox: '0 0 1000 10', preserveAspectRatio: 'none', role: 'img',
      'aria-label': `recomputed up to ${frontier}, folded up to ${position}, end ${p.end}` },
      element('rect', { class: 'speed', width: 1000 * position / end, height: 10 }),
      element('rect', { class: 'batch', width: 1000 * frontier / end, height: 10 })),
    element('span', {}, count.format(p.end)));
}

function chosen() {
  return state.views.find((view) => view.name === $('view').value);
}

function showView() {
  const view = chosen();
  if (!view) return;
  $('sql').textContent = view.sql;
  $('key').replaceChildren(...view.key.map((column) =>
    element('label', {}, `${column} `, element('input', { name: column, spellcheck: 'false' }))));
  $('rows').replaceChildren();
  $('moment').textContent = '';
  $('problem').hidden = true;
  state.cells.clear();
  state.asked = false;
}

function query(view) {
  const parameters = new URLSearchParams($('options').value);
  for (const column of view.key) {
    const value = $('key').querySelector(`input[name="${CSS.escape(column)}"]`).value;
    parameters.append(column, value);
  }
  if (!parameters.has('limit')) parameters.set('limit', '50');
  return `/v1/views/${encodeURIComponent(view.name)}?${parameters}`;
}

async function lookUp() {
  const view = chosen();
  if (!view || state.asking) return;
  state.asking = true;
  try {
    const answer = await ask(query(view));
    if (chosen() !== view) return;
    showRows(view, answer);
    $('problem').hidden = true;
  } catch (error) {
    $('problem').textContent = error.message;
    $('problem').hidden = false;
  } finally {
    state.asking = false;
  }
}

function showRows(view, answer) {
  const columns = answer.rows.length ? Object.keys(answer.rows[0]) : view.columns.map((column) => column.name);
  const groups = columns.filter((column) => view.group_columns.includes(column));
  const head = element('tr', {}, ...columns.map((column) => element('th', {}, column)));
  const seen = new Map();
  const body = answer.rows.map((row) => {
    const group = JSON.stringify(groups.map((column) => row[column]));
    return element('tr', {}, ...columns.map((column) => {
      const value = row[column];
      const text = typeof value === 'object' ? JSON.stringify(value) : typeof value === 'number' ? count.format(value) : String(value);
      const place = `${group} ${column}`;
      const known = state.cells.get(place);
      seen.set(place, text);
      const changed = state.cells.size > 0 && known !== text ? ' changed' : '';
      return element('td', { class: (typeof value === 'number' ? 'num' : '') + changed }, text);
    }));
  });
  state.cells = seen;
  $('rows').replaceChildren(element('thead', {}, head), element('tbody', {}, ...body));
  const generation = answer.generation === null ? 'no generation' : `generation ${answer.generation}`;
  $('moment').textContent = `${count.format(answer.rows.length)} rows${answer.cursor ? ', more to come' : ''} · ${generation} · ${span(answer.freshness_ms)} behind the log`
    + (answer.degraded ? ` · ${answer.degraded.as}: ${answer.degraded.reason}` : '');
}

async function tick() {
  try {
    showStatus(await ask('/v1/status'));
    if (state.views.length === 0) {
      state.views = (await ask('/v1/views')).views;
      $('view').replaceChildren(...state.views.map((view) => element('option', {}, view.name)));
      showView();
    }
    // A view with a key is asked once somebody has said which; the others at once.
    const asked = state.asked || (chosen() && chosen().key.length === 0);
    if ($('live').checked && asked) await lookUp();
  } catch (error) {
    $('state').textContent = `no answer: ${error.message}`;
  }
  setTimeout(tick, document.hidden ? 5000 : 1000);
}

$('view').addEventListener('change', showView);
$('lookup').addEventListener('submit', (event) => { event.preventDefault(); state.asked = true; lookUp(); });
tick();
