// Conversations in the browser's storage, one entry each, so that two tabs do not overwrite one another's.

import { readConversation } from './exchange.js';

const PREFIX = 'mindformers/conversation/';

/** Return the browser's storage, or one that lasts as long as the page where the browser forbids it. */
export function storageOf(name) {
  try {
    const storage = window[name];
    storage.getItem(PREFIX);
    return storage;
  } catch {
    const entries = new Map();
    return {
      get length() { return entries.size; },
      key: (index) => [...entries.keys()][index] ?? null,
      getItem: (key) => entries.get(key) ?? null,
      setItem: (key, value) => entries.set(key, value),
      removeItem: (key) => entries.delete(key),
    };
  }
}

export class Store {
  #storage;
  #conversations = new Map();

  constructor(storage) {
    this.#storage = storage;
    for (let index = 0; index < storage.length; index += 1) this.reload(storage.key(index));
  }

  /** Return all conversations, the one that changed last first. */
  list() {
    return [...this.#conversations.values()].sort((one, other) => other.updated - one.updated);
  }

  get(id) {
    return this.#conversations.get(id);
  }

  /** Keep a conversation; return false when the browser has no room for it (it then lasts as long as the page). */
  save(conversation) {
    this.#conversations.set(conversation.id, conversation);
    try {
      this.#storage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
      return true;
    } catch {
      return false;
    }
  }

  remove(id) {
    this.#conversations.delete(id);
    this.#storage.removeItem(PREFIX + id);
  }

  /** Take an entry over that another tab has changed. Returns whether it was a conversation. */
  reload(key) {
    if (!key?.startsWith(PREFIX)) return false;
    const id = key.slice(PREFIX.length);
    const conversation = parsed(this.#storage.getItem(key));
    if (conversation?.id === id) this.#conversations.set(id, conversation);
    else this.#conversations.delete(id); // a damaged entry is left where it is
    return true;
  }
}

function parsed(text) {
  try {
    return text === null ? null : readConversation(JSON.parse(text));
  } catch {
    return null;
  }
}
