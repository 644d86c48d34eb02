// Calls of tools: name, arguments, and the result that the user types or leaves out.

import { prettyJson } from '../answer.js';
import { element, icon } from '../dom.js';
import { word } from '../language.js';
import { codeBlock } from '../markdown/view.js';

/** Return a card for each call; those that wait ask for a result. */
export function callCards(chat, calls, results, waiting) {
  const areas = new Map();
  const cards = calls.map((call) => {
    const result = results.find(({ tool_call_id: id }) => id === call.id);
    if (waiting.includes(call)) areas.set(call.id, resultField(call));
    return element('section', { class: 'call', 'aria-label': word('call', { name: call.name }) },
      element('h3', {}, icon('tool'), element('code', {}, call.name)),
      codeBlock(prettyJson(call.arguments), 'json', word('arguments')),
      result && shownResult(result),
      areas.get(call.id));
  });
  return areas.size === 0 ? cards : [...cards, resultButtons(chat, areas)];
}

function shownResult({ content, skipped }) {
  return skipped ? element('p', { class: 'ending' }, word('skipped')) : codeBlock(prettyJson(content), 'json', word('result'));
}

function resultField({ name }) {
  return element('textarea', { class: 'field code-field', rows: '2', 'aria-label': word('resultOf', { name }), placeholder: word('resultHint') });
}

/** Empty results are those of tools that were not run. */
function resultButtons(chat, areas) {
  const give = (textOf) => {
    if (!chat.run) chat.giveResults(new Map([...areas].map(([id, area]) => [id, textOf(area)])));
  };
  return element('div', { class: 'buttons' },
    element('button', { type: 'button', class: 'button', onclick: () => give(() => null) }, word('skip')),
    element('button', { type: 'button', class: 'button primary', onclick: () => give((area) => area.value.trim() || null) },
      word('sendResults', { n: areas.size })));
}
