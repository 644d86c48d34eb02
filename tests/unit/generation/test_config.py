"""GenerationConfig: defaults, forms, files."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest

from mindformers.errors import GenerationError
from mindformers.generation.config import GenerationConfig
from tests.support.generation import fresh_warnings

UPSTREAM_DEFAULTS = {
    "max_length": 20, "max_new_tokens": None, "min_length": 0, "min_new_tokens": None,
    "num_beams": 1, "do_sample": False, "use_past": False, "temperature": 1.0, "top_k": 50,
    "top_p": 1.0, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0,
    "renormalize_logits": False, "return_dict_in_generate": False, "output_scores": False,
    "output_logits": False, "pad_token_id": None, "bos_token_id": None, "eos_token_id": [],
    "parallel_decoding": False, "window_size": 5, "level": 5, "guess_set_size": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh_warnings(monkeypatch):
    fresh_warnings(monkeypatch)


def test_the_defaults_are_upstreams_plus_our_own_fields_switched_off():
    own = {
        "stop_strings": [], "tool_call_token_id": None, "allowed_vocab_size": None, "min_p": 0.0,
        "num_return_sequences": 1, "length_penalty": 1.0, "early_stopping": False,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {}, "bad_words_ids": [],
        "prompt_lookup_num_tokens": None, "max_matching_ngram_size": 8, "num_assistant_tokens": 5,
    }  # fmt: skip
    assert GenerationConfig().to_dict() == {**UPSTREAM_DEFAULTS, **own}


def test_an_int_end_token_becomes_a_list_however_it_is_set():
    config = GenerationConfig(eos_token_id=2)
    assert config.eos_token_id == [2]
    config.eos_token_id = 7
    assert config.eos_token_id == [7]
    config.update(eos_token_id=(3, 4, 3))
    assert config.eos_token_id == [3, 4]
    assert GenerationConfig.from_dict({"eos_token_id": 5}).eos_token_id == [5]
    assert config.merged(eos_token_id=8).eos_token_id == [8]
    assert config.eos_token_id == [3, 4]


def test_max_decode_length_gives_max_length_unless_that_is_given_too():
    assert GenerationConfig(max_decode_length=512).max_length == 512
    assert GenerationConfig(max_decode_length=512, max_length=8192).max_length == 8192
    assert GenerationConfig(max_decode_length=512, max_length=None).max_length == 512


@pytest.mark.parametrize(
    ("name", "near"),
    [("temprature", "temperature"), ("eos_token_ids", "eos_token_id"), ("stop", "stop_strings")],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(name, near):
    with pytest.raises(GenerationError, match=f"unknown setting '{name}'.*'{near}'"):
        GenerationConfig(**{name: 1})
    with pytest.raises(GenerationError, match=near):
        setattr(GenerationConfig(), name, 1)


def test_update_returns_what_it_does_not_know_and_changes_nothing_when_a_value_is_refused():
    config = GenerationConfig(temperature=0.5, do_sample=True)
    assert config.update(top_k=3, colour="red", top_p=None) == {"colour": "red"}
    assert (config.top_k, config.top_p) == (3, 1.0)
    before = config.to_dict()
    with pytest.raises(GenerationError, match=r"^temperature: found -1"):
        config.update(top_k=9, temperature=-1)
    assert config.to_dict() == before


def test_from_dict_gives_unused_arguments_back_when_asked():
    config, unused = GenerationConfig.from_dict(
        {"top_k": 4}, top_k=6, colour="red", return_unused_kwargs=True
    )
    assert (config.top_k, unused) == (6, {"colour": "red"})
    with pytest.raises(GenerationError, match="colour"):
        GenerationConfig.from_dict({}, colour="red")


def test_saved_settings_read_back_equal(tmp_path):
    config = GenerationConfig(
        do_sample=True, temperature=0.8, top_p=0.8, max_length=8192,
        eos_token_id=[151329, 151336, 151338], pad_token_id=151329, stop_strings="停",
    )  # fmt: skip
    path = config.save_pretrained(tmp_path / "model")
    assert GenerationConfig.from_pretrained(tmp_path / "model") == config
    assert GenerationConfig.from_pretrained(path, temperature=0.5).temperature == 0.5
    assert "top_k" not in json.loads(path.read_text(encoding="utf-8"))


def test_a_published_generation_config_is_read_and_foreign_keys_are_named_once(tmp_path, caplog):
    (tmp_path / "generation_config.json").write_text(json.dumps({
        "eos_token_id": [151329, 151336, 151338], "pad_token_id": 151329, "do_sample": True,
        "temperature": 0.8, "max_length": 128000, "top_p": 0.8, "transformers_version": "4.44.0",
        "_from_model_config": True, "cache_implementation": "static",
    }))  # fmt: skip
    config = GenerationConfig.from_pretrained(str(tmp_path))
    assert config.eos_token_id == [151329, 151336, 151338]
    assert (config.temperature, config.top_p, config.max_length) == (0.8, 0.8, 128000)
    assert [r.message for r in caplog.records if "no effect here" in r.message] == [
        f"{tmp_path / 'generation_config.json'}: no effect here: cache_implementation"
    ]


def test_a_model_configuration_gives_what_it_sets_and_nothing_more():
    source = SimpleNamespace(
        eos_token_id=2, pad_token_id=0, max_length=8192, max_decode_length=512, top_k=1, top_p=1,
        temperature=None, do_sample=False, repetition_penalty=1.0, hidden_size=4096,
    )  # fmt: skip
    config = GenerationConfig.from_model_config(source)
    assert (config.eos_token_id, config.max_length, config.top_k) == ([2], 8192, 1)
    assert config.temperature == 1.0


def test_a_temperature_without_sampling_is_reported_as_without_effect(caplog):
    GenerationConfig(temperature=0.8)
    assert "temperature 0.8: no effect while do_sample is false" in caplog.text
    caplog.clear()
    GenerationConfig(temperature=0.8, do_sample=True).merged(do_sample=False)
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "greedy"),
    [
        ({}, True),
        ({"do_sample": True}, False),
        ({"do_sample": True, "temperature": 0}, True),
        ({"do_sample": True, "temperature": 1e-6}, True),
        ({"do_sample": True, "temperature": 1e-4}, False),
    ],
)
def test_temperature_zero_takes_the_likeliest_token(settings, greedy):
    assert GenerationConfig(**settings).is_greedy is greedy


def test_printing_shows_every_field_and_copies_are_independent():
    config = GenerationConfig(eos_token_id=[1])
    assert "'eos_token_id': [1]" in repr(config)
    twin = copy.deepcopy(config)
    twin.eos_token_id.append(2)
    assert config.eos_token_id == [1]
    assert GenerationConfig().eos_token_id == []
    config.to_dict()["eos_token_id"].append(5)
    assert config.eos_token_id == [1]
