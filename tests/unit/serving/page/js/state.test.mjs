import assert from 'node:assert/strict';
import { test } from 'node:test';

const at = (name) => import(`${process.env.PAGE_MODULES}/${name}.js`);
const { addMessage, newConversation, openCalls, pathOf, requestMessages, resultMessage, showVersion, titleOf, versionsOf } = await at('conversation');
const { ExchangeError, exportText, importText, readConversation } = await at('exchange');
const { NO_PARAMETERS, faultsOf, loadSettings, readTools, requestFields, saveSettings } = await at('settings');
const { Store, storageOf } = await at('store');
const { WORDS } = await at('words');
const { useLanguage, word } = await at('language');
const { newAnswer } = await at('answer');

const user = (content) => ({ role: 'user', content });
const said = (content, more = {}) => ({ ...newAnswer('m'), content, finish: 'stop', ...more });
const texts = (conversation) => pathOf(conversation).map(({ content }) => content);

class Entries extends Map {
  get length() { return this.size; }
  key(index) { return [...this.keys()][index]; }
  getItem(key) { return this.get(key) ?? null; }
  setItem(key, value) { this.set(key, value); }
  removeItem(key) { this.delete(key); }
}

function dialogue() {
  const conversation = newConversation(NO_PARAMETERS, 1);
  addMessage(conversation, user('q1'));
  const answer = addMessage(conversation, said('a1'));
  addMessage(conversation, user('q2'));
  addMessage(conversation, said('a2'));
  return { conversation, answer };
}

test('an answer made anew stands beside the first, each with what followed it', () => {
  const { conversation, answer } = dialogue();
  const other = addMessage(conversation, said('a1 again'), answer.parent);
  assert.deepEqual(texts(conversation), ['q1', 'a1 again']);
  assert.deepEqual(versionsOf(conversation, answer).map(({ content }) => content), ['a1', 'a1 again']);
  showVersion(conversation, answer.id);
  assert.deepEqual(texts(conversation), ['q1', 'a1', 'q2', 'a2']);
  showVersion(conversation, other.id);
  assert.deepEqual(texts(conversation), ['q1', 'a1 again']);
});

test('the first question can be asked in another way', () => {
  const { conversation } = dialogue();
  addMessage(conversation, user('other'), null);
  assert.deepEqual(texts(conversation), ['other']);
  assert.equal(versionsOf(conversation, pathOf(conversation)[0]).length, 2);
});

test('a title is the one given, else the first line of the question', () => {
  const conversation = newConversation(NO_PARAMETERS);
  assert.equal(titleOf(conversation), '');
  addMessage(conversation, user(`${'x'.repeat(80)}\nmore`));
  assert.equal(titleOf(conversation), `${'x'.repeat(59)}…`);
  conversation.title = 'mine';
  assert.equal(titleOf(conversation), 'mine');
});

test('calls wait for results until each has one', () => {
  const conversation = newConversation(NO_PARAMETERS);
  addMessage(conversation, user('q'));
  const calls = [{ id: 'c1', name: 'f', arguments: '{}' }, { id: 'c2', name: 'g', arguments: '{}' }];
  addMessage(conversation, said('', { tool_calls: calls, finish: 'tool_calls' }));
  assert.deepEqual(openCalls(pathOf(conversation)), calls);
  addMessage(conversation, resultMessage(calls[0], '7'));
  assert.deepEqual(openCalls(pathOf(conversation)), [calls[1]]);
  addMessage(conversation, resultMessage(calls[1]));
  assert.deepEqual(openCalls(pathOf(conversation)), []);
  assert.deepEqual(requestMessages(pathOf(conversation), { ...NO_PARAMETERS, system: ' be brief ' }), [
    { role: 'system', content: ' be brief ' }, user('q'),
    { role: 'assistant', content: null, tool_calls: calls.map(({ id, name, arguments: text }) => ({ id, type: 'function', function: { name, arguments: text } })) },
    { role: 'tool', tool_call_id: 'c1', content: '7' }, { role: 'tool', tool_call_id: 'c2', content: 'The tool was not run.' },
  ]);
});

