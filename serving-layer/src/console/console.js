// The console: asks this server, and nobody else, how everything stands and what one view answers, once a second.
import { bars, element, tide } from '/chart.js';

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat('en', { maximumFractionDigits: 3 });
/** How long a tick may take before the server counts as away. */
const PATIENCE = 8000;
/** How many characters of a value are shown in a table. */
const SHOWN = 160;

const state = { views: null, chosen: null, before: null, rates: [], cells: new Map(), letters: '', awaySince: null, asked: 0 };

async function ask(url, options = {}) {
  const response = await fetch(url, { headers: { accept: 'application/json' }, signal: AbortSignal.timeout(PATIENCE), ...options });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.detail || body.title || `status ${response.status}`), { status: response.status });
  return body;
}

const sum = (items, value) => items.reduce((total, item) => total + (value(item) || 0), 0);
const cut = (text) => (text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text);

function span(ms) {
  if (ms === null || ms === undefined) return 'unknown';
  if (ms < 1000) return `${ms} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / 3_600_000)} h`;
}

/** The width of a tile. */
function width(seconds) {
  const [unit, name] = [[86_400, 'd'], [3600, 'h'], [60, 'min']].find(([unit]) => seconds % unit === 0) ?? [1, 's'];
  return `${count.format(seconds / unit)} ${name}`;
}

// ——— how everything stands

function showStatus(status, runs) {
  const topics = Object.entries(status.topics);
  const partitions = topics.flatMap(([topic, t]) => t.partitions.map((p) => ({ topic, ...p })));
  const views = Object.entries(status.views);
  showRate(sum(topics, ([, t]) => t.accepted));
  $('events').textContent = count.format(sum(partitions, (p) => p.end));
  const unknown = views.find(([, v]) => v.freshness_ms === null);
  const slowest = unknown ?? views.reduce((worst, view) => (worst && worst[1].freshness_ms >= view[1].freshness_ms ? worst : view), null);
  $('freshness').textContent = slowest ? span(slowest[1].freshness_ms) : '–';
  $('slowest').textContent = slowest ? `behind the log, slowest of ${views.length} views` : 'no views';
  $('generation').textContent = status.generation === null ? 'none yet' : `generation ${status.generation}`;
  $('frontier').textContent = status.generation === null ? 'no batch run so far'
    : `${count.format(sum(partitions, (p) => p.frontier))} records recomputed`;
  $('lag').textContent = count.format(sum(partitions, (p) => p.lag_records));
  const waiting = partitions.filter((p) => p.lag_records > 0);
  const trouble = partitions.find((p) => p.error);
  $('lag-time').textContent = trouble ? `${trouble.topic}/${trouble.partition}: ${cut(trouble.error)}`
    : waiting.length ? `the oldest for ${span(Math.max(...waiting.map((p) => p.lag_ms ?? 0)))}` : 'the speed layer is at the end';
  const dead = sum(topics, ([, t]) => t.dead_letters);
  $('dead').textContent = count.format(dead);
  $('rejected').textContent = `${count.format(sum(topics, ([, t]) => t.rejected))} since the start`;
  const failed = views.filter(([, v]) => v.failed).map(([name]) => name);
  $('state').textContent = failed.length ? `views that failed: ${failed.join(', ')}`
    : status.ready ? `version ${status.version}, up ${span(status.uptime_seconds * 1000)}` : 'catching up with the log';
  $('partitions').replaceChildren(...partitions.map(partition));
  showRuns(runs);
  showFreshness(status.views);
  showNothing(topics, partitions);
  if (state.letters !== String(dead)) {
    state.letters = String(dead);
    showLetters(topics.map(([topic]) => topic)).catch(() => { state.letters = ''; });
  }
}

/** Events a second, over the last few ticks: one tick alone jumps about. */
function showRate(accepted) {
  const now = performance.now();
  const last = state.rates.at(-1);
  if (last && accepted < last.accepted) state.rates = []; // The server started anew.
  state.rates.push({ accepted, now });
  state.rates = state.rates.slice(-6);
  const [first] = state.rates;
  if (now > first.now) {
    const rate = (accepted - first.accepted) * 1000 / (now - first.now);
    $('rate').textContent = `${count.format(Math.round(rate))} a second`;
  }
}

function partition(p) {
  const frontier = Math.max(p.frontier || 0, p.start);
  const position = Math.max(p.position || 0, frontier);
  const [recomputed, kept, waiting] = [frontier - p.start, position - frontier, Math.max(p.end - position, 0)];
  const words = [recomputed ? `${count.format(recomputed)} recomputed` : 'nothing recomputed', `${count.format(kept)} kept live`];
  if (waiting) words.push(`${count.format(waiting)} waiting`);
  return element('div', { class: 'partition' }, element('span', {}, `${p.topic}/${p.partition}`),
    tide({ start: p.start, end: p.end, frontier, position }), element('span', {}, p.end > 0 ? words.join(' · ') : 'empty'));
}

