// What can be done in a chat: ask, stop, answer anew, edit, give results of tools. Knows no elements.

import { newAnswer, takeChunk } from './answer.js';
import { ApiError } from './api.js';
import {
  addMessage, dropEmpty, newConversation, openCalls, pathOf, requestMessages, resultMessage, showVersion,
} from './conversation.js';
import { requestFields } from './settings.js';

const TRIES = 4; // of a request that finds the server busy
const SAVE_EVERY = 1000; // milliseconds, while an answer grows

/** An answer on its way; `retryAt` is when a busy server is asked again, in milliseconds. */
class Run {
  controller = new AbortController();
  answer = null;
  retryAt = null;
  saved = 0;
}

/**
 * Events: `change` (what there is to show is another), `growth` (`detail`: the answer that has grown), `full` (a conversation
 * could not be kept), `away` and `key` (a request found nobody, or needs a key).
 */
export class Chat extends EventTarget {
  #api;
  #store;
  #settings;
  #runs = new Map(); // id of a conversation -> Run
  #isFull = false;

  constructor({ api, store, settings }) {
    super();
    this.#api = api;
    this.#store = store;
    this.#settings = settings;
    this.current = newConversation(settings.parameters);
  }

  get path() {
    return pathOf(this.current);
  }

  /** The answer on its way in the conversation shown, or undefined. */
  get run() {
    return this.#runs.get(this.current.id);
  }

  isRunning(id) {
    return this.#runs.has(id);
  }

  startNew() {
    this.current = newConversation(this.#settings.parameters);
    this.#tell('change');
  }

  open(id) {
    this.current = this.#store.get(id) ?? newConversation(this.#settings.parameters);
    this.#tell('change');
  }

  /** Ask; calls of tools that still wait are skipped. */
  send(text) {
    for (const call of openCalls(this.path)) addMessage(this.current, resultMessage(call));
    addMessage(this.current, { role: 'user', content: text });
    return this.#answer(this.current);
  }

  /** Ask `text` in place of the question `id`; the earlier version stays beside it. */
  edit(id, text) {
    addMessage(this.current, { role: 'user', content: text }, this.current.messages[id].parent);
    return this.#answer(this.current);
  }

  /** Answer once more; the earlier answer stays beside it. */
  regenerate(id) {
    this.current.leaf = this.current.messages[id].parent;
    dropEmpty(this.current, id);
    return this.#answer(this.current);
  }

  /** Give the results of the calls at the end, by id; null: the tool was not run. */
  giveResults(results) {
    for (const call of openCalls(this.path)) addMessage(this.current, resultMessage(call, results.get(call.id) ?? null));
    return this.#answer(this.current);
  }

  showVersion(id) {
    showVersion(this.current, id);
    this.#save(this.current);
    this.#tell('change');
  }

  stop() {
    this.run?.controller.abort();
  }

  rename(id, title) {
    const conversation = this.#store.get(id);
    if (!conversation) return; // another tab has deleted it meanwhile
    conversation.title = title.trim();
    this.#save(conversation);
    this.#tell('change');
  }

  /** Remove a conversation; returns what puts it back. */
  remove(id) {
    const conversation = this.#store.get(id);
    this.#runs.get(id)?.controller.abort();
    this.#store.remove(id);
    if (this.current.id === id) this.startNew();
    else this.#tell('change');
    return () => {
      this.#save(conversation);
      this.open(id);
    };
  }

  /** Keep parameters for this conversation and for those begun later. */
  setParameters(parameters) {
    this.current.parameters = { ...parameters };
    this.#keep(this.current);
  }

  /** Another tab has changed a conversation. */
  refresh(id) {
    if (this.current.id === id && !this.run) this.current = this.#store.get(id) ?? this.current;
    this.#tell('change');
  }

  /** Keep what has come so far; the page is about to go. */
  saveRunning() {
    for (const id of this.#runs.keys()) this.#keep(this.#store.get(id));
  }

  async #answer(conversation) {
    if (this.isRunning(conversation.id)) return;
    const path = pathOf(conversation);
    const fields = {
      model: this.#settings.model || undefined, // not known yet: the server takes the one it has
      messages: requestMessages(path, conversation.parameters),
      ...requestFields(conversation.parameters),
    };
    const run = new Run();
    run.answer = addMessage(conversation, newAnswer(this.#settings.model));
    this.#runs.set(conversation.id, run);
    this.#save(conversation);
    this.#tell('change');
    try {
      await this.#tryToAnswer(conversation, run, fields);
    } catch (error) {
      this.#note(run.answer, error, run.controller.signal.aborted);
    }
    this.#runs.delete(conversation.id);
    this.#keep(conversation);
    this.#tell('change');
  }

  async #tryToAnswer(conversation, run, fields) {
    for (let left = TRIES - 1; ; left -= 1) {
      try {
        return await this.#stream(conversation, run, fields);
      } catch (error) {
        if (error.kind !== 'busy' || error.retryAfter === null || left === 0) throw error;
        await this.#wait(run, error.retryAfter * 1000);
      }
    }
  }

  async #stream(conversation, run, fields) {
    const begin = performance.now();
    try {
      for await (const chunk of this.#api.chat(fields, run.controller.signal)) {
        if (!takeChunk(run.answer, chunk, performance.now() - begin)) continue;
        if (performance.now() - run.saved > SAVE_EVERY) {
          run.saved = performance.now();
          this.#keep(conversation);
        }
        this.#tell('growth', run.answer);
      }
    } finally {
      run.answer.took = performance.now() - begin;
    }
  }

  async #wait(run, milliseconds) {
    run.retryAt = Date.now() + milliseconds;
    this.#tell('change');
    const { signal } = run.controller;
    await new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, milliseconds);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        reject(signal.reason);
      }, { once: true });
    });
    run.retryAt = null;
    this.#tell('change');
  }

  #note(answer, error, isStopped) {
    if (isStopped) {
      answer.finish = 'stopped';
      return;
    }
    const kind = error instanceof ApiError ? error.kind : 'failed';
    answer.error = { kind, text: error.message };
    if (kind === 'away' || kind === 'key') this.#tell(kind);
  }

  /** Save what is stored already: not what was removed meanwhile, nor a conversation without a message. */
  #keep(conversation) {
    if (conversation && this.#store.get(conversation.id)) this.#save(conversation);
  }

  #save(conversation) {
    const isFull = !this.#store.save(conversation);
    if (isFull && !this.#isFull) this.#tell('full');
    this.#isFull = isFull;
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