test('the same ids in a later answer are other calls', () => {
  const conversation = newConversation(NO_PARAMETERS);
  const calls = [{ id: 'c', name: 'f', arguments: '{}' }];
  for (const question of ['q1', 'q2']) {
    addMessage(conversation, user(question));
    addMessage(conversation, said('', { tool_calls: calls, finish: 'tool_calls' }));
    assert.deepEqual(openCalls(pathOf(conversation)), calls);
    addMessage(conversation, resultMessage(calls[0], '7'));
  }
});

test('answers that failed before their first word, and calls that were cut, are not sent', () => {
  const conversation = newConversation(NO_PARAMETERS);
  addMessage(conversation, user('q'));
  addMessage(conversation, said('', { finish: '', error: { kind: 'away', text: '' } }));
  addMessage(conversation, user('again'));
  addMessage(conversation, said('so far', { tool_calls: [{ id: 'c', name: 'f', arguments: '{"a' }], finish: 'stopped' }));
  assert.deepEqual(requestMessages(pathOf(conversation), NO_PARAMETERS), [user('q'), user('again'), { role: 'assistant', content: 'so far' }]);
  assert.deepEqual(openCalls(pathOf(conversation)), []);
});

test('a question alone goes with its own calls and nothing from before', () => {
  const { conversation } = dialogue();
  const alone = { ...NO_PARAMETERS, system: 's', alone: 'on' };
  addMessage(conversation, user('q3'));
  assert.deepEqual(requestMessages(pathOf(conversation), alone), [{ role: 'system', content: 's' }, user('q3')]);
  const calls = [{ id: 'c', name: 'f', arguments: '{}' }];
  addMessage(conversation, said('', { tool_calls: calls, finish: 'tool_calls' }));
  addMessage(conversation, resultMessage(calls[0], '7'));
  assert.deepEqual(requestMessages(pathOf(conversation), alone).map(({ role }) => role), ['system', 'user', 'assistant', 'tool']);
});

test('what is exported comes back the same', () => {
  const { conversation, answer } = dialogue();
  Object.assign(answer, { usage: { prompt: 1, cached: 0, completion: 2 }, first: 1.5, took: 3 });
  addMessage(conversation, said('x', { error: { kind: 'cut', text: 'why' }, tool_calls: [{ id: 'c', name: 'f', arguments: '{}' }] }));
  addMessage(conversation, resultMessage({ id: 'c' }));
  assert.deepEqual(importText(exportText([conversation])), [conversation]);
});

test('what does not hold together is refused, and unknown fields are dropped', () => {
  const { conversation } = dialogue();
  const [first, second] = Object.keys(conversation.messages);
  const broken = (change) => {
    const copy = structuredClone(conversation);
    change(copy);
    return () => readConversation(copy);
  };
  for (const change of [
    (copy) => { copy.id = '../x'; }, (copy) => { copy.leaf = 'm0'; }, (copy) => { copy.leaf = 'constructor'; },
    (copy) => { copy.messages[first].parent = second; }, (copy) => { copy.messages[first].parent = 'toString'; },
    (copy) => { copy.messages[first].role = 'system'; }, (copy) => { copy.messages[second] = null; },
  ]) assert.throws(broken(change), ExchangeError);
  assert.throws(() => importText('{'), /fileNotJson/);
  assert.throws(() => importText('[]'), /fileNotOurs/);
  assert.throws(() => importText('{"format":"mindformers-conversations","version":2,"conversations":[]}'), /fileNotOurs/);
  const extra = { ...structuredClone(conversation), evil: 1, title: { toString: 1 }, parameters: { system: 3, temperature: '1' } };
  assert.deepEqual(readConversation(extra), { ...conversation, title: '', parameters: { ...NO_PARAMETERS, temperature: '1' } });
});

