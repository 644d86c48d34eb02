// The bar at the top: conversation, model, state of the server, settings.

import { titleOf } from '../conversation.js';
import { element, iconButton } from '../dom.js';
import { word } from '../language.js';
import { keyForm } from './settings.js';

export class Header {
  #chat;
  #settings;
  #connection;
  #key;

  constructor({ chat, settings, connection, key, onmenu, onsettings, onmodel }) {
    this.#chat = chat;
    this.#settings = settings;
    this.#connection = connection;
    this.#key = key;
    this.onmenu = onmenu;
    this.onsettings = onsettings;
    this.onmodel = onmodel;
    this.title = element('h1');
    this.menu = element('div', { class: 'menu' });
    this.model = element('div', { class: 'model' });
    this.state = element('div', { class: 'state', role: 'status' });
    this.settings = element('div');
    this.keyAsked = element('div', { class: 'key-asked' });
    this.node = element('header', { class: 'top' }, this.menu, this.title, this.model, this.state, this.settings);
    chat.addEventListener('change', () => this.#showTitle());
    connection.addEventListener('change', () => this.show());
  }

  build() {
    this.menu.replaceChildren(iconButton('menu', word('openConversations'), this.onmenu, { 'aria-controls': 'conversations' }));
    this.settings.replaceChildren(iconButton('settings', word('settings'), this.onsettings));
    this.show();
  }

  show() {
    this.#showTitle();
    const { state, models } = this.#connection;
    this.state.className = `state ${state}`;
    this.state.replaceChildren(element('span', { class: 'dot' }), element('span', {}, word(state)));
    this.model.replaceChildren(...this.#models(models));
    if (state !== 'needsKey') this.keyAsked.replaceChildren();
    else if (!this.keyAsked.hasChildNodes()) this.keyAsked.append(keyForm(this.#key));
  }

  #showTitle() {
    const title = titleOf(this.#chat.current);
    this.title.textContent = title || word('untitled');
    document.title = title ? `${title} · MindFormers` : 'MindFormers';
  }

  #models(models) {
    if (models.length < 2) return models.map((id) => element('span', { title: id }, id));
    const select = element('select', { class: 'field', 'aria-label': word('model'), onchange: () => this.onmodel(select.value) },
      models.map((id) => element('option', { value: id, selected: id === this.#settings.model }, id)));
    return [select];
  }
}
