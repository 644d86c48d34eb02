// Markdown inside a paragraph: text -> tree of plain objects. Knows nothing of the page.
//
// Two rules differ from CommonMark because answers are written so: a line break in the text is a line break, and `**`
// closes after punctuation too (`**重点：**说明`). TeX between \( \), \[ \] or $$ $$ stays as it is written.

const MOST_OPEN = 32; // emphasis that is open at one time; more stays text, which bounds depth and work
const LONGEST_RUN = 3; // ***strong emphasis***; a longer run of stars is a line drawn by hand
const LONGEST_LINK = 2000;
const SCHEMES = new Set(['http:', 'https:', 'mailto:']);
const SPECIAL = /[\\`*_~[!<&$\n]|https?:\/\//g;
const ESCAPED = /[!"#$%&'*+,\-./:;<=>?@^_`{|}~\\]/; // without brackets: \( and \[ begin TeX
const URL_TEXT = /https?:\/\/[^\s<>"'`|，。、；：！？）】》」”’]+/y;
const ANGLE_URL = /<((?:https?:\/\/|mailto:)[^\s<>]*)>/y;
const LINE_BREAK_TAG = /<br ?\/?>/iy;
const TITLE = /^\s+(?:"[^"]*"|'[^']*')$/;
const ENTITY = /&(lt|gt|amp|quot|nbsp|#39);/y;
const ENTITIES = { lt: '<', gt: '>', amp: '&', quot: '"', nbsp: '\u00a0', '#39': "'" };
const MATH = [['\\(', '\\)'], ['\\[', '\\]'], ['$$', '$$']];

/** Return an address that may be linked to, or null: no script, no data, no path on this server. */
export function safeAddress(text) {
  try {
    const address = new URL(text); // also drops the tabs and newlines that hide a scheme
    return SCHEMES.has(address.protocol) ? address.href : null;
  } catch {
    return null;
  }
}

/** Return the nodes of a paragraph: text, code, math, break, strong, em, del and link. */
export function parseInline(text, inLink = false) {
  const scan = { text, inLink, code: codeSpans(text), out: new Emphasis(), ended: new Set() };
  scan.closing = inLink ? new Map() : matchingBrackets(text, scan.code);
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    if (!found) break;
    scan.out.text(text.slice(at, found.index));
    const next = READERS[found[0][0]](scan, found.index);
    if (next === null) scan.out.text(found[0]);
    at = next ?? found.index + found[0].length;
  }
  scan.out.text(text.slice(at));
  return scan.out.close();
}

// Each reads what begins at `at`, or returns null when it is mere text; otherwise the position behind it.
const READERS = {
  '\\': (scan, at) => {
    const math = readMath(scan, at);
    if (math !== null) return math;
    if (!ESCAPED.test(scan.text[at + 1] ?? '')) return null;
    scan.out.text(scan.text[at + 1]);
    return at + 2;
  },
  '`': (scan, at) => {
    const span = scan.code.get(at);
    if (span) scan.out.add({ type: 'code', text: span.text });
    else scan.out.text(runAt(scan.text, at));
    return span ? span.end : at + runAt(scan.text, at).length;
  },
  '*': readRun,
  _: readRun,
  '~': readRun,
  $: readMath,
  '[': (scan, at) => readLink(scan, at, at),
  '!': (scan, at) => (scan.text[at + 1] === '[' ? readLink(scan, at + 1, at) : null), // a picture is linked, not fetched
  '<': (scan, at) => {
    const tag = matchAt(LINE_BREAK_TAG, scan.text, at);
    if (tag) scan.out.add({ type: 'break' });
    const angle = tag ? null : matchAt(ANGLE_URL, scan.text, at);
    if (angle && !addLink(scan, angle[1], [{ type: 'text', text: angle[1] }])) return null;
    return tag || angle ? at + (tag ?? angle)[0].length : null;
  },
  '&': (scan, at) => {
    const entity = matchAt(ENTITY, scan.text, at);
    if (!entity) return null;
    scan.out.text(ENTITIES[entity[1]]);
    return at + entity[0].length;
  },
  '\n': (scan, at) => {
    scan.out.add({ type: 'break' });
    return at + 1;
  },
  h: (scan, at) => {
    const found = /\w/.test(scan.text[at - 1] ?? '') ? null : matchAt(URL_TEXT, scan.text, at);
    if (!found || scan.inLink) return null;
    const address = withoutTail(found[0]);
    return addLink(scan, address, [{ type: 'text', text: address }]) ? at + address.length : null;
  },
};

function matchAt(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

function runAt(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return text.slice(at, end);
}

function addLink(scan, target, children) {
  const href = scan.inLink ? null : safeAddress(target);
  if (href) scan.out.add({ type: 'link', href, children });
  return href !== null;
}

/** The dot that ends a sentence, and a bracket that was opened before the address, are not part of it. */
function withoutTail(address) {
  let end = address.length;
  while (end > 0 && /[.,;:!?*_~)\]]/.test(address[end - 1])) {
    if (address[end - 1] === ')' && isBalanced(address.slice(0, end))) break;
    end -= 1;
  }
  return address.slice(0, end);
}

function isBalanced(address) {
  return address.split('(').length === address.split(')').length;
}

function readLink(scan, open, start) {
  const close = scan.closing.get(open);
  if (close === undefined || scan.text[close + 1] !== '(') return null;
  const target = readTarget(scan.text, close + 2);
  if (!target) return null;
  const label = scan.text.slice(open + 1, close) || target.address;
  // What cannot be linked to is shown as it was written, address and all.
  if (!addLink(scan, target.address, parseInline(label, true))) scan.out.text(scan.text.slice(start, target.end));
  return target.end;
}

