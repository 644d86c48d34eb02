// The tree of a Markdown text as elements.

import { copyButton, element } from '../dom.js';
import { word } from '../language.js';
import { parseBlocks } from './blocks.js';
import { highlight } from './highlight.js';
import { parseInline } from './inline.js';

const sources = new WeakMap();

/** Show a text that may still be growing: blocks that stay the same keep their elements, and the selection in them. */
export function showMarkdown(container, text) {
  const blocks = parseBlocks(text);
  blocks.forEach((block, index) => {
    const shown = container.children[index];
    if (shown && sources.get(shown) === block.source) return;
    const node = BLOCKS[block.type](block);
    sources.set(node, block.source);
    if (shown) shown.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}

/** A block of code with a button that copies it; `label` stands above it in place of the language. */
export function codeBlock(text, language, label = language) {
  return element('figure', { class: 'code' },
    element('figcaption', {},
      element('span', {}, label || word('code')),
      copyButton(() => text, { label: word('copyCode'), done: word('copied') })),
    element('pre', { tabindex: '0' }, element('code', {}, highlight(text, language).map(({ kind, text: part }) => (
      kind ? element('span', { class: kind }, part) : part)))));
}

const BLOCKS = {
  // The page itself has h1 and h2.
  heading: ({ level, text }) => element(`h${Math.min(level + 2, 6)}`, { class: `level-${level}` }, inline(text)),
  paragraph: ({ text }) => element('p', {}, inline(text)),
  rule: () => element('hr'),
  code: ({ text, language }) => codeBlock(text, language),
  quote: ({ blocks }) => element('blockquote', {}, nested(blocks)),
  list: ({ start, items }) => element(start === null ? 'ul' : 'ol', { start: start === 1 ? null : start },
    items.map((item) => element('li', { class: item.checked === null ? null : 'task' },
      item.checked === null ? null : element('input', {
        type: 'checkbox', checked: item.checked, disabled: true, 'aria-label': word(item.checked ? 'done' : 'notDone'),
      }),
      nested(item.blocks)))),
  table: ({ align, head, rows }) => element('div', { class: 'table', tabindex: '0', role: 'region', 'aria-label': word('table') },
    element('table', {},
      element('thead', {}, row('th', head, align)),
      element('tbody', {}, rows.map((cells) => row('td', cells, align))))),
};

function nested(blocks) {
  return blocks.map((block) => BLOCKS[block.type](block));
}

function row(tag, cells, align) {
  return element('tr', {}, cells.map((text, column) => element(tag, { class: align[column] }, inline(text))));
}

function inline(text) {
  return parseInline(text).map(inlineNode);
}

function inlineNode(node) {
  switch (node.type) {
    case 'text': return node.text;
    case 'break': return element('br');
    case 'code': return element('code', {}, node.text);
    case 'math': return element('span', { class: 'math' }, node.text);
    case 'link': return element('a', { href: node.href, title: node.href, target: '_blank', rel: 'noopener noreferrer nofollow' },
      node.children.map(inlineNode));
    default: return element(node.type, {}, node.children.map(inlineNode));
  }
}
