"""Damaged and hostile configuration files: one clear line, at once, and nothing executed."""

import os

import pytest

from mindformers.config.run_config import load_run_config
from mindformers.errors import ConfigError
from tests.support.config_files import write

pytestmark = pytest.mark.timeout(
    60
)  # a file that costs time without end, in place of an answer at once


def refused(path):
    with pytest.raises(ConfigError) as caught:
        load_run_config(path)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGE_BOMB = (
    "a0: &a0 {"
    + ", ".join(f"k{i}: 1" for i in range(500))
    + "}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 20)}]}}\n" for i in range(1, 12))
)
MERGE_CHAIN = "a0: &a0 {}\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}}}\n" for i in range(1, 20_000))
TEXTS = {
    "duplicate key": ("a: 1\nb:\n  c: 1\n  c: 2\n",
                      "{0}:4: the key 'c' is set twice, first on line 3; keep one of them"),
    "duplicate key that looks different": ("'a': 1\n\"a\": 2\n", "{0}:2: the key 'a' is set twice"),
    "tab": ("a:\n\tb: 1\n", "{0}:2: a tab stands where YAML needs spaces; indent with spaces"),
    "tab below spaces": ("a:\n  b: 1\n\tc: 1\n", "{0}:3: a tab stands where YAML needs spaces"),
    "alias bomb": (BOMB, "{0}:1: the aliases grow to more than 20000 values or 32 levels"),
    "merge bomb": (MERGE_BOMB, "{0}:1: the aliases grow to more than"),
    "merge chain": (MERGE_CHAIN, "{0}:"),
    "depth bomb": ("a: " + "[" * 500_000, "{0}:1: not valid YAML"),
    "depth bomb of sections": ("".join(" " * i + "a:\n" for i in range(900)),
                               "{0}:33: sections are nested more than 32 deep"),
    "alias inside its anchor": ("a: &a [*a]\n", "{0}:1: the alias *a stands inside its own anchor"),
    "alias without anchor": ("a: *b\n", "{0}:1: the alias *b has no anchor above it"),
    "python object": ("a: !!python/object/apply:os.system ['touch {1}/canary']\n",
                      "{0}:1: the tag '!!python/object/apply:os.system' is not accepted; "
                      "nothing of it was executed; allowed: plain values"),
    "python name": ("a: !!python/name:os.system\n", "{0}:1: the tag '!!python/name:os.system'"),
    "own tag": ("a: !include x\n", "{0}:1: the tag '!include' is not accepted"),
    "second document": ("a: 1\n---\nb: 1\n", "{0}:2: a second document starts here"),
    "control character": ("a: 1\nb: \x07\n", "{0}:2: the character U+0007 is not allowed in YAML"),
    "open quote": ("a: 1\nb: \"x\n", "{0}:3: not valid YAML: found unexpected end of stream"),
    "two colons": ("a: b: c\n", "{0}:1: not valid YAML: mapping values are not allowed"),
    "key that is a list": ("? [a]\n: 1\n", "{0}:1: a key is a list, a section or an alias"),
    "merge of a number": ("a: {<<: 1}\n", "{0}:1: '<<' merges something that is no section"),
    "too many values": ("a: [" + "1," * 400_000 + "1]\n", "{0}:1: the file holds more than 20000"),
    "too many keys": ("".join(f"k{i}: 1\n" for i in range(80_000)), "{0}:20000: the file holds more"),
    "empty": ("", "{0}: the file is empty; allowed: sections of 'key: value'"),
    "only spaces": (" \n\n", "{0}: the file is empty"),
    "only a comment": ("# x\n", "{0}: the file holds no settings"),
    "a list": ("- 1\n", "{0}: the file holds [1]; allowed: sections of 'key: value'"),
    "a word": ("hello\n", "{0}: the file holds 'hello'"),
    "long value": ("seed: '" + "x" * 500_000 + "'\n", "{0}:1: seed: found 'xxx"),
    "long key": ("x" * 900 + ": 1\n", "{0}:1: "),
    "number of many digits": ("seed: " + "9" * 100_000 + "\n", "{0}:1: seed: found '999"),
    "large number": ("seed: " + "9" * 300 + "\n", "{0}:1: seed: found 999"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_broken_text_is_refused_with_its_line(tmp_path, name):
    text, message = TEXTS[name]
    path = write(tmp_path, text.replace("{1}", str(tmp_path)))
    assert refused(path).startswith(message.format(path))
    assert sorted(tmp_path.iterdir()) == [path]


BYTES = {
    "UTF-16": ("a: 1\n".encode("utf-16"), "{0}: the file is UTF-16 text; allowed: UTF-8"),
    "UTF-32": ("a: 1\n".encode("utf-32"), "{0}: the file is UTF-32 text; allowed: UTF-8"),
    "UTF-16 without a mark": ("a: 1\n".encode("utf-16-le"), "{0}:1: the file holds a NUL byte"),
    "NUL": (b"a: 1\nb: \0\n", "{0}:2: the file holds a NUL byte"),
    "Latin-1": ("a: 1\nb: é\n".encode("latin-1"), "{0}:2: the byte 0xe9 is not UTF-8"),
    "GBK": ("a: 1\nb: 中文\n".encode("gbk"), "{0}:2: the byte 0xd6 is not UTF-8"),
    "100 MB": (None, "{0}: the file has 104,857,600 bytes; allowed: up to 1,048,576"),
    "random": (bytes(range(1, 256)), "{0}:"),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_small_utf_8_text_are_refused(tmp_path, name):
    raw, message = BYTES[name]
    path = tmp_path / "run.yaml"
    if raw is None:
        with path.open("wb") as file:
            file.truncate(100 * 2**20)
    else:
        path.write_bytes(raw)
    assert refused(path).startswith(message.format(path))


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 3\r\ncontext:\r\n  mode: 1\r\n")
    config = load_run_config(path)
    assert (config.seed, config.context.mode) == (3, 1)


def test_what_is_no_readable_file_is_refused(tmp_path, monkeypatch):
    assert refused(tmp_path) == f"{tmp_path} is a folder; allowed: a YAML file"
    assert refused("/dev/zero") == "/dev/zero is no regular file; allowed: a YAML file"
    fifo = tmp_path / "fifo.yaml"
    os.mkfifo(fifo)
    assert refused(fifo) == f"{fifo} is no regular file; allowed: a YAML file"
    assert refused(tmp_path / "no.yaml").startswith(f"{tmp_path / 'no.yaml'} does not exist")
    assert "cannot be read: " in refused("x" * 300 + ".yaml")[-60:]
    assert "cannot be read: embedded null" in refused("a\0.yaml")
    path = write(tmp_path, "seed: 1\n")
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    assert "cannot be read: " in refused(loop)

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    assert refused(path) == f"{path} cannot be read: Permission denied"


def test_base_config_in_a_circle_shows_the_chain(tmp_path):
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, f"base_config: {base}.yaml\n", f"{name}.yaml")
    text = refused(tmp_path / "a.yaml")
    chain = " -> ".join(str(tmp_path / f"{name}.yaml") for name in "abca")
    assert text == f"{tmp_path / 'c.yaml'}:1: base_config goes in a circle: {chain}; cut one link"


def test_a_file_that_names_itself_is_a_circle_by_any_spelling(tmp_path):
    (tmp_path / "x").mkdir()
    path = write(tmp_path, "base_config: x/../run.yaml\n")
    assert "base_config goes in a circle" in refused(path)
    link = tmp_path / "link.yaml"
    path.write_text("base_config: link.yaml\n")
    link.symlink_to(path)
    assert "base_config goes in a circle" in refused(path)


def test_a_tree_of_too_many_bases_is_refused(tmp_path):
    write(tmp_path, "a: 1\n", "0.yaml")
    for number in range(1, 12):
        write(tmp_path, f"base_config: [{number - 1}.yaml, {number - 1}.yaml]\n", f"{number}.yaml")
    assert "base_config names more than 64 files" in refused(tmp_path / "11.yaml")


def test_a_base_out_of_the_folder_may_be_named_and_must_exist(tmp_path):
    path = write(tmp_path, "base_config: ../../../no/such.yaml\n")
    assert refused(path).startswith(f"{path}:1: ")


def test_many_wrong_keys_are_one_report(tmp_path):
    path = write(tmp_path, "".join(f"sed{i}: 1\n" for i in range(9000)))
    with pytest.raises(ConfigError) as caught:
        load_run_config(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"9000 problems in {path}:"
    assert lines[1] == f"  {path}:1: sed0: unknown key 'sed0'; did you mean 'seed'?"
    assert lines[-1] == "  and 8950 more"
    assert len(lines) == 52
