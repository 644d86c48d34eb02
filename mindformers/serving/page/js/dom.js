// Elements made node by node. Text only ever becomes a text node, so nothing a model writes can become markup.

const PROPERTIES = new Set(['value', 'checked', 'disabled', 'hidden', 'open', 'selected']);
const SVG = 'http://www.w3.org/2000/svg';

// Drawn on a grid of 24 with a line of 1.75.
const ICONS = {
  copy: 'M9 9h10v11H9zM5 15V4h10',
  done: 'M5 13l4.5 4.5L19 7',
  down: 'M12 5v14M6 13l6 6 6-6',
  edit: 'M4 20l1-4.5L16 4.5l3.5 3.5L8.5 19z',
  export: 'M12 15V4M7.5 8.5L12 4l4.5 4.5M5 15v5h14v-5',
  import: 'M12 4v11M7.5 10.5L12 15l4.5-4.5M5 15v5h14v-5',
  left: 'M14.5 6l-6 6 6 6',
  menu: 'M4 7h16M4 12h16M4 17h16',
  plus: 'M12 5v14M5 12h14',
  remove: 'M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13M10.5 11v5.5M13.5 11v5.5',
  renew: 'M19.5 12a7.5 7.5 0 1 1-2.3-5.4M19.5 4v4h-4',
  right: 'M9.5 6l6 6-6 6',
  send: 'M12 19V5.5M6 11l6-6 6 6',
  settings: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5',
  stop: 'M7 7h10v10H7z',
  tool: 'M14.5 6.5a4 4 0 0 1 5-1l-3 3 1.5 1.5 3-3a4 4 0 0 1-5.5 5L8 19.5A2.1 2.1 0 0 1 5 16.5l7.5-7.5a4 4 0 0 1 2-2.5z',
  close: 'M6 6l12 12M18 6L6 18',
};

/**
 * Make an element.
 *
 * A key that begins with `on` and has a function listens; a few keys set the property of that name; all others are
 * attributes, which null and false leave out. Children are nodes, texts, lists of them, or null.
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') node.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) node[name] = value;
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  svg.classList.add('icon', `icon-${name}`);
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows an icon alone; its label is for screen readers and as a tip. */
export function iconButton(name, label, onclick, attributes = {}) {
  return element('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick, ...attributes },
    icon(name));
}

/** Copy a text, also where the page is not a secure context (plain HTTP on another host). */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return;
    } catch {
      // The user or a policy forbids it; the old way may still be open.
    }
  }
  const area = element('textarea', { value: text, class: 'off-screen', 'aria-hidden': 'true' });
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
  focused?.focus();
}

/** A button that copies what `text()` gives and shows for a moment that it did. */
export function copyButton(text, { label, done, attributes = {} }) {
  const button = iconButton('copy', label, async () => {
    await copyText(text());
    show('done', done);
    setTimeout(() => show('copy', label), 1500);
  }, attributes);
  function show(name, words) {
    button.replaceChildren(icon(name));
    button.setAttribute('aria-label', words);
    button.title = words;
  }
  return button;
}

let labels = 0;

/** A field under its label; hint and fault (a node) are read after the name. */
export function labelled(label, field, { hint = null, fault = null } = {}) {
  labels += 1;
  field.id = `field-${labels}`;
  const more = [hint && element('span', { class: 'explain' }, hint), fault].filter(Boolean);
  more.forEach((node, index) => { node.id = `${field.id}-${index}`; });
  if (more.length > 0) field.setAttribute('aria-describedby', more.map(({ id }) => id).join(' '));
  return element('div', { class: 'labelled' }, element('label', { for: field.id }, label), field, more);
}

const signatures = new WeakMap();

/** Fill a node anew only when what it depends on has changed, so that focus, selection and typed text stay. */
export function refill(node, signature, build) {
  const text = JSON.stringify(signature);
  if (signatures.get(node) === text) return;
  signatures.set(node, text);
  node.replaceChildren(...[build()].flat(Infinity).filter(Boolean));
}

/** Give a parent these children, in this order; those that need not move keep their focus. */
export function arrange(parent, nodes) {
  for (const child of [...parent.children]) if (!nodes.includes(child)) child.remove();
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}
