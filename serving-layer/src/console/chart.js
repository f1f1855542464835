// Drawings as inline SVG. They know nothing of the server: numbers in, elements out. Text only ever goes in as text.

const SVG = 'http://www.w3.org/2000/svg';
const count = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });

/** An element of the page, or of a drawing, with attributes and children. */
export function element(name, attributes = {}, ...children) {
  const isDrawing = ['svg', 'rect', 'line', 'text', 'title', 'g', 'path'].includes(name);
  const node = isDrawing ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** How far the layers are in one partition. What is past the tidemark would be a hair's breadth of a long log, so it gets at
 * least a visible part: the numbers beside it are exact, the picture shows the order. */
export function tide({ start, end, frontier, position }) {
  const least = (part) => (part > 0 ? 14 : 0);
  const all = Math.max(end - start, 1);
  const parts = [frontier - start, position - frontier, end - position].map((part) => Math.max(part, 0));
  const room = 1000 - parts.reduce((sum, part) => sum + least(part), 0);
  const widths = parts.map((part) => least(part) + room * part / all);
  let x = 0;
  const bars = widths.map((width, index) => {
    const bar = element('rect', { class: ['batch', 'speed', 'rest'][index], x, width, height: 20 });
    x += width;
    return bar;
  });
  if (parts[0] > 0) bars.push(element('line', { class: 'mark', x1: widths[0], x2: widths[0], y1: -4, y2: 24 }));
  return element('svg', { viewBox: '0 -4 1000 28', preserveAspectRatio: 'none', role: 'img',
    'aria-label': `recomputed up to ${frontier}, folded up to ${position}, end ${end}` }, ...bars);
}

/** Bars over time, the oldest on the left. Each is `{ label, title, batch, speed }`: two heights that stand on each other. */
export function bars(tiles, what) {
  const [width, height, left, bottom, top] = [900, 220, 56, 24, 10];
  const sums = tiles.map((tile) => tile.batch + tile.speed);
  const [most, least] = [Math.max(...sums, 0), Math.min(...sums, 0)];
  const [high, low] = [most > 0 || least === 0 ? niceEnd(most) : 0, least < 0 ? -niceEnd(-least) : 0];
  const y = (value) => top + (height - top - bottom) * (high - value) / (high - low);
  // A few tiles stand at the right, where the next ones come.
  const slots = Math.max(tiles.length, 24);
  const step = (width - left) / slots;
  const origin = left + step * (slots - tiles.length);
  const drawing = [];
  for (const value of low < 0 && high > 0 ? [low, 0, high] : [low, (low + high) / 2, high]) {
    const at = y(value);
    drawing.push(element('line', { class: 'grid', x1: left, x2: width, y1: at, y2: at }));
    drawing.push(element('text', { class: 'axis', x: left - 8, y: at + 4, 'text-anchor': 'end' }, short(value)));
  }
  tiles.forEach((tile, index) => {
    const x = origin + index * step;
    const bar = (from, to, of) => element('rect', { class: of, x: x + step * 0.1, width: step * 0.8,
      y: Math.min(y(from), y(to)), height: Math.abs(y(from) - y(to)) });
    // Parts of different signs do not stand on each other: one bar, of the larger part.
    const [batch, speed] = tile.batch * tile.speed >= 0 ? [tile.batch, tile.speed]
      : Math.abs(tile.batch) >= Math.abs(tile.speed) ? [sums[index], 0] : [0, sums[index]];
    drawing.push(element('g', {}, element('title', {}, tile.title),
      element('rect', { class: 'hover', x, width: step, y: top, height: height - top - bottom }),
      bar(0, batch, 'batch'), bar(batch, batch + speed, 'speed')));
  });
  const labels = Math.min(tiles.length, Math.max(1, Math.floor(tiles.length * step / 120)));
  for (let label = 0; label < labels; label += 1) {
    const isLast = label === labels - 1;
    const index = isLast ? tiles.length - 1 : Math.round(label * (tiles.length - 1) / (labels - 1));
    const anchor = isLast ? 'end' : label === 0 ? 'start' : 'middle';
    const x = origin + step * (index + (isLast ? 1 : label === 0 ? 0 : 0.5));
    drawing.push(element('text', { class: 'axis', x, y: height - 6, 'text-anchor': anchor }, tiles[index].label));
  }
  return element('svg', { class: 'chart', viewBox: `0 0 ${width} ${height}`, role: 'img',
    'aria-label': `${what}: ${tiles.length} tiles, at most ${count.format(most)}` }, ...drawing);
}

/** 1, 2 or 5 times a power of ten, not less than the value. */
function niceEnd(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((end) => end >= value) ?? value;
}

function short(value) {
  return new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 }).format(value);
}
