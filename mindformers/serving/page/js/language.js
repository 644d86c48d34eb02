// The page's words in the language chosen.

import { WORDS } from './words.js';

let current = 'en';

/** Choose by what the user set (`en`, `zh` or `auto`) or by what the browser offers; returns the language. */
export function useLanguage(choice, offered) {
  const wanted = choice === 'auto' ? offered : [choice];
  const known = wanted.map((tag) => tag.toLowerCase().split('-')[0]).find((tag) => tag in WORDS);
  current = known ?? 'en';
  return current;
}

/** Return words by their key, with each `{name}` replaced; a pair is one for `n` of 1 and one for all others. */
export function word(key, values = {}) {
  const found = WORDS[current][key];
  const text = Array.isArray(found) ? found[values.n === 1 ? 0 : 1] : found;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
