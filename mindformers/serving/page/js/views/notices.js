// Short messages at the edge of the page, one at a time.

import { element, iconButton } from '../dom.js';
import { word } from '../language.js';

const SHOWN = 10000; // milliseconds; long enough to read two lines and reach the button

export class Notices {
  #timer = 0;

  constructor() {
    this.node = element('div', { class: 'notices', role: 'status' });
  }

  /** Show a text, with a button when `action` is {label, act}. */
  say(text, action = null) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.clear(), SHOWN);
    this.node.replaceChildren(element('div', { class: 'notice' },
      element('span', {}, text),
      action && element('button', { type: 'button', class: 'link', onclick: () => {
        this.clear();
        action.act();
      } }, action.label),
      iconButton('close', word('close'), () => this.clear())));
  }

  clear() {
    this.node.replaceChildren();
  }
}
