import assert from 'node:assert/strict';
import { test } from 'node:test';

const { parseInline, safeAddress } = await import(`${process.env.PAGE_MODULES}/markdown/inline.js`);

/** Write a tree as short text: strong [s:..], em [e:..], del [d:..], code {..}, math {{..}}, break /, link <address|..>. */
function short(nodes) {
  return nodes.map((node) => {
    const inside = node.children && short(node.children);
    return { text: node.text, code: `{${node.text}}`, math: `{{${node.text}}}`, break: '/', strong: `[s:${inside}]`,
      em: `[e:${inside}]`, del: `[d:${inside}]`, link: `<${node.href}|${inside}>` }[node.type];
  }).join('');
}
const read = (text) => short(parseInline(text));

const CASES = {
  'a **b** c': 'a [s:b] c',
  '*a* _b_ ~~c~~': '[e:a] [e:b] [d:c]',
  '***a***': '[e:[s:a]]',
  '**a *b* c**': '[s:a [e:b] c]',
  '**a*b**': '[s:a*b]',
  '***a** b*': '[e:[s:a] b]',
  '**open': '**open',
  'snake_case_name and 2 * 3 * 4': 'snake_case_name and 2 * 3 * 4',
  '**重点：**说明': '[s:重点：]说明',
  '他说**“你好”**吗': '他说[s:“你好”]吗',
  '~a~ ~~~b~~~': '~a~ ~~~b~~~',
  '****a****': '****a****',
  'a `b*c*` d': 'a {b*c*} d',
  '`` a`b ``': '{a`b}',
  'a ` b': 'a ` b',
  '\\`a\\` \\*b\\*': '`a` *b*',
  '`\\`': '{\\}',
  'a\nb<br>c<BR/>d': 'a/b/c/d',
  '&lt;b&gt; &amp;amp; &copy;': '<b> &amp; &copy;',
  '<b onclick=x>c</b>': '<b onclick=x>c</b>',
  'energy \\(E_1 = m*c*2\\) and $$a*b*c$$': 'energy {{\\(E_1 = m*c*2\\)}} and {{$$a*b*c$$}}',
  'costs $5 and $6': 'costs $5 and $6',
  '[a](https://x.org)': '<https://x.org/|a>',
  '[**a** `b`](https://x.org/c_d "T")': '<https://x.org/c_d|[s:a] {b}>',
  '[a](https://x.org/(b))': '<https://x.org/(b)|a>',
  '[](https://x.org)': '<https://x.org/|https://x.org>',
  '![pic](https://x.org/p.png)': '<https://x.org/p.png|pic>',
  '[a [b](https://x.org) c](https://y.org)': '<https://y.org/|a [b](https://x.org) c>',
  '[a] (https://x.org)': '[a] (<https://x.org/|https://x.org>)',
  '[a](b c)': '[a](b c)',
  '[a](': '[a](',
  '[mail](mailto:a@b.org)': '<mailto:a@b.org|mail>',
  'see https://x.org/a?b=c&d. Or (http://y.org/z_(q)).': 'see <https://x.org/a?b=c&d|https://x.org/a?b=c&d>. Or (<http://y.org/z_(q)|http://y.org/z_(q)>).',
  '看https://x.org。好': '看<https://x.org/|https://x.org>。好',
  '<https://x.org/a>': '<https://x.org/a|https://x.org/a>',
  'nohttps://x.org': 'nohttps://x.org',
  'https://': 'https://',
};

for (const [text, tree] of Object.entries(CASES)) test(JSON.stringify(text), () => assert.equal(read(text), tree));

const REFUSED = ['javascript:alert(1)', 'JaVaScRiPt:alert(1)', 'java\nscript:alert(1)', '\u0001javascript:alert(1)', ' javascript:alert(1)',
  'java\tscript:alert(1)', 'vbscript:x', 'data:text/html,<script>1</script>', 'file:///etc/passwd', 'blob:https://x.org/1', '/v1/models', '//x.org',
  '#a', 'ftp://x.org', 'about:blank', 'view-source:https://x.org', ''];

test('only http, https and mailto are linked to', () => {
  assert.deepEqual(REFUSED.map(safeAddress), REFUSED.map(() => null));
  assert.deepEqual(['HTTP://X.org', 'https://x.org', 'mailto:a@b.org'].map(safeAddress), ['http://x.org/', 'https://x.org/', 'mailto:a@b.org']);
});

test('a link that is refused is shown as it was written', () => {
  for (const address of REFUSED.filter((text) => !/\s/.test(text))) {
    const nodes = parseInline(`a [**b**](${address}) c`);
    assert.equal(nodes.map(({ text }) => text).join(''), `a [**b**](${address}) c`);
  }
});

test('long hostile texts are read in a moment', { timeout: 20000 }, () => {
  const hostile = ['*', '(', 'https://x)', '*a', '**a ', 'a*', '_a_', '*_', '`', '``a`', '[', '](', '[a](', '![', '[a](b', '<', '<https://', '\\(', '$$a', '\\', '&lt', 'https://', '***a',
    '*a **b '];
  for (const piece of hostile) parseInline(piece.repeat(5000));
  parseInline(`${'*a '.repeat(3000)}${'b* '.repeat(3000)}`);
  const depth = (node) => 1 + Math.max(0, ...(node.children ?? []).map(depth));
  assert.ok(Math.max(...parseInline(`${'*a **b '.repeat(3000)}${'c** d* '.repeat(3000)}`).map(depth)) <= 100);
});
