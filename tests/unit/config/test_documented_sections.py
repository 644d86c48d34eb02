"""The YAML sections that the training pages show are understood."""

import re

import pytest
import yaml

from tests.support.config_files import REPOSITORY, bind

PAGES = ("docs/training.md", "docs/training_CN.md")
BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"```yaml\n(.*?)```", (REPOSITORY / page).read_text("utf-8"), re.S)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_a_section_of_a_page_binds(page, block):
    assert bind(**yaml.safe_load(block))


def test_every_optimizer_and_callback_has_a_row_in_both_languages():
    optimizers = ("AdamW", "SGD", "Lion", "AdaFactor", "Muon")
    callbacks = ("ProfileMonitor", "SummaryMonitor", "TrainCallBack", "MFLossMonitor")
    for page in PAGES:
        text = (REPOSITORY / page).read_text("utf-8")
        assert [name for name in optimizers + callbacks if f"\n| `{name}`" not in text] == []
