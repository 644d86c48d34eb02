// The messages of the conversation shown, and how they scroll.

import { arrange, element, icon } from '../dom.js';
import { word } from '../language.js';
import { messageView } from './message.js';

const NEAR = 48; // pixels from the end at which the thread still follows what is written

export class Thread {
  #chat;
  #settings;
  #views = new Map(); // id of a message -> its view, so that what is selected or typed in it stays
  #shown = null; // the conversation
  #isFollowing = true;
  #isDue = false;

  constructor({ chat, settings }) {
    this.#chat = chat;
    this.#settings = settings;
    this.list = element('div', { class: 'messages', role: 'log' });
    this.node = element('div', { class: 'thread', tabindex: '-1', onscroll: () => this.#noteScroll() }, this.list);
    this.latest = element('button', { type: 'button', class: 'latest', hidden: true, onclick: () => this.follow() }, icon('down'));
    chat.addEventListener('change', () => this.show());
    chat.addEventListener('growth', ({ detail }) => this.#grow(detail));
  }

  build() {
    this.#views.clear();
    this.list.setAttribute('aria-label', word('messages'));
    this.latest.setAttribute('aria-label', word('toLatest'));
    this.latest.title = word('toLatest');
    this.show();
  }

  show() {
    const { current, path } = this.#chat;
    if (this.#shown !== current) { // another one, or the same one as another tab has left it
      if (this.#shown?.id !== current.id) this.#isFollowing = true;
      this.#shown = current;
      this.#views.clear();
    }
    const messages = path.filter(({ role }) => role !== 'tool'); // shown with the calls they belong to
    const views = messages.map((message) => this.#viewOf(message));
    const nodes = views.length > 0 ? views.map(({ node }) => node) : [this.#greeting()];
    arrange(this.list, nodes);
    for (const view of views) view.show();
    // A screen reader waits with the answer until it is complete.
    this.list.setAttribute('aria-busy', String(Boolean(this.#chat.run)));
    this.#scroll();
  }

  /** Go to the end and stay there. */
  follow() {
    this.#isFollowing = true;
    this.#scroll();
  }

  #viewOf(message) {
    if (!this.#views.has(message.id)) this.#views.set(message.id, messageView(this.#chat, message));
    return this.#views.get(message.id);
  }

  #greeting() {
    return element('div', { class: 'greeting' },
      element('h2', {}, word('greeting')),
      this.#settings.model ? element('p', {}, word('greetingMore', { model: this.#settings.model })) : null);
  }

  /** Show what has grown once a frame, however many chunks come. */
  #grow(answer) {
    if (this.#isDue || this.#chat.run?.answer !== answer) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#views.get(answer.id)?.show();
      this.#scroll();
    });
  }

  #scroll() {
    if (this.#isFollowing) this.node.scrollTop = this.node.scrollHeight;
    this.#noteScroll();
  }

  #noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.node;
    this.#isFollowing = scrollHeight - scrollTop - clientHeight < NEAR;
    this.latest.hidden = this.#isFollowing;
  }
}