function showRuns(runs) {
  const [newest] = runs;
  const running = newest?.state === 'running';
  $('run').disabled = running;
  const progress = running ? newest.progress : null;
  $('run-progress').hidden = !running;
  if (running && progress?.total) $('run-progress').value = progress.done / progress.total;
  else $('run-progress').removeAttribute('value');
  if (!newest) $('run-state').textContent = 'no run since the server started';
  else if (running) $('run-state').textContent = `generation ${newest.generation}: ${[progress?.phase, progress?.view].filter(Boolean).join(' ')}`;
  else {
    const took = Date.parse(newest.finished) - Date.parse(newest.started);
    const what = newest.error ? `failed: ${cut(newest.error)}` : `generation ${newest.generation} ${newest.state}, ${count.format(newest.rows)} rows in ${span(took)}`;
    $('run-state').textContent = `last run: ${what}, ${span(Math.max(Date.now() - Date.parse(newest.finished), 0))} ago`;
  }
}

async function runBatch() {
  $('run').disabled = true;
  try {
    await ask('/v1/batch/runs', { method: 'POST' });
  } catch (error) {
    $('run-state').textContent = error.message;
  }
}

function showNothing(topics, partitions) {
  const isEmpty = partitions.every((p) => p.end === 0);
  $('nothing').hidden = !isEmpty && state.views?.length !== 0;
  $('nothing').textContent = state.views?.length === 0 ? 'This application defines no views.'
    : `No events yet. Post some: curl -H 'content-type: application/json' ${location.origin}/v1/topics/${topics[0]?.[0] ?? 'TOPIC'}/events -d '{…}'`;
}

async function showLetters(topics) {
  const rows = [];
  for (const topic of topics) {
    const answer = await ask(`/v1/topics/${encodeURIComponent(topic)}/dead-letters?limit=5`);
    for (const letter of answer.dead_letters) {
      rows.push(element('tr', {}, element('td', { class: 'time' }, new Date(letter.time).toLocaleTimeString()), element('td', { class: 'time' }, topic),
        element('td', {}, cut(letter.reason ?? '')), element('td', { class: 'original' }, cut(letter.original ?? letter.original_base64 ?? ''))));
    }
  }
  const head = element('tr', {}, ...['time', 'topic', 'reason', 'as it came'].map((name) => element('th', { scope: 'col' }, name)));
  const table = element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows));
  $('letters').replaceChildren(rows.length ? element('div', { class: 'scroll' }, table) : element('p', { class: 'hint' }, 'None.'));
}

// ——— views

async function loadViews() {
  state.views = (await ask('/v1/views')).views;
  $('views').replaceChildren(...state.views.map((view) => {
    const button = element('button', { type: 'button', class: 'view', 'aria-pressed': 'false', 'data-view': view.name },
      element('b', {}, view.name), element('small', {}, view.key.length ? `by ${view.key.join(', ')}` : 'one answer'), element('small', { class: 'fresh' }, ' '));
    button.addEventListener('click', () => choose(view));
    return button;
  }));
  const wanted = new URLSearchParams(location.hash.slice(1)).get('view');
  const first = state.views.find((view) => view.name === wanted) ?? state.views.find((view) => view.time_column) ?? state.views[0];
  if (first) await choose(first, new URLSearchParams(location.hash.slice(1)));
}

function showFreshness(views) {
  for (const button of $('views').children) {
    const view = views[button.dataset.view];
    if (!view) continue;
    const isLate = view.failed || view.freshness_ms === null;
    button.classList.toggle('failed', Boolean(isLate));
    button.querySelector('.fresh').textContent = view.failed ? 'failed' : `${span(view.freshness_ms)} · ${view.generation === null ? 'no generation' : `gen ${view.generation}`}`;
  }
}

/** Shows a view; its key from `given`, or else some key there is. */
async function choose(view, given = new URLSearchParams()) {
  state.chosen = view;
  state.asked += 1;
  state.cells = new Map();
  for (const button of $('views').children) button.setAttribute('aria-pressed', String(button.dataset.view === view.name));
  $('view').hidden = false;
  $('view-name').textContent = view.name;
  $('sql').textContent = view.sql;
  $('rows').replaceChildren();
  $('chart').replaceChildren();
  $('caption').textContent = '';
  $('figure').hidden = $('table').hidden = true;
  $('moment').textContent = '';
  $('problem').hidden = true;
  const tiles = view.tile_seconds;
  $('tiles-label').hidden = $('column-label').hidden = !view.time_column;
  $('width-label').hidden = !tiles;
  const widths = [1, 5, 15, 60].map((times) => element('option', { value: times === 1 ? '' : `${tiles * times}s` }, width(tiles * times)));
  $('width').replaceChildren(...(tiles ? widths : []));
  const numbers = view.columns.filter((column) => /^(U?Int|Float|Decimal)/.test(column.type) && !view.group_columns.includes(column.name));
  $('column').replaceChildren(...numbers.map((column) => element('option', {}, column.name)));
  $('key').replaceChildren(...view.key.map((column, index) => element('label', {}, `${column} `,
    element('input', { name: column, spellcheck: 'false', ...(index === 0 ? { list: 'keys' } : {}), value: given.get(`key.${column}`) ?? '' }))));
  $('keys').replaceChildren();
  await suggestKeys(view, view.key.every((column) => !given.has(`key.${column}`)));
  if (state.chosen === view) await lookUp();
}

