"""Foreign templates: what they may do, and what stops them."""

from __future__ import annotations

import pytest

from mindformers.errors import TokenizerError
from mindformers.tokenizer import sandbox, sandbox_limits
from mindformers.tokenizer.sandbox import compile_template


def render(source, **variables):
    return compile_template(source).render(variables)


def test_blocks_leave_no_blank_lines_and_loops_can_be_left():
    source = (
        "{% for x in xs %}\n  {% if x == 3 %}\n{% break %}\n{% endif %}\n{{ x }}\n{% endfor %}\n"
    )
    assert render(source, xs=[1, 2, 3, 4]) == "1\n2\n"


def test_a_loop_knows_its_length_and_its_last_round():
    source = "{% for x in xs %}{{ x }}{{ '/' if not loop.last }}{{ loop.length }}{% endfor %}"
    assert render(source, xs=["a", "b"]) == "a/2b2"


def test_a_loop_over_nothing_or_over_something_undefined_takes_its_else():
    assert render("{% for x in nothing %}{{ x }}{% else %}none{% endfor %}") == "none"


def test_tojson_is_the_one_models_were_trained_on():
    assert render("{{ x | tojson }}", x={"b": "<é>", "a": 1}) == '{"b": "<é>", "a": 1}'
    assert render("{{ x | tojson(indent=2) }}", x={"b": 1}) == '{\n  "b": 1\n}'


def test_usual_filters_and_concatenation_work():
    assert render("{{ ' a ' | trim ~ 'b' ~ 1 }}") == "ab1"
    assert render("{{ 'a-b'.replace('-', '+') + 'c' }}") == "a+bc"
    assert render("{{ ['x', 'y'] | join(', ') }}|{{ ', '.join(['x', 'y']) }}") == "x, y|x, y"
    assert render("{{ xs | map(attribute='a') | list | length }}", xs=[{"a": 1}]) == "1"
    assert render("{{ x | string }}{{ 'ab' * 2 }}{{ 2 ** 3 }}{{ 7 % 4 }}", x=[1]) == "[1]abab83"


def test_generation_blocks_print_their_content():
    assert render("a{% generation %}b{{ x }}{% endgeneration %}c", x=1) == "ab1c"


def test_the_date_can_be_asked_for():
    assert render("{{ strftime_now('%Y') }}").isdigit()


def test_names_read_from_outside_are_known_and_names_set_inside_are_not():
    inside = (
        "{% for m in messages %}{% if m.t %}{% set tools = m.t %}{{ tools }}{% endif %}{% endfor %}"
    )
    assert not compile_template(inside).reads_before_setting("tools")
    assert compile_template("{% if tools %}x{% endif %}").reads_before_setting("tools")
    default = "{% if tools is not defined %}{% set tools = none %}{% endif %}{{ tools }}"
    assert compile_template(default).reads_before_setting("tools")
    assert compile_template("{% set tools = tools or [] %}").reads_before_setting("tools")
    assert compile_template("{{ a }}{{ b }}").variables == {"a", "b"}


REFUSED = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__.os }}",
    "mutation": "{{ xs.append(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "percent": "{{ '%01000000000d' % 1 }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "repeat": "{{ 'a' * 10 ** 9 }}",
    "repeat_list": "{{ [0] * 10 ** 9 }}",
    "power": "{{ 9 ** 99999999 }}",
    "square": "{% set n = namespace(x=3) %}"
    "{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "double": "{% set n = namespace(x='ab') %}"
    "{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "double_plus": "{% set n = namespace(x='ab') %}"
    "{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "double_block": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "double_list": "{% set n = namespace(x=[1]) %}"
    "{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "replace": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "replace_method": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "join": "{{ [('a' * 1000000)] * 1000000 | join }}",
    "join_method": "{{ ('a' * 1000000).join(['b'] * 1000000) }}",
    "print_list": "{{ [('a' * 1000000)] * 1000000 }}",
    "string": "{% set x = ([('a' * 1000000)] * 1000000) | string %}",
    "json": "{% set x = ([('a' * 1000000)] * 1000000) | tojson %}",
    "range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "include": "{% include 'x' %}",
    "raise": "{{ raise_exception('roles must alternate') }}",
    "undefined": "{{ nothing.here }}",
    "type": "{{ 1 + 'a' }}",
    "zero": "{{ 1 / 0 }}",
    "index": "{{ [1][:].pop() }}",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_template_that_does_harm_or_fails_is_a_clear_error(fault, monkeypatch):
    monkeypatch.setattr(sandbox_limits, "MAX_SECONDS", 1.0)
    with pytest.raises(TokenizerError, match=r"^chat_template: .*chat template") as caught:
        render(REFUSED[fault], xs=[])
    assert "\n" not in str(caught.value)


def test_a_template_s_own_message_is_shown():
    with pytest.raises(TokenizerError, match="failed: roles must alternate"):
        render(REFUSED["raise"])


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in s %}{% for b in s %}{% set x = a %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_would_run_for_hours_is_stopped(source, monkeypatch):
    monkeypatch.setattr(sandbox_limits, "MAX_SECONDS", 0.2)
    with pytest.raises(TokenizerError, match=r"runs longer than 0\.2 seconds"):
        render(source, s="x" * 100_000)


def test_what_a_template_prints_is_bounded(monkeypatch):
    monkeypatch.setattr(sandbox_limits, "MAX_CHARS", 1000)
    assert len(render("{% for i in range(90) %}{{ 'abcde' }}{% endfor %}")) == 450
    for body in ("{{ 'abcde' }}", "{{ i }}abcde", "abcde"):
        with pytest.raises(TokenizerError, match="builds more than 1,000 characters"):
            render("{% for i in range(900) %}" + body + "{% endfor %}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% if %}", "chat_template:2: .*no valid Jinja template"),
        ("{{ x | no_such_filter }}", "No filter named"),
        ("{{ " + "(" * 50_000, "nested too deeply"),
        ("{% for a in x %}" * 40 + "{% endfor %}" * 40, "nested too deeply"),
    ],
)
def test_a_template_that_does_not_compile_is_refused_with_its_line(source, message):
    with pytest.raises(TokenizerError, match=message):
        compile_template(source)


def test_a_template_too_long_is_refused():
    with pytest.raises(TokenizerError, match="allowed: at most 262,144"):
        compile_template("x" * (sandbox.MAX_SOURCE_CHARS + 1))
