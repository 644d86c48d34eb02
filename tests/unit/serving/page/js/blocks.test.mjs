import assert from 'node:assert/strict';
import { test } from 'node:test';

const { parseBlocks } = await import(`${process.env.PAGE_MODULES}/markdown/blocks.js`);

const bare = (block) => JSON.parse(JSON.stringify(block, (key, value) => (key === 'source' ? undefined : value)));
const read = (text) => parseBlocks(text).map(bare);
const paragraph = (text) => ({ type: 'paragraph', text });
const item = (...blocks) => ({ checked: null, blocks });

test('headings, rules and paragraphs stand apart without blank lines between', () => {
  assert.deepEqual(read('# One #\ntext\nmore\n---\n###### Six\n####### seven'), [
    { type: 'heading', level: 1, text: 'One' }, paragraph('text\nmore'), { type: 'rule' },
    { type: 'heading', level: 6, text: 'Six' }, paragraph('####### seven'),
  ]);
});

test('a fence keeps its text as it is, tabs and marks and blank lines', () => {
  const [code, after] = read('```python title\n\tif a:\n\n  **b** <i>\n```\nafter');
  assert.deepEqual(code, { type: 'code', language: 'python', text: '\tif a:\n\n  **b** <i>' });
  assert.deepEqual(after, paragraph('after'));
});

test('a fence that is still being written reaches to the end', () => {
  assert.deepEqual(read('so:\n```js\nlet a'), [paragraph('so:'), { type: 'code', language: 'js', text: 'let a' }]);
});

test('a longer fence holds a shorter one', () => {
  assert.deepEqual(read('````\n```\nx\n```\n````'), [{ type: 'code', language: '', text: '```\nx\n```' }]);
});

test('lists nest by indent, also by the two blanks that answers use under numbers', () => {
  assert.deepEqual(read('1. one\n  - inner\n2. two'), [{ type: 'list', start: 1, items: [
    item(paragraph('one'), { type: 'list', start: null, items: [item(paragraph('inner'))] }), item(paragraph('two')),
  ] }]);
});

test('an item holds its paragraphs and its code; what stands at the margin ends the list', () => {
  assert.deepEqual(read('- one\n\n  more\n\n  ```\n  x\n  ```\n- two\n\nend'), [
    { type: 'list', start: null, items: [
      item(paragraph('one'), paragraph('more'), { type: 'code', language: '', text: 'x' }), item(paragraph('two')),
    ] },
    paragraph('end'),
  ]);
});

test('a list goes on counting where code broke it', () => {
  assert.deepEqual(read('1. a\n```\nx\n```\n2. b').map(({ type, start }) => [type, start ?? null]),
    [['list', 1], ['code', null], ['list', 2]]);
});

test('a year at the beginning of a line is not a list, a number one is', () => {
  assert.deepEqual(read('it was\n2024. So'), [paragraph('it was\n2024. So')]);
  assert.equal(read('steps:\n1. go')[1].type, 'list');
});

test('tasks are done or not', () => {
  assert.deepEqual(read('- [x] a\n- [ ] b\n- [y] c')[0].items.map(({ checked }) => checked), [true, false, null]);
});

test('a table takes its columns from the line of dashes; short rows are filled, long ones cut', () => {
  assert.deepEqual(read('| a | b \\| c |\n|:--|--:|\n| 1 |\n| 2 | 3 | 4 |\nafter'), [
    { type: 'table', align: ['left', 'right'], head: ['a', 'b | c'], rows: [['1', ''], ['2', '3']] }, paragraph('after'),
  ]);
});

test('bars without a line of dashes are text, and so is a line of dashes of another width', () => {
  assert.deepEqual(read('a | b\nc | d'), [paragraph('a | b\nc | d')]);
  assert.equal(read('a | b\n|-|-|-|')[0].type, 'paragraph');
});

test('a quote holds blocks', () => {
  assert.deepEqual(read('> # a\n> - b\n\nc'), [
    { type: 'quote', blocks: [{ type: 'heading', level: 1, text: 'a' }, { type: 'list', start: null, items: [item(paragraph('b'))] }] },
    paragraph('c'),
  ]);
});

test('line ends of every kind are line ends', () => {
  assert.deepEqual(read('a\r\n\r\nb\rc'), [paragraph('a'), paragraph('b\nc')]);
});

test('blocks before the last one are the same ones while a text grows', () => {
  const text = '# T\n\npara\n\n- a\n- b\n\n| x | y |\n|--|--|\n| 1 | 2 |\n\n```\ncode\n```\n\nend';
  for (let length = 1; length <= text.length; length += 1) {
    const whole = parseBlocks(text).map(({ source }) => source);
    const grown = parseBlocks(text.slice(0, length)).map(({ source }) => source);
    assert.deepEqual(grown.slice(0, -1), whole.slice(0, grown.length - 1), text.slice(0, length));
  }
});

test('depth is bounded and long hostile texts are read in a moment', { timeout: 20000 }, () => {
  const hostile = ['>'.repeat(20000), '- '.repeat(20000), '\n'.repeat(40000), '|'.repeat(20000), '# '.repeat(20000), `-${' '.repeat(20000)}x`,
    '- a\n\n'.repeat(4000), `${'a|'.repeat(2000)}\n${'-|'.repeat(2000)}\n`.repeat(20), '```\n'.repeat(4001), `|${'-'.repeat(20000)}x\n`.repeat(2)];
  const depth = (block) => 1 + Math.max(0, ...[...(block.blocks ?? []), ...(block.items ?? []).flatMap(({ blocks }) => blocks)].map(depth));
  for (const text of hostile) assert.ok(Math.max(0, ...parseBlocks(text).map(depth)) <= 17);
});
