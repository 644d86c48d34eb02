// The list of conversations: open, rename, export, delete, import.

import { titleOf } from '../conversation.js';
import { arrange, element, icon, iconButton, refill } from '../dom.js';
import { ExchangeError, exportText, importText } from '../exchange.js';
import { word } from '../language.js';

export class Sidebar {
  #chat;
  #store;
  #notices;
  #rows = new Map(); // id of a conversation -> its row, so that the focus in it stays
  #renaming = null; // id of the conversation whose title is being typed

  /** `onchoice` is called when a conversation was opened: on a phone the list then makes room. */
  constructor({ chat, store, notices, onchoice }) {
    this.#chat = chat;
    this.#store = store;
    this.#notices = notices;
    this.onchoice = onchoice;
    this.list = element('ul', { class: 'conversations' });
    this.node = element('nav', { id: 'conversations', class: 'sidebar' });
    this.build();
    chat.addEventListener('change', () => this.show());
  }

  /** Make everything anew, in the language of now. */
  build() {
    const file = element('input', { type: 'file', accept: '.json,application/json', class: 'off-screen', tabindex: '-1',
      'aria-label': word('importFile'), onchange: () => this.#importFile(file) });
    this.#rows.clear();
    this.node.setAttribute('aria-label', word('conversations'));
    this.node.replaceChildren(
      element('button', { type: 'button', class: 'new-chat', onclick: () => this.#startNew() }, icon('plus'), word('newChat')),
      this.list,
      element('div', { class: 'sidebar-foot' },
        element('button', { type: 'button', class: 'quiet', onclick: () => this.#exportFile(this.#store.list(), 'conversations') },
          icon('export'), word('exportAll')),
        element('button', { type: 'button', class: 'quiet', onclick: () => file.click() }, icon('import'), word('importFile')),
        file));
    this.show();
  }

  show() {
    if (this.#renaming) return; // or what is being typed would be lost
    const rows = this.#store.list().map((conversation) => this.#row(conversation));
    arrange(this.list, rows.length > 0 ? rows : [element('li', { class: 'empty' }, word('noConversations'))]);
  }

  #row(conversation) {
    const { id } = conversation;
    const title = titleOf(conversation) || word('untitled');
    const isCurrent = id === this.#chat.current.id;
    if (!this.#rows.has(id)) this.#rows.set(id, element('li'));
    const row = this.#rows.get(id);
    row.className = isCurrent ? 'row current' : 'row';
    refill(row, [title, isCurrent, this.#chat.isRunning(id)], () => this.#cells(row, conversation, title, isCurrent));
    return row;
  }

  #cells(row, conversation, title, isCurrent) {
    const { id } = conversation;
    const button = element('button', { type: 'button', class: 'conversation', title, 'aria-current': isCurrent ? 'true' : null,
      onclick: () => this.#open(id) }, element('span', {}, title),
    this.#chat.isRunning(id) ? element('span', { class: 'pulse', role: 'img', 'aria-label': word('answering') }) : null);
    return [button, element('div', { class: 'row-actions' },
      iconButton('edit', word('rename', { title }), () => this.#rename(row, conversation, title)),
      iconButton('export', word('exportOne', { title }), () => this.#exportFile([this.#store.get(id)], title)),
      iconButton('remove', word('remove', { title }), () => this.#remove(id, title)))];
  }

  #startNew() {
    this.#chat.startNew();
    this.onchoice();
  }

  #open(id) {
    this.#chat.open(id);
    this.onchoice();
  }

  #rename(row, { id }, title) {
    this.#renaming = id;
    const input = element('input', { type: 'text', class: 'field', value: title, maxlength: '200', 'aria-label': word('newName', { title }) });
    const end = (isKept) => {
      if (this.#renaming !== id) return;
      this.#renaming = null;
      this.#rows.delete(id);
      if (isKept && input.value !== title) this.#chat.rename(id, input.value);
      else this.show();
    };
    input.addEventListener('blur', () => end(true));
    input.addEventListener('keydown', (event) => {
      if (event.isComposing || !['Enter', 'Escape'].includes(event.key)) return;
      event.stopPropagation(); // Escape here does not stop an answer
      end(event.key === 'Enter');
    });
    row.replaceChildren(input);
    input.select();
  }

  #remove(id, title) {
    const undo = this.#chat.remove(id);
    this.#notices.say(word('removed', { title }), { label: word('undo'), act: undo });
  }

  #exportFile(conversations, name) {
    const blob = new Blob([exportText(conversations)], { type: 'application/json' });
    const address = URL.createObjectURL(blob);
    element('a', { href: address, download: `${name.replace(/[^\p{L}\p{N}]+/gu, '-').slice(0, 60) || 'chat'}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000); // the download has begun by then
  }

  async #importFile(input) {
    const [file] = input.files;
    input.value = ''; // the same file may be chosen again
    if (!file) return;
    try {
      const conversations = importText(await file.text());
      const newer = conversations.filter(({ id, updated }) => !(this.#store.get(id)?.updated >= updated));
      const areKept = newer.map((conversation) => this.#store.save(conversation)).every(Boolean);
      this.#notices.say(areKept ? word('imported', { n: newer.length }) : word('full'));
      for (const { id } of newer) this.#chat.refresh(id);
    } catch (error) {
      if (!(error instanceof ExchangeError)) throw error;
      this.#notices.say(word(error.message));
    }
  }
}
