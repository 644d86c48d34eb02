// Where a message is written and sent, and an answer stopped.

import { element, icon } from '../dom.js';
import { word } from '../language.js';

export class Composer {
  #chat;
  #wasRunning = false;

  /** `oncheck` says whether a request can be sent as the settings are; `onsend` follows each message. */
  constructor({ chat, oncheck, onsend }) {
    this.#chat = chat;
    this.oncheck = oncheck;
    this.onsend = onsend;
    this.area = element('textarea', { rows: '1', oninput: () => this.#fit(), onkeydown: (event) => this.#key(event) });
    this.button = element('button', { type: 'submit', class: 'send' });
    this.hint = element('p', { class: 'hint', id: 'hint' });
    this.state = element('p', { class: 'off-screen', role: 'status' });
    this.area.setAttribute('aria-describedby', 'hint');
    this.node = element('form', { class: 'composer', onsubmit: (event) => this.#submit(event) },
      element('div', { class: 'box' }, this.area, this.button), this.hint, this.state);
    chat.addEventListener('change', () => this.show());
  }

  build() {
    this.area.setAttribute('aria-label', word('question'));
    this.area.placeholder = word('placeholder');
    this.hint.textContent = word('hint');
    this.show();
  }

  show() {
    const isRunning = Boolean(this.#chat.run);
    const label = word(isRunning ? 'stop' : 'send');
    if (this.button.ariaLabel !== label) {
      this.button.ariaLabel = label;
      this.button.title = label;
      this.button.replaceChildren(icon(isRunning ? 'stop' : 'send'));
    }
    this.#announce(isRunning);
    this.#fit();
  }

  /** Take the focus, but not where that would bring up a keyboard over half of the page. */
  focus() {
    if (matchMedia('(hover: hover)').matches) this.area.focus();
  }

  #announce(isRunning) {
    if (isRunning !== this.#wasRunning) this.state.textContent = word(isRunning ? 'began' : 'ended');
    this.#wasRunning = isRunning;
  }

  #key(event) {
    // While an input method is open, Enter takes its choice.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    if (!this.#chat.run) this.#send();
  }

  #submit(event) {
    event.preventDefault();
    if (this.#chat.run) this.#chat.stop();
    else this.#send();
  }

  #send() {
    const text = this.area.value.trim();
    if (!text || !this.oncheck()) return;
    this.area.value = '';
    this.#chat.send(text);
    this.onsend();
    this.focus();
  }

  /** As high as the text, up to the limit that the style sets, and no button to press where there is nothing to send. */
  #fit() {
    this.area.style.height = 'auto';
    this.area.style.height = `${this.area.scrollHeight}px`;
    this.button.disabled = !this.#chat.run && !this.area.value.trim();
  }
}
