// One message of the thread: a question, or an answer with its calls, errors and figures.

import { speedOf, splitThought } from '../answer.js';
import { openCalls, resultsOf, versionsOf } from '../conversation.js';
import { copyButton, element, iconButton, refill } from '../dom.js';
import { word } from '../language.js';
import { showMarkdown } from '../markdown/view.js';
import { callCards } from './calls.js';

const ERRORS = {
  away: 'errorAway', key: 'errorKey', busy: 'errorBusy', refused: 'errorRefused', failed: 'errorFailed', cut: 'errorCut',
};
const ENDINGS = { length: 'atLimit', stopped: 'stopped', cancelled: 'stopped', timeout: 'timeout', content_filter: 'filtered' };

export function messageView(chat, message) {
  return message.role === 'user' ? new QuestionView(chat, message) : new AnswerView(chat, message);
}

class QuestionView {
  #chat;
  #message;
  #isEdited = false;

  constructor(chat, message) {
    this.#chat = chat;
    this.#message = message;
    this.body = element('div', { class: 'question' });
    this.foot = element('div', { class: 'foot' });
    this.node = element('article', { class: 'message from-user', 'aria-label': word('you') }, this.body, this.foot);
  }

  show() {
    const { content } = this.#message;
    const isRunning = Boolean(this.#chat.run);
    refill(this.body, this.#isEdited, () => (this.#isEdited ? this.#editor() : element('div', { class: 'bubble' }, content)));
    refill(this.foot, [this.#isEdited, isRunning, placeOf(this.#chat, this.#message)], () => (this.#isEdited ? [] : [
      versionSwitch(this.#chat, this.#message, isRunning),
      copyButton(() => content, { label: word('copy'), done: word('copied') }),
      iconButton('edit', word('edit'), () => this.#edit(true), { disabled: isRunning }),
    ]));
  }

  #edit(isEdited) {
    this.#isEdited = isEdited;
    this.show();
    const target = isEdited ? this.body.querySelector('textarea') : this.foot.querySelector('button:last-child');
    target.focus();
  }

  #editor() {
    const area = element('textarea', { class: 'field', value: this.#message.content, rows: '3', 'aria-label': word('editQuestion') });
    const send = () => {
      if (!area.value.trim() || this.#chat.run) return;
      this.#isEdited = false;
      this.#chat.edit(this.#message.id, area.value.trim());
    };
    area.addEventListener('keydown', (event) => {
      if (event.isComposing) return;
      if (event.key === 'Escape') {
        event.stopPropagation(); // it does not stop an answer too
        this.#edit(false);
      } else if (event.key === 'Enter' && !event.shiftKey) {
        event.preventDefault();
        send();
      }
    });
    return element('div', { class: 'editor' }, area,
      element('div', { class: 'buttons' },
        element('button', { type: 'button', class: 'button', onclick: () => this.#edit(false) }, word('cancel')),
        element('button', { type: 'button', class: 'button primary', onclick: send }, word('sendEdit'))));
  }
}

class AnswerView {
  #chat;
  #message;
  #isThinking = false;

  constructor(chat, message) {
    this.#chat = chat;
    this.#message = message;
    this.thought = element('details', { class: 'thought', hidden: true });
    this.thoughtText = element('div', { class: 'markdown' });
    this.thought.append(element('summary', {}, word('thought')), this.thoughtText);
    this.text = element('div', { class: 'markdown said' });
    this.calls = element('div', { class: 'calls' });
    this.note = element('div', { class: 'note' });
    this.foot = element('div', { class: 'foot' });
    this.node = element('article', { class: 'message from-model' }, this.thought, this.text, this.calls, this.note, this.foot);
  }

  show() {
    const { content, tool_calls: calls, finish, error, usage, model } = this.#message;
    const run = this.#chat.run?.answer === this.#message ? this.#chat.run : null;
    const isRunning = Boolean(this.#chat.run);
    this.node.setAttribute('aria-label', model || word('model'));
    this.node.classList.toggle('growing', run !== null);
    this.#showText(content);
    const path = this.#chat.path;
    const results = resultsOf(path, this.#message);
    const waiting = path.at(-1) === this.#message ? openCalls(path) : [];
    refill(this.calls, [calls, results, waiting], () => callCards(this.#chat, calls, results, waiting));
    const hasBegun = content !== '' || calls.length > 0;
    refill(this.note, [run !== null, run?.retryAt, hasBegun, error, finish], () => this.#note(run, hasBegun));
    refill(this.foot, [isRunning, run !== null, content, usage, placeOf(this.#chat, this.#message)], () => this.#foot(run, isRunning));
  }

  #showText(content) {
    const { thought, answer, isThinking } = splitThought(content);
    if (isThinking !== this.#isThinking) {
      this.#isThinking = isThinking;
      this.thought.open = isThinking; // folded when the answer begins; from then on it is the reader's
    }
    this.thought.hidden = thought === '';
    showMarkdown(this.thoughtText, thought);
    showMarkdown(this.text, answer);
  }

  #note(run, hasBegun) {
    if (run?.retryAt) return retryNote(run.retryAt);
    if (run) return hasBegun ? [] : element('p', { class: 'waiting' }, element('span', { class: 'pulse' }), word('waiting'));
    const { error, finish } = this.#message;
    if (error || !finish) return this.#errorNote(error ?? { kind: 'cut', text: '' }); // the page was closed in the middle
    return ENDINGS[finish] ? element('p', { class: 'ending' }, word(ENDINGS[finish])) : [];
  }

  #errorNote({ kind, text }) {
    return element('div', { class: 'error', role: 'alert' },
      element('p', {}, element('strong', {}, word(ERRORS[kind] ?? 'errorFailed'))),
      ['away', 'cut'].includes(kind) || !text ? null : element('p', { class: 'detail' }, text),
      element('button', { type: 'button', class: 'button', onclick: () => this.#chat.regenerate(this.#message.id) }, word('tryAgain')));
  }

  #foot(run, isRunning) {
    if (run) return [];
    return [
      versionSwitch(this.#chat, this.#message, isRunning),
      this.#message.content ? copyButton(() => splitThought(this.#message.content).answer, { label: word('copy'), done: word('copied') }) : null,
      iconButton('renew', word('regenerate'), () => this.#chat.regenerate(this.#message.id), { disabled: isRunning }),
      element('span', { class: 'figures' }, figures(this.#message).join(' · ')),
    ];
  }
}

function retryNote(retryAt) {
  const left = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  const note = element('p', { class: 'waiting' }, element('span', { class: 'pulse' }), element('span', {}, word('retryIn', { n: left })));
  const timer = setInterval(() => {
    const n = Math.ceil((retryAt - Date.now()) / 1000);
    if (n <= 0 || !note.isConnected) clearInterval(timer);
    else note.lastElementChild.textContent = word('retryIn', { n });
  }, 1000);
  return note;
}

/** What the usage and the clock say of an answer. */
function figures(answer) {
  const { usage, first, took } = answer;
  if (!usage) return [];
  const speed = speedOf(answer);
  return [
    word('tokens', { n: usage.completion, s: seconds(took) }),
    speed === null ? null : word('speed', { n: speed < 10 ? speed.toFixed(1) : Math.round(speed) }),
    first === null ? null : word('firstAfter', { s: seconds(first) }),
    usage.cached > 0 ? word('promptCached', { n: usage.prompt, cached: usage.cached }) : word('prompt', { n: usage.prompt }),
  ].filter(Boolean);
}

function seconds(milliseconds) {
  return (milliseconds / 1000).toFixed(milliseconds < 10000 ? 2 : 1);
}

function placeOf(chat, message) {
  const versions = versionsOf(chat.current, message);
  return [versions.indexOf(message), versions.length];
}

function versionSwitch(chat, message, isDisabled) {
  const versions = versionsOf(chat.current, message);
  const place = versions.indexOf(message);
  if (versions.length < 2) return null;
  const to = (step) => () => chat.showVersion(versions[place + step].id);
  return element('span', { class: 'versions' },
    iconButton('left', word('earlier'), to(-1), { disabled: isDisabled || place === 0 }),
    element('span', { 'aria-label': word('version', { n: place + 1, all: versions.length }), role: 'img' }, `${place + 1}/${versions.length}`),
    iconButton('right', word('later'), to(1), { disabled: isDisabled || place === versions.length - 1 }));
}
