import assert from 'node:assert/strict';
import { test } from 'node:test';

const { highlight } = await import(`${process.env.PAGE_MODULES}/markdown/highlight.js`);

const MARKS = { '': ['', ''], comment: ['<', '>'], string: ['[', ']'], number: ['(', ')'], keyword: ['{', '}'] };
const marked = (text, language) => highlight(text, language).map(({ kind, text: part }) => MARKS[kind].join(part)).join('');

const CASES = [
  ['python', 'def f(x1):\n    return "a # b", 0x1F  # c', '{def} f(x1):\n    {return} ["a # b"], (0x1F)  <# c>'],
  ['py', 'x = """a\n# b"""\ny = \'\\\'\' + \'', 'x = ["""a\n# b"""]\ny = [\'\\\'\'] + [\']'],
  ['PYTHON', 'imported = import_x', 'imported = import_x'],
  ['bash', 'for a in "$@"; do echo ${a#x} $#; done # end', '{for} a {in} ["$@"]; {do} echo ${a#x} $#; {done} <# end>'],
  ['js', 'const a = `b ${c}`; // d\n/* e', '{const} a = [`b ${c}`]; <// d>\n</* e>'],
  ['json', '{"a": [1.5, true]}', '{["a"]: [(1.5), {true}]}'],
  ['sql', 'SELECT a FROM t -- b', '{SELECT} a {FROM} t <-- b>'],
  ['html', '<a href="b"><!-- c --></a>', '<a href=["b"]><<!-- c -->></a>'],
  ['brainf', 'for "x" 1 # y', 'for "x" 1 # y'],
  ['', 'for "x" 1 # y', 'for "x" 1 # y'],
];
for (const [language, text, expected] of CASES) {
  test(`${language}: ${JSON.stringify(text)}`, () => assert.equal(marked(text, language), expected));
}

test('nothing is lost or changed, and hostile code is read in a moment', { timeout: 20000 }, () => {
  const hostile = ['"', "'", '`', '"""', '/*', '<!--', '#', ' #', '\\', '"\\', '1', 'a', '\n', '\'"'].map((piece) => piece.repeat(9000));
  for (const text of [...hostile, 'x'.repeat(40000)]) {
    for (const language of ['python', 'bash', 'js', 'c', 'sql', 'html', 'yaml']) {
      assert.equal(highlight(text, language).map((part) => part.text).join(''), text);
    }
  }
});
