// Markdown by lines: text -> list of blocks as plain objects. Knows nothing of the page.
//
// A heading underlined with dashes is not read: in an answer `---` under a line is meant as a rule.

const DEEPEST = 16; // lists and quotes inside one another; what lies deeper is a paragraph
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|)$/;
const TASK = /^\[([ xX])\][ \t]+/;
const TABLE_RULE = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$/;

/**
 * Return the blocks of a text: heading, rule, code, quote, list, table and paragraph.
 *
 * Each has `source`, its own lines: two blocks with the same source are the same block.
 */
export function parseBlocks(text) {
  return blocksOf(text.split(/\r\n?|\n/), 0);
}

function blocksOf(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === '') {
      at += 1;
      continue;
    }
    const [block, end] = depth < DEEPEST ? readBlock(lines, at, depth) : readParagraph(lines, at);
    blocks.push({ ...block, source: lines.slice(at, end).join('\n') });
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return readFence(lines, at);
  if (HEADING.test(line)) return [readHeading(line), at + 1];
  if (RULE.test(line)) return [{ type: 'rule' }, at + 1];
  if (QUOTE.test(line)) return readQuote(lines, at, depth);
  if (ITEM.test(line)) return readList(lines, at, depth);
  if (beginsTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at);
}

/** Whether a line ends the paragraph above it. */
function interrupts(lines, at) {
  const line = lines[at];
  if (line.trim() === '' || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = ITEM.exec(line);
  // "in the year\n2024. It was" is not a list.
  if (item?.[4] && (!/\d/.test(item[2]) || /^1[.)]$/.test(item[2]))) return true;
  return beginsTable(lines, at);
}

function readParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !interrupts(lines, end)) end += 1;
  return [{ type: 'paragraph', text: lines.slice(at, end).map((line) => line.trim()).join('\n') }, end];
}

function readHeading(line) {
  const mark = HEADING.exec(line);
  const text = line.slice(mark[0].length).trim().replace(/(^|[ \t])#+$/, '').trim();
  return { type: 'heading', level: mark[1].length, text };
}

/** A fence that is not closed yet reaches to the end: so code looks right while it is being written. */
function readFence(lines, at) {
  const [, margin, marks, info] = FENCE.exec(lines[at]);
  const closing = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).map((line) => withoutMargin(line, margin.length)).join('\n');
  return [{ type: 'code', language: info.trim().split(/\s/)[0], text: code }, Math.min(end + 1, lines.length)];
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ''));
  return [{ type: 'quote', blocks: blocksOf(inside, depth + 1) }, end];
}

function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const kind = kindOf(first);
  const items = [];
  let end = at;
  for (;;) {
    const next = skipBlank(lines, end);
    const item = next < lines.length && !RULE.test(lines[next]) ? ITEM.exec(lines[next]) : null;
    if (!item || kindOf(item) !== kind || item[1].length > first[1].length + 1) break;
    const [inside, behind] = readItem(lines, next, item);
    const task = TASK.exec(inside[0]);
    if (task) inside[0] = inside[0].slice(task[0].length);
    items.push({ checked: task ? task[1] !== ' ' : null, blocks: blocksOf(inside, depth + 1) });
    end = behind;
  }
  const start = Number.parseInt(first[2], 10);
  return [{ type: 'list', start: Number.isNaN(start) ? null : start, items }, end];
}

/** Lists of another bullet, or numbered the other way, are other lists. */
function kindOf(item) {
  return item[2].at(-1);
}

/** Return the lines of one item without their margin, and where it ends. */
function readItem(lines, at, item) {
  const [, margin, marker, gap = ' ', text = ''] = item;
  const width = margin.length + marker.length + (gap.length > 4 ? 1 : gap.length);
  const inside = [text];
  let end = at + 1;
  for (;;) {
    const next = skipBlank(lines, end);
    if (next === lines.length || !belongs(lines, next, end, margin.length, width)) break;
    for (; end < next; end += 1) inside.push('');
    inside.push(withoutMargin(lines[next], width));
    end = next + 1;
  }
  return [inside, end];
}

/** Whether a line that is not blank goes on with an item; `end` is before it where blank lines lie between. */
function belongs(lines, at, end, margin, width) {
  const line = lines[at];
  const indent = indentOf(line);
  // Answers indent a list under "1." by two blanks although its text begins at the third.
  if (indent >= width || (indent >= margin + 2 && ITEM.test(line))) return true;
  return end === at && !ITEM.test(line) && !interrupts(lines, at);
}

function beginsTable(lines, at) {
  if (!lines[at].includes('|') || at + 1 >= lines.length) return false;
  return TABLE_RULE.test(lines[at + 1].trim()) && cellsOf(lines[at]).length === cellsOf(lines[at + 1]).length;
}

function readTable(lines, at) {
  const head = cellsOf(lines[at]);
  const align = cellsOf(lines[at + 1]).map((cell) => {
    const ends = `${cell.startsWith(':') ? 'l' : ''}${cell.endsWith(':') ? 'r' : ''}`;
    return { l: 'left', r: 'right', lr: 'center' }[ends] ?? null;
  });
  let end = at + 2;
  while (end < lines.length && lines[end].includes('|') && lines[end].trim() !== '') end += 1;
  const rows = lines.slice(at + 2, end).map((line) => {
    const cells = cellsOf(line);
    return head.map((_, column) => cells[column] ?? '');
  });
  return [{ type: 'table', align, head, rows }, end];
}

/** Split a row at its bars; `\|` is a bar inside a cell. */
function cellsOf(line) {
  const cells = [''];
  const row = line.trim().replace(/^\|/, '');
  for (let at = 0; at < row.length; at += 1) {
    if (row[at] === '\\' && row[at + 1] === '|') {
      cells[cells.length - 1] += '|';
      at += 1;
    } else if (row[at] === '|') {
      cells.push('');
    } else {
      cells[cells.length - 1] += row[at];
    }
  }
  if (cells.length > 1 && cells.at(-1).trim() === '') cells.pop();
  return cells.map((cell) => cell.trim());
}

function skipBlank(lines, at) {
  let next = at;
  while (next < lines.length && lines[next].trim() === '') next += 1;
  return next;
}

function indentOf(line) {
  const blank = /^[ \t]*/.exec(line)[0];
  return blank.replaceAll('\t', '    ').length;
}

/** Take up to `width` columns of blank off the front; other tabs stay, code may need them. */
function withoutMargin(line, width) {
  let at = 0;
  let taken = 0;
  while (taken < width && (line[at] === ' ' || line[at] === '\t')) {
    taken += line[at] === ' ' ? 1 : 4;
    at += 1;
  }
  return line.slice(at);
}
