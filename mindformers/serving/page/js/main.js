// Puts the parts together and keeps what concerns the page as a whole: key, theme, language, keyboard.

import { Api } from './api.js';
import { Chat } from './chat.js';
import { Connection } from './connection.js';
import { element } from './dom.js';
import { useLanguage, word } from './language.js';
import { faultsOf, loadSettings, saveSettings } from './settings.js';
import { storageOf, Store } from './store.js';
import { Composer } from './views/composer.js';
import { Header } from './views/header.js';
import { Notices } from './views/notices.js';
import { SettingsSheet } from './views/settings.js';
import { Sidebar } from './views/sidebar.js';
import { Thread } from './views/thread.js';

const API_KEY = 'mindformers/api_key';

const storage = storageOf('localStorage');
const tabStorage = storageOf('sessionStorage');
const settings = loadSettings(storage);
const store = new Store(storage);

const key = {
  get: () => tabStorage.getItem(API_KEY) ?? '',
  set: (text) => {
    tabStorage.setItem(API_KEY, text);
    connection.check();
  },
};
const api = new Api(document.baseURI, key.get);
const connection = new Connection(api);
const chat = new Chat({ api, store, settings });

const notices = new Notices();
const sheet = new SettingsSheet({ chat, settings, key, onlook: showLook, onparameters: keepSettings });
const thread = new Thread({ chat, settings });
const composer = new Composer({ chat, oncheck: checkParameters, onsend: () => thread.follow() });
const sidebar = new Sidebar({ chat, store, notices, onchoice: () => {
  openSidebar(false);
  composer.focus();
} });
const header = new Header({
  chat, settings, connection, key, onmenu: () => openSidebar(true), onsettings: () => sheet.open(),
  onmodel: (model) => {
    settings.model = model;
    keepSettings();
  },
});
const main = element('main', {}, header.node, header.keyAsked, thread.node,
  element('div', { class: 'bottom' }, thread.latest, composer.node));
const shade = element('div', { class: 'shade', onclick: () => openSidebar(false) });

function keepSettings() {
  saveSettings(storage, settings);
}

/** Open or close the list of conversations where the page is too narrow to show it beside the thread. */
function openSidebar(isOpen) {
  const wasOpen = document.body.classList.contains('with-sidebar');
  document.body.classList.toggle('with-sidebar', isOpen);
  main.inert = isOpen;
  if (isOpen) sidebar.node.querySelector('button').focus();
  else if (wasOpen) header.menu.querySelector('button').focus();
}

function checkParameters() {
  const [fault] = Object.keys(faultsOf(chat.current.parameters));
  if (fault) sheet.open(fault);
  return fault === undefined;
}

/** Show everything in the language and the theme chosen. */
function showLook() {
  keepSettings();
  if (settings.theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
  document.documentElement.lang = useLanguage(settings.language, navigator.languages) === 'zh' ? 'zh-CN' : 'en';
  for (const part of [sidebar, header, thread, composer, sheet]) part.build();
}

connection.addEventListener('change', () => {
  if (connection.models.length > 0 && !connection.models.includes(settings.model)) {
    [settings.model] = connection.models;
    keepSettings();
  }
  thread.show(); // the greeting names the model
});
chat.addEventListener('away', () => connection.note('away'));
chat.addEventListener('key', () => connection.note('needsKey'));
chat.addEventListener('full', () => notices.say(word('full')));

addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || event.isComposing || sheet.node.open) return;
  if (document.body.classList.contains('with-sidebar')) openSidebar(false);
  else chat.stop();
});
addEventListener('storage', (event) => {
  if (store.reload(event.key)) chat.refresh(event.key.split('/').at(-1));
});
addEventListener('pagehide', () => chat.saveRunning());
matchMedia('(min-width: 56rem)').addEventListener('change', () => openSidebar(false));

document.body.append(sidebar.node, shade, main, sheet.node, notices.node);
showLook();
connection.check();
composer.focus();
