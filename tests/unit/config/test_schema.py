from mindformers.config.callbacks import CheckpointMonitorSection, LossMonitorSection
from mindformers.config.lr_schedule import CosineWithWarmUpSection, LinearWithWarmUpSection
from mindformers.config.model import Glm2ModelSection, ModelSection
from mindformers.config.run_config import RunConfig
from mindformers.config.schema import all_keys, child_section, keys_of, section_at, types_of


def test_keys_are_those_of_the_yaml_file():
    assert list(keys_of(ModelSection)) == ["model_config", "arch"]


def test_the_section_at_a_path_is_found_by_its_type():
    data = {
        "lr_schedule": {"type": "linear"},
        "callbacks": [{"type": "MFLossMonitor"}, {"type": "CheckpointMonitor"}],
    }
    assert section_at(RunConfig, (), data) is RunConfig
    assert section_at(RunConfig, ("model", "model_config"), data) is Glm2ModelSection
    assert section_at(RunConfig, ("lr_schedule",), data) is LinearWithWarmUpSection
    assert section_at(RunConfig, ("callbacks", 0), data) is LossMonitorSection
    assert section_at(RunConfig, ("callbacks", 1), data) is CheckpointMonitorSection
    assert section_at(RunConfig, ("seed",), data) is None
    assert section_at(RunConfig, ("no", "such"), data) is None


def test_a_plain_value_has_no_section():
    assert child_section(RunConfig, "seed", 1) is None
    assert child_section(None, "seed", 1) is None


def test_a_type_has_its_full_name_and_its_short_one():
    assert types_of(CosineWithWarmUpSection) == ["CosineWithWarmUpLR", "cosine"]


def test_every_key_says_what_it_means():
    for path, field in all_keys(RunConfig):
        assert field.description, path
        assert (
            field.description[0].isupper()
            or field.description.startswith(("ms:", "1/"))
            or (field.description[0].isdigit())
        ), path
        assert field.description.endswith("."), path