/** Read `address "title")`; the title is dropped. */
function readTarget(text, from) {
  let depth = 1;
  const last = Math.min(text.length, from + LONGEST_LINK);
  for (let at = from; at < last; at += 1) {
    if (text[at] === '\\') at += 1;
    else if (text[at] === '(') depth += 1;
    else if (text[at] === ')') depth -= 1;
    if (depth > 0) continue;
    const inside = text.slice(from, at).trim();
    const blank = inside.search(/\s/);
    if (blank >= 0 && !TITLE.test(inside.slice(blank))) return null;
    const address = (blank < 0 ? inside : inside.slice(0, blank)).replace(/^<(.*)>$/, '$1');
    return { address, end: at + 1 };
  }
  return null;
}

function readMath(scan, at) {
  const pair = MATH.find(([open]) => scan.text.startsWith(open, at));
  if (!pair || scan.ended.has(pair[1])) return null;
  const close = scan.text.indexOf(pair[1], at + 2);
  if (close < 0) {
    scan.ended.add(pair[1]); // or a text full of openers would be searched to its end for each
    return null;
  }
  scan.out.add({ type: 'math', text: scan.text.slice(at, close + 2) });
  return close + 2;
}

function readRun(scan, at) {
  const { text } = scan;
  const run = runAt(text, at);
  const before = text[at - 1] ?? ' ';
  const after = text[at + run.length] ?? ' ';
  // snake_case is a word; 2 * 3 * 4 is a product.
  const opens = !/\s/.test(after) && (run[0] === '*' || !/\w/.test(before));
  const closes = !/\s/.test(before) && (run[0] === '*' || !/\w/.test(after));
  if (run.length > LONGEST_RUN || (run[0] === '~' && run.length !== 2)) scan.out.text(run);
  else scan.out.run(run, opens, closes);
  return at + run.length;
}

/** Return the code spans by where they begin: {end, text}. */
function codeSpans(text) {
  const runs = [...text.matchAll(/`+/g)];
  const places = new Map(); // length of a run -> where such runs begin, the last one first
  for (const run of runs.toReversed()) {
    if (!places.has(run[0].length)) places.set(run[0].length, []);
    places.get(run[0].length).push(run.index);
  }
  const spans = new Map();
  let behind = 0;
  for (const { index, 0: marks } of runs) {
    const partners = places.get(marks.length);
    while (partners.at(-1) <= index) partners.pop();
    if (index < behind || text[index - 1] === '\\' || partners.length === 0) continue;
    behind = partners.at(-1) + marks.length;
    const inside = text.slice(index + marks.length, partners.at(-1)).replaceAll('\n', ' ');
    const isPadded = inside.startsWith(' ') && inside.endsWith(' ') && inside.trim() !== '';
    spans.set(index, { end: behind, text: isPadded ? inside.slice(1, -1) : inside });
  }
  return spans;
}

/** Return for each `[` the place of its `]`; code and escaped ones do not count. */
function matchingBrackets(text, code) {
  const closing = new Map();
  const open = [];
  for (let at = 0; at < text.length; at += 1) {
    if (code.has(at)) at = code.get(at).end - 1;
    else if (text[at] === '\\') at += 1;
    else if (text[at] === '[') open.push(at);
    else if (text[at] === ']' && open.length > 0) closing.set(open.pop(), at);
  }
  return closing;
}

/** Collects nodes; runs of * _ ~ become emphasis when their partner comes, else they stay text. */
class Emphasis {
  constructor() {
    this.frames = [{ char: '', count: 0, children: [] }];
  }

  get top() {
    return this.frames[this.frames.length - 1];
  }

  add(node) {
    this.top.children.push(node);
  }

  text(text) {
    const last = this.top.children.at(-1);
    if (text && last?.type === 'text') last.text += text;
    else if (text) this.add({ type: 'text', text });
  }

  run(marks, opens, closes) {
    const char = marks[0];
    let count = marks.length;
    while (closes && count > 0) {
      const index = this.#opener(char, marks.length, opens);
      if (index < 0) break;
      while (this.frames.length - 1 > index) this.#giveUp();
      const used = Math.min(2, count, this.top.count);
      count -= used;
      this.#wrap(char, used);
    }
    if (opens && count > 0 && this.frames.length < MOST_OPEN) {
      this.frames.push({ char, count, size: marks.length, isBoth: closes, children: [] });
    } else {
      this.text(char.repeat(count));
    }
  }

  close() {
    while (this.frames.length > 1) this.#giveUp();
    return this.frames[0].children;
  }

  /** CommonMark's rule of three keeps `**a*b**` whole. */
  #opener(char, size, isBoth) {
    return this.frames.findLastIndex((frame) => frame.char === char && !(
      (frame.isBoth || isBoth) && (frame.size + size) % 3 === 0 && (frame.size % 3 !== 0 || size % 3 !== 0)));
  }

  #wrap(char, used) {
    const frame = this.top;
    const type = char === '~' ? 'del' : used === 2 ? 'strong' : 'em';
    const node = { type, children: frame.children };
    frame.count -= used;
    frame.children = [node];
    if (frame.count > 0) return;
    this.frames.pop();
    this.add(node);
  }

  #giveUp() {
    const frame = this.frames.pop();
    this.text(frame.char.repeat(frame.count));
    for (const node of frame.children) {
      if (node.type === 'text') this.text(node.text);
      else this.add(node);
    }
  }
}
