// Code in four colours: comments, strings, numbers and keywords. Read by shape alone, without a grammar of any language.

const LONGEST = 30000; // characters; longer code stays plain, it is made anew for each piece that comes

const WORDS = {
  python: 'and as assert async await break case class continue def del elif else except False finally for from global if import in is '
    + 'lambda match None nonlocal not or pass raise return True try while with yield',
  shell: 'case do done elif else esac export fi for function if in local return set source then until while',
  data: 'true false null yes no on off',
  braces: 'abstract as async await auto bool boolean break byte case catch char class const continue default defer delete do double else enum '
    + 'export extends extern false final finally float fn for from func function go goto if impl implements import in inline instanceof int '
    + 'interface let long match mod module mut namespace new nil null nullptr of package private protected pub public readonly return self '
    + 'short signed sizeof static string struct super switch template this throw trait true try type typedef typeof undefined union unsafe '
    + 'unsigned use using val var virtual void volatile where while yield',
  sql: 'add all alter and as asc between by case create cross delete desc distinct drop else end exists from full group having in index inner '
    + 'insert into is join key left like limit not null offset on or order outer primary right select set table then union update values '
    + 'view when where with',
};

const HASH = '(?<!\\S)#[^\\n]*';
const SLASHES = '//[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)';
const QUOTES = '"(?:\\\\.|[^"\\\\\\n])*"?|\'(?:\\\\.|[^\'\\\\\\n])*\'?';
const LONG_QUOTES = '"""[\\s\\S]*?(?:"""|$)|\'\'\'[\\s\\S]*?(?:\'\'\'|$)';
const BACKTICKS = '`(?:\\\\.|[^`\\\\])*`?';

const FAMILIES = [
  ['python py python3', family(HASH, `${LONG_QUOTES}|${QUOTES}`, WORDS.python)],
  ['bash sh shell zsh console dockerfile makefile r ruby rb perl', family(HASH, QUOTES, WORDS.shell)],
  ['yaml yml toml ini json jsonc', family(HASH, QUOTES, WORDS.data)],
  ['js javascript jsx mjs ts typescript tsx go', family(SLASHES, `${QUOTES}|${BACKTICKS}`, WORDS.braces)],
  ['c cc cpp c++ h hpp cs csharp java kotlin rust rs scala swift php css dart', family(SLASHES, QUOTES, WORDS.braces)],
  ['sql mysql postgresql sqlite', family('--[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)', QUOTES, WORDS.sql, true)],
  ['html xml svg vue', family('<!--[\\s\\S]*?(?:-->|$)', QUOTES, '')],
];
const BY_NAME = new Map(FAMILIES.flatMap(([names, rules]) => names.split(' ').map((name) => [name, rules])));

function family(comment, string, words, ignoresCase = false) {
  const pattern = new RegExp(`(?<comment>${comment})|(?<string>${string})|(?<number>\\b\\d[\\w.]*)|(?<word>[A-Za-z_]\\w*)`, 'g');
  return { pattern, words: new Set(words.split(' ')), ignoresCase };
}

/** Return the parts of a code in order: {kind, text}; `kind` is empty where there is nothing to say of it. */
export function highlight(text, language) {
  const rules = BY_NAME.get(language.toLowerCase());
  if (!rules || text.length > LONGEST) return [{ kind: '', text }];
  const parts = [];
  let plain = 0;
  for (const { index, 0: found, groups } of text.matchAll(rules.pattern)) {
    const kind = groups.word === undefined ? Object.keys(groups).find((name) => groups[name] !== undefined) : kindOf(found, rules);
    if (kind === '') continue;
    if (index > plain) parts.push({ kind: '', text: text.slice(plain, index) });
    parts.push({ kind, text: found });
    plain = index + found.length;
  }
  if (plain < text.length) parts.push({ kind: '', text: text.slice(plain) });
  return parts;
}

function kindOf(word, { words, ignoresCase }) {
  return words.has(ignoresCase ? word.toLowerCase() : word) ? 'keyword' : '';
}
