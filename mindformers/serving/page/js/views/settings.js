// The sheet of settings: connection, parameters, appearance.

import { element, iconButton, labelled } from '../dom.js';
import { word } from '../language.js';
import { faultsOf, NO_PARAMETERS, NUMBERS } from '../settings.js';

export class SettingsSheet {
  #chat;
  #settings;
  #key;
  #fields = new Map(); // name of a parameter -> {input, fault}

  /** `key` is {get, set} of the API key; `onlook` follows a change of theme or language, `onparameters` one of parameters. */
  constructor({ chat, settings, key, onlook, onparameters }) {
    this.#chat = chat;
    this.#settings = settings;
    this.#key = key;
    this.onlook = onlook;
    this.onparameters = onparameters;
    this.node = element('dialog', { class: 'sheet', 'aria-labelledby': 'settings-title' });
    // A click on what lies behind the sheet closes it.
    this.node.addEventListener('click', (event) => event.target === this.node && this.node.close());
  }

  build() {
    this.#fields.clear();
    this.node.replaceChildren(element('div', { class: 'sheet-body' },
      element('header', { class: 'sheet-head' },
        element('h2', { id: 'settings-title' }, word('settings')),
        iconButton('close', word('close'), () => this.node.close())),
      this.#connection(),
      this.#parameters(),
      this.#appearance()));
    this.#showFaults();
  }

  /** Open the sheet; `name` is the parameter to begin at, if any. */
  open(name = null) {
    this.build();
    this.node.showModal();
    if (name) this.#fields.get(name).input.focus();
  }

  #connection() {
    return section('connection', keyForm(this.#key));
  }

  #parameters() {
    const { parameters } = this.#chat.current;
    const number = (name) => this.#field(name, element('input', { type: 'text', inputmode: NUMBERS[name].step < 1 ? 'decimal' : 'numeric',
      class: 'field', value: parameters[name], placeholder: word('serverDefault') }));
    return section('parameters',
      element('p', { class: 'explain' }, word('parametersHint')),
      this.#field('system', element('textarea', { class: 'field', rows: '3', value: parameters.system, placeholder: word('systemHint') })),
      this.#alone(parameters.alone),
      element('div', { class: 'pairs' }, Object.keys(NUMBERS).map(number)),
      this.#field('tools', element('textarea', { class: 'field code-field', rows: '5', value: parameters.tools, spellcheck: 'false' }),
        word('toolsHint')));
  }

  #appearance() {
    return section('appearance',
      element('div', { class: 'pairs' },
        this.#choice('theme', [['system', 'themeSystem'], ['light', 'themeLight'], ['dark', 'themeDark']]),
        this.#choice('language', [['auto', 'languageAuto'], ['en', null, 'English'], ['zh', null, '中文']])));
  }

  #field(name, input, hint = null) {
    const fault = element('span', { class: 'fault' });
    input.addEventListener('input', () => this.#take());
    this.#fields.set(name, { input, fault });
    return labelled(word(name), input, { hint, fault });
  }

  #alone(value) {
    const input = element('input', { type: 'checkbox', checked: value === 'on', onchange: () => this.#take() });
    this.#fields.set('alone', { input, fault: element('span') });
    return element('div', {},
      element('label', { class: 'check' }, input, word('alone')),
      element('p', { class: 'explain' }, word('aloneHint')));
  }

  #choice(name, options) {
    const select = element('select', { class: 'field', onchange: () => {
      this.#settings[name] = select.value;
      this.onlook();
      this.node.querySelector(`[name=${name}]`).focus(); // the sheet was made anew
    }, name }, options.map(([value, key, text]) => (
      element('option', { value, selected: this.#settings[name] === value }, text ?? word(key)))));
    return labelled(word(name), select);
  }

  #take() {
    const parameters = { ...NO_PARAMETERS };
    for (const [name, { input }] of this.#fields) {
      const isBox = input.type === 'checkbox';
      parameters[name] = isBox && !input.checked ? '' : input.value; // the value of a box is 'on'
    }
    this.#settings.parameters = parameters;
    this.#chat.setParameters(parameters);
    this.onparameters();
    this.#showFaults();
  }

  #showFaults() {
    const faults = faultsOf(this.#chat.current.parameters);
    for (const [name, { input, fault }] of this.#fields) {
      fault.textContent = faults[name] ? word(faults[name], NUMBERS[name]) : '';
      input.setAttribute('aria-invalid', String(Boolean(faults[name])));
    }
  }
}

/** A form for the API key; the sheet has one, and the page shows one when the server asks for a key. */
export function keyForm(key) {
  const input = element('input', { type: 'password', class: 'field', value: key.get(), autocomplete: 'off', spellcheck: 'false' });
  return element('form', { class: 'key-form', onsubmit: (event) => {
    event.preventDefault();
    key.set(input.value.trim());
  } },
  labelled(word('apiKey'), input, { hint: word('apiKeyHint') }),
  element('button', { type: 'submit', class: 'button' }, word('useKey')));
}

function section(title, ...children) {
  return element('section', {}, element('h3', {}, word(title)), children);
}
