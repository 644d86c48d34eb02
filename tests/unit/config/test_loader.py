import pytest

from mindformers.config.loader import Document, load_yaml, merge
from mindformers.errors import ConfigError
from tests.support.config_files import write


def test_a_file_gives_values_and_the_place_of_each(tmp_path):
    path = write(tmp_path, "seed: 1\ncontext:\n  mode: 0\n")
    document = load_yaml(path)
    assert document.data == {"seed": 1, "context": {"mode": 0}}
    assert document.where(("context", "mode")) == f"{path}:3"
    assert document.where(("context", "no_such_key")) == f"{path}:2"
    assert document.where(("no_such_key",)) == str(path)


def test_a_value_that_no_file_holds_has_a_name_without_a_line():
    document = Document(positions={("seed",): ("command line: --seed", 0)})
    assert document.where(("seed",)) == "command line: --seed"


def test_merge_goes_key_by_key_and_replaces_lists():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}, "c": 2}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_a_file_wins_over_its_base_and_a_later_base_over_an_earlier_one(tmp_path):
    (tmp_path / "bases").mkdir()
    write(tmp_path / "bases", "a: 1\nb: 1\nc: {x: 1, y: 1}\n", "one.yaml")
    write(tmp_path / "bases", "b: 2\nc: {y: 2, z: 2}\n", "two.yaml")
    path = write(tmp_path, "base_config: [bases/one.yaml, bases/two.yaml]\nc:\n  z: 3\n")
    document = load_yaml(path)
    assert document.data == {"a": 1, "b": 2, "c": {"x": 1, "y": 2, "z": 3}}
    assert document.where(("c", "z")) == f"{path}:3"
    assert document.where(("c", "x")) == f"{tmp_path / 'bases' / 'one.yaml'}:3"


def test_a_base_is_found_beside_the_file_that_names_it(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "a: 1\n", "last.yaml")
    write(tmp_path / "deep", "base_config: last.yaml\nb: 1\n", "middle.yaml")
    path = write(tmp_path, "base_config: deep/middle.yaml\n")
    assert load_yaml(path).data == {"a": 1, "b": 1}


def test_the_same_base_by_two_ways_is_no_circle(tmp_path):
    write(tmp_path, "a: 1\n", "root.yaml")
    write(tmp_path, "base_config: root.yaml\nb: 1\n", "left.yaml")
    write(tmp_path, "base_config: root.yaml\nc: 1\n", "right.yaml")
    path = write(tmp_path, "base_config: [left.yaml, right.yaml]\n")
    assert load_yaml(path).data == {"a": 1, "b": 1, "c": 1}


def test_a_missing_base_is_told_with_the_line_that_names_it(tmp_path):
    path = write(tmp_path, "seed: 1\nbase_config: bse.yaml\n", "main.yaml")
    write(tmp_path, "a: 1\n", "base.yaml")
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert str(caught.value) == (
        f"{path}:2: {tmp_path / 'bse.yaml'} does not exist; did you mean 'base.yaml'?"
    )


@pytest.mark.parametrize("value", ["3", "{a: 1}", "[a.yaml, 3]", "['']"])
def test_base_config_is_a_path_or_a_list_of_paths(tmp_path, value):
    path = write(tmp_path, f"base_config: {value}\n")
    with pytest.raises(ConfigError, match="allowed: the path of a YAML file, or a list of paths"):
        load_yaml(path)


def test_a_file_without_a_mapping_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="allowed: sections of 'key: value'"):
        load_yaml(write(tmp_path, "- a\n- b\n"))
    with pytest.raises(ConfigError, match="holds no settings"):
        load_yaml(write(tmp_path, "# only a comment\n"))
