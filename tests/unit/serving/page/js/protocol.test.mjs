import assert from 'node:assert/strict';
import { test } from 'node:test';

const at = (name) => import(`${process.env.PAGE_MODULES}/${name}.js`);
const { EventReader, eventsOf } = await at('sse');
const { newAnswer, prettyJson, speedOf, splitThought, takeChunk } = await at('answer');

const STREAM = ': hello\r\ndata: {"a":"你🙂"}\r\n\r\nevent: x\ndata:1\ndata: 2\n\n\n\rdata: [DONE]\r\rdata: unfinished\n';
const EVENTS = ['{"a":"你🙂"}', '1\n2', '[DONE]'];

test('events are the same however the bytes are cut', async () => {
  const bytes = new TextEncoder().encode(STREAM);
  for (let size = 1; size <= bytes.length; size += 1) {
    const parts = [];
    for (let from = 0; from < bytes.length; from += size) parts.push(bytes.slice(from, from + size));
    const found = [];
    for await (const data of eventsOf(ReadableStream.from(parts))) found.push(data);
    assert.deepEqual(found, EVENTS, `pieces of ${size}`);
  }
});

test('a line end cut in two is one line end', () => {
  const reader = new EventReader();
  assert.deepEqual([...reader.feed('data: 1\r'), ...reader.feed('\n'), ...reader.feed('\r'), ...reader.feed('\ndata: 2')], ['1']);
});

const chunk = (delta, finish = null) => ({ model: 'm', choices: [{ index: 0, delta, finish_reason: finish }] });

test('chunks become one answer', () => {
  const answer = newAnswer('asked');
  const shown = [chunk({ role: 'assistant', content: '' }), chunk({ content: 'Hel' }), chunk({ content: 'lo' }), chunk({}, 'stop'),
    { choices: [], usage: { prompt_tokens: 9, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 4 } } }]
    .map((part, index) => takeChunk(answer, part, 100 * (index + 1)));
  answer.took = 700;
  assert.deepEqual(shown, [false, true, true, true, true]);
  assert.deepEqual(answer, { role: 'assistant', content: 'Hello', tool_calls: [], finish: 'stop', model: 'm',
    usage: { prompt: 9, cached: 4, completion: 3 }, first: 200, took: 700, error: null });
  assert.equal(speedOf(answer), 4); // two tokens in half a second
});

test('calls of tools are put together by their index', () => {
  const answer = newAnswer('m');
  const part = (index, id, name, text) => chunk({ tool_calls: [{ index, ...(id && { id }), function: { ...(name && { name }), arguments: text } }] });
  for (const piece of [part(0, 'c1', 'f', ''), part(1, 'c2', 'g', '{'), part(0, null, null, '{"a"'), part(1, null, null, '}'), part(0, null, null, ':1}')]) {
    takeChunk(answer, piece, 5);
  }
  assert.deepEqual(answer.tool_calls.map(({ id, name, arguments: text }) => [id, name, text]), [['c1', 'f', '{"a":1}'], ['c2', 'g', '{}']]);
  assert.equal(answer.first, 5);
});

test('there is no speed where there is nothing to go by', () => {
  const usage = { prompt: 1, cached: 0, completion: 5 };
  assert.equal(speedOf({ usage, first: 100, took: 600 }), 8);
  assert.equal(speedOf({ usage: null, first: 1, took: 1000 }), null);
  assert.equal(speedOf({ usage, first: 100, took: 101 }), null); // all of it came at once
  assert.equal(speedOf({ usage, first: null, took: 1000 }), null);
});

test('JSON is set out, other text left alone', () => {
  assert.equal(prettyJson('{"a":[1]}'), '{\n  "a": [\n    1\n  ]\n}');
  assert.equal(prettyJson('{"a":'), '{"a":');
});

test('a thought is told from its answer, with and without its first mark, ended or not', () => {
  const parts = (text) => Object.values(splitThought(text));
  assert.deepEqual(parts('\nplain <b>'), ['', 'plain <b>', false]);
  assert.deepEqual(parts('\n<think>\nso'), ['\nso', '', true]);
  assert.deepEqual(parts('<think>so</think>\n\nanswer'), ['so', 'answer', false]);
  assert.deepEqual(parts('so\n</think>\nanswer </think>'), ['so', 'answer </think>', false]);
});