async function suggestKeys(view, isOpen) {
  if (view.key.length === 0) return;
  const { keys } = await ask(`/v1/views/${encodeURIComponent(view.name)}/keys?limit=50`).catch(() => ({ keys: [] }));
  if (state.chosen !== view) return;
  const named = keys.filter((key) => view.key.every((column) => key[column] !== null));
  $('keys').replaceChildren(...named.map((key) => element('option', { value: String(key[view.key[0]]) })));
  if (!isOpen || named.length === 0) return;
  for (const input of $('key').querySelectorAll('input')) input.value = String(named[0][input.name]);
}

function question(view) {
  const parameters = new URLSearchParams({ explain: 'true', limit: '50' });
  for (const input of $('key').querySelectorAll('input')) parameters.append(`key.${input.name}`, input.value);
  const tile = view.time_column;
  if (tile && view.columns.some((column) => column.name === tile)) {
    parameters.set('order', `-${tile}`);
    parameters.set('limit', $('tiles').value);
    if ($('width').value) parameters.set('rollup', $('width').value);
  }
  return `/v1/views/${encodeURIComponent(view.name)}?${parameters}`;
}

async function lookUp() {
  const view = state.chosen;
  const inputs = [...$('key').querySelectorAll('input')];
  if (!view) return;
  if (inputs.some((input) => input.value === '') && inputs.length > 0 && !state.typed) {
    if (inputs.every((input) => document.activeElement !== input)) await suggestKeys(view, true);
    if (inputs.some((input) => input.value === '')) return;
  }
  const url = question(view);
  const turn = ++state.asked;
  try {
    const answer = await ask(url);
    // Somebody may have asked something else meanwhile.
    if (turn !== state.asked) return;
    showAnswer(view, answer);
    $('problem').hidden = true;
  } catch (error) {
    if (turn !== state.asked) return;
    if (error.status === undefined) throw error;
    $('problem').textContent = error.message;
    $('problem').hidden = false;
  }
}

function showAnswer(view, answer) {
  showChart(view, answer.rows);
  showRows(view, answer.rows);
  const generation = answer.generation === null ? 'no generation yet' : `generation ${answer.generation}`;
  const late = answer.freshness_ms === null ? 'how far behind the log is not known' : `${span(answer.freshness_ms)} behind the log`;
  $('moment').replaceChildren(`${count.format(answer.rows.length)} ${answer.rows.length === 1 ? 'row' : 'rows'}${answer.cursor ? ', more to come' : ''} · ${generation} · ${late} · `,
    element('a', { href: question(view) }, 'as JSON'));
  if (answer.degraded) $('moment').append(element('strong', { class: 'bad' }, ` ${answer.degraded.as}: ${cut(answer.degraded.reason)}`));
}

function showChart(view, rows) {
  const [tile, column] = [view.time_column, $('column').value];
  $('figure').hidden = !tile || !column || rows.length === 0;
  if ($('figure').hidden) return;
  // Other group columns make several rows of a tile: they are added up, or the largest counts where adding up means nothing.
  const tiles = new Map();
  for (const row of rows) {
    if (row[tile] === null || typeof row[column] !== 'number') continue;
    const speed = row.layers.speed.map((delta) => delta.values?.[column] ?? 0);
    const batch = row.layers.batch?.values?.[column] ?? 0;
    const live = sum(speed, (value) => value);
    // Where the layers' parts do not add up (a mean, a count of different ones), the bar is of the layers that are in it.
    const addsUp = Math.abs(batch + live - row[column]) <= 1e-9 * Math.abs(row[column]);
    const share = addsUp ? batch : speed.length === 0 ? row[column] : row.layers.batch ? row[column] / 2 : 0;
    const known = tiles.get(row[tile]) ?? { batch: 0, speed: 0 };
    tiles.set(row[tile], { batch: known.batch + share, speed: known.speed + row[column] - share });
  }
  const ordered = withGaps([...tiles].sort(([a], [b]) => Date.parse(a) - Date.parse(b)), parseFloat($('width').value) || view.tile_seconds);
  const days = new Set(ordered.map(([time]) => time.slice(0, 10))).size > 1;
  $('chart').replaceChildren(bars(ordered.map(([time, tile]) => ({ ...tile, label: days ? time.slice(5, 16).replace('T', ' ') : time.slice(11, 16),
    title: `${time}: ${count.format(tile.batch + tile.speed)}` })), column));
  const first = ordered[0]?.[0] ?? '';
  $('caption').textContent = `${column} per tile, UTC${days ? '' : `, ${first.slice(0, 10)}`}; dark: from the generation, light: from the speed layer's deltas past it`;
}

