"""The generated page says what the code does."""

import importlib.util

from mindformers.config.run_config import RunConfig
from mindformers.config.schema import all_keys
from tests.support.config_files import REPOSITORY


def generator():
    path = REPOSITORY / "scripts" / "make_config_reference.py"
    spec = importlib.util.spec_from_file_location("make_config_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(capsys):
    assert generator().main(["--check"]) == 0, capsys.readouterr().out


def test_the_page_has_every_key_once_per_section():
    text = generator().render()
    for path, field in all_keys(RunConfig):
        assert f"| `{path.rpartition('.')[2]}` | " in text, path
        assert str(field.description) in text


def test_an_old_page_is_told(tmp_path, monkeypatch, capsys):
    module = generator()
    monkeypatch.setattr(module, "TARGET", tmp_path / "config_reference.md")
    assert module.main(["--check"]) == 1
    assert "is not current" in capsys.readouterr().out
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0