test('the store lists what changed last first and survives damaged entries', () => {
  const entries = new Entries([['mindformers/conversation/m0', '{"id":'], ['other', 'x'], ['mindformers/settings', '{}']]);
  const store = new Store(entries);
  const [old, young] = [dialogue().conversation, dialogue().conversation];
  old.updated = 1;
  young.updated = 2;
  assert.ok(store.save(old) && store.save(young));
  assert.deepEqual(new Store(entries).list(), [young, old]);
  store.remove(old.id);
  assert.deepEqual(new Store(entries).list(), [young]);
  assert.equal(entries.get('mindformers/conversation/m0'), '{"id":');
  entries.setItem = () => { throw new Error('QuotaExceededError'); };
  assert.equal(store.save(old), false);
  assert.equal(store.get(old.id), old);
});

test('where the browser forbids its storage, conversations last as long as the page', () => {
  globalThis.window = { get localStorage() { throw new Error('SecurityError'); } };
  const storage = storageOf('localStorage');
  const { conversation } = dialogue();
  assert.ok(new Store(storage).save(conversation));
  assert.deepEqual(new Store(storage).list(), [conversation]);
  new Store(storage).remove(conversation.id);
  assert.deepEqual(new Store(storage).list(), []);
});

test('parameters are checked by their ranges and sent only when given', () => {
  const faults = (changes) => faultsOf({ ...NO_PARAMETERS, ...changes });
  assert.deepEqual(faults({}), {});
  assert.deepEqual(faults({ temperature: '2.1', top_p: '-0.1', max_tokens: '0', seed: '1.5', tools: '{' }), {
    temperature: 'outOfRange', top_p: 'outOfRange', max_tokens: 'notWhole', seed: 'notWhole', tools: 'notJson',
  });
  assert.deepEqual(faults({ temperature: 'hot', max_tokens: 'Infinity', seed: '9007199254740993' }), { temperature: 'outOfRange', max_tokens: 'notWhole', seed: 'notWhole' });
  assert.deepEqual(requestFields({ ...NO_PARAMETERS, system: 's', temperature: ' 0 ', max_tokens: '5' }), { temperature: 0, max_tokens: 5 });
});

test('tools are taken in OpenAI’s form and bare', () => {
  const bare = { name: 'f', parameters: {} };
  const whole = { type: 'function', function: bare };
  assert.deepEqual(readTools(JSON.stringify([whole, bare])).tools, [whole, whole]);
  assert.deepEqual(readTools(JSON.stringify(bare)).tools, [whole]);
  for (const text of ['[{}]', '[null]', '3', '[{"type":"function"}]', '[{"name":""}]']) assert.equal(readTools(text).fault, 'notTools', text);
});

test('settings come back, and a damaged entry is as none', () => {
  const entries = new Entries();
  const settings = { ...loadSettings(entries), theme: 'dark', language: 'zh', model: 'm' };
  saveSettings(entries, settings);
  assert.deepEqual(loadSettings(entries), settings);
  for (const text of ['{', 'null', '[]', '{"theme":"pink","language":5,"parameters":7}']) {
    assert.deepEqual(loadSettings(new Entries([['mindformers/settings', text]])), loadSettings(new Entries()), text);
  }
});

test('both languages have the same words with the same places for values', () => {
  assert.deepEqual(Object.keys(WORDS.zh), Object.keys(WORDS.en));
  const places = (text) => [text].flat().map((form) => (form.match(/\{\w+\}/g) ?? []).sort());
  for (const [key, text] of Object.entries(WORDS.en)) {
    assert.deepEqual(places(WORDS.zh[key]).at(-1), places(text).at(-1), key);
    assert.equal(Array.isArray(WORDS.zh[key]), Array.isArray(text), key);
  }
});

test('the language is the one chosen, else the first known one of the browser', () => {
  assert.equal(useLanguage('auto', ['fr', 'zh-TW', 'en']), 'zh');
  assert.equal(useLanguage('auto', ['fr']), 'en');
  assert.equal(useLanguage('en', ['zh-CN']), 'en');
  assert.equal(word('imported', { n: 1 }), 'Imported one conversation.');
  assert.equal(word('imported', { n: 2 }), 'Imported 2 conversations.');
});