/** Puts empty tiles in between, unless they would be nearly all there is. */
function withGaps(tiles, seconds) {
  if (!seconds || tiles.length < 2) return tiles;
  const [first, last] = [Date.parse(tiles[0][0]), Date.parse(tiles.at(-1)[0])];
  const wanted = Math.round((last - first) / (seconds * 1000)) + 1;
  if (wanted > 4 * $('tiles').value) return tiles;
  const known = new Map(tiles.map(([time, tile]) => [Date.parse(time), tile]));
  const all = [];
  for (let at = first; at <= last; at += seconds * 1000) {
    all.push([new Date(at).toISOString().replace('.000', ''), known.get(at) ?? { batch: 0, speed: 0 }]);
    known.delete(at);
  }
  // Tiles that do not lie in a row (of calendar units, say) stay as they are.
  return known.size > 0 ? tiles : all;
}

function showRows(view, rows) {
  const names = rows.length ? Object.keys(rows[0]).filter((name) => name !== 'layers') : view.columns.map((column) => column.name);
  const groups = names.filter((name) => view.group_columns.includes(name));
  const seen = new Map();
  const body = rows.map((row) => {
    const group = JSON.stringify(groups.map((name) => row[name]));
    const cells = names.map((name) => {
      const text = shown(row[name]);
      const place = `${group} ${name}`;
      const isChanged = state.cells.size > 0 && state.cells.get(place) !== text;
      seen.set(place, text);
      const isShort = typeof row[name] === 'number' ? 'num' : /^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(text) ? 'time' : '';
      const cell = element('td', { class: `${isShort}${isChanged ? ' changed' : ''}` }, cut(text));
      if (text.length > SHOWN) cell.title = text.slice(0, 2000);
      return cell;
    });
    return element('tr', {}, ...cells, element('td', { class: 'layers' }, layers(row.layers)));
  });
  state.cells = seen;
  const isNumber = (name) => rows.length > 0 && rows.every((row) => typeof row[name] === 'number');
  const head = element('tr', {}, ...[...names, 'made of'].map((name) => element('th', { scope: 'col', class: isNumber(name) ? 'num' : '' }, name)));
  $('table').hidden = false;
  $('rows').replaceChildren(element('thead', {}, head), element('tbody', {}, ...body));
}

function layers({ batch, speed }) {
  const parts = [batch ? `generation ${batch.generation}` : '', speed.length ? `${speed.length} ${speed.length === 1 ? 'delta' : 'deltas'}` : ''];
  return parts.filter(Boolean).join(' + ');
}

function shown(value) {
  if (value === null) return '–';
  if (typeof value === 'number') return count.format(value);
  return typeof value === 'object' ? JSON.stringify(value) : value;
}

// ——— over and over

async function tick() {
  try {
    const [status, { runs }] = await Promise.all([ask('/v1/status'), ask('/v1/batch/runs')]);
    if (!state.views || state.awaySince) await loadViews();
    showStatus(status, runs);
    if (state.chosen && !document.hidden) await lookUp();
    state.awaySince = null;
  } catch (error) {
    state.awaySince ??= new Date();
    $('away').textContent = `No answer from the server since ${state.awaySince.toLocaleTimeString()}: what is shown is from before. Trying again. (${error.message})`;
    $('state').textContent = 'no answer';
  }
  $('away').hidden = !state.awaySince;
  $('main').classList.toggle('stale', Boolean(state.awaySince));
  setTimeout(tick, document.hidden ? 5000 : 1000);
}

function remember() {
  const parameters = new URLSearchParams({ view: state.chosen.name });
  for (const input of $('key').querySelectorAll('input')) parameters.set(`key.${input.name}`, input.value);
  history.replaceState(null, '', `#${parameters}`);
}

$('run').addEventListener('click', runBatch);
$('lookup').addEventListener('submit', (event) => { event.preventDefault(); state.typed = true; state.cells = new Map(); remember(); lookUp().catch(() => {}); });
for (const id of ['tiles', 'width', 'column']) $(id).addEventListener('change', () => { state.cells = new Map(); lookUp().catch(() => {}); });
tick();
