"""Learning-rate schedules against closed forms worked by hand and transformers' formulas."""

from __future__ import annotations

import math

import pytest

from mindformers.errors import ConfigError
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.lr_annealing import RelativeStepLR
from mindformers.training.lr_schedule import (
    ConstantWarmUpLR,
    ConstantWithCoolDownLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CosineWithRestartsAndWarmUpLR,
    CosineWithWarmUpLR,
    LearningRateWiseLayer,
    LinearWithWarmUpLR,
    PolynomialWithWarmUpLR,
    WarmUpStableDecayLR,
    build_schedule,
)

ROOT_HALF = math.sqrt(0.5)


def curve(schedule, steps):
    return [schedule(step) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (ConstantWarmUpLR(1.0, 4, 0.2), [0, 1, 2, 4, 9], [0.2, 0.4, 0.6, 1.0, 1.0]),
        # as transformers' get_constant_schedule_with_warmup, 4 warm-up steps, rate 10
        (ConstantWarmUpLR(10.0, 4), [0, 1, 2, 3, 4, 7], [0.0, 2.5, 5.0, 7.5, 10.0, 10.0]),
        # as get_linear_schedule_with_warmup, 2 of 10 steps
        (
            LinearWithWarmUpLR(10.0, 10, 2),
            range(11),
            [0.0, 5.0, 10.0, 8.75, 7.5, 6.25, 5.0, 3.75, 2.5, 1.25, 0.0],
        ),
        # as get_cosine_schedule_with_warmup, 2 of 10 steps
        (
            CosineWithWarmUpLR(10.0, 2, 10),
            range(11),
            [0.0, 5.0, 10.0, 9.61939766, 8.53553391, 6.91341716, 5.0, 3.08658284, 1.46446609,
             0.38060234, 0.0],
        ),
        (CosineWithWarmUpLR(10.0, 2, 10, lr_end=2.0), [2, 6, 10, 50], [10.0, 6.0, 2.0, 2.0]),
        # the cosine ends at decay_steps, warm-up included
        (CosineWithWarmUpLR(1.0, 2, 100, decay_steps=6), [2, 4, 6, 99], [1.0, 0.5, 0.0, 0.0]),
        (CosineWithWarmUpLR(1.0, 0, 12, decay_ratio=0.5), [0, 3, 6, 11], [1.0, 0.5, 0.0, 0.0]),
        # as get_cosine_with_hard_restarts_schedule_with_warmup, 2 of 10 steps, 2 cycles
        (
            CosineWithRestartsAndWarmUpLR(10.0, 2, 10, num_cycles=2),
            range(11),
            [0.0, 5.0, 10.0, 5 + 5 * ROOT_HALF, 5.0, 5 - 5 * ROOT_HALF, 10.0, 5 + 5 * ROOT_HALF,
             5.0, 5 - 5 * ROOT_HALF, 0.0],
        ),
        (
            CosineWithRestartsAndWarmUpLR(1.0, 0, 8, lr_end=0.5, decay_steps=4),
            [0, 2, 4, 7],
            [1.0, 0.75, 0.5, 0.5],
        ),
        # as get_polynomial_decay_schedule_with_warmup, 2 of 10 steps, power 2
        (
            PolynomialWithWarmUpLR(10.0, 10, 2, power=2.0),
            [0, 1, 2, 4, 6, 9, 10, 20],
            [0.0, 5.0, 10.0, 5.62500004375, 2.500000075, 0.1562500984375, 1e-7, 1e-7],
        ),
        (PolynomialWithWarmUpLR(1.0, 10, 2, 0.0, decay_steps=4), [2, 4, 6], [1.0, 0.5, 0.0]),
        (CosineAnnealingLR(1.0, 4, 0.2), [0, 2, 4, 6, 8], [1.0, 0.6, 0.2, 0.6, 1.0]),
        (
            CosineAnnealingWarmRestarts(1.0, 2, 2),
            [0, 1, 2, 4, 6, 10, 13, 14],
            [1.0, 0.5, 1.0, 0.5, 1.0, 0.5, (1 - math.cos(math.pi / 8)) / 2, 1.0],
        ),
        (CosineAnnealingWarmRestarts(1.0, 4, 1, 0.2), [0, 2, 4, 4002], [1.0, 0.6, 1.0, 0.6]),
        (
            WarmUpStableDecayLR(1.0, 0.2, 2, total_steps=10, decay_start_steps=6),
            [0, 1, 2, 5, 6, 8, 10, 15],
            [0.0, 0.5, 1.0, 1.0, 1.0, 0.6, 0.2, 0.2],
        ),
        (
            WarmUpStableDecayLR(1.0, 0.0, total_steps=10, decay_start_ratio=0.5),
            [0, 5, 6, 10],
            [1.0, 1.0, 0.8, 0.0],
        ),
        (WarmUpStableDecayLR(1.0, 0.0, 2), [0, 1, 2, 4, 9], [0.0, 0.5, 1.0, 1.0, 1.0]),
        # warm-up 2, constant 3, cosine 4, lr_end1 for 2, lr_end2
        (
            ConstantWithCoolDownLR(
                1.0, 2, keep_steps=3, decay_steps=4, lr_end1=0.2, final_steps=2, lr_end2=0.1
            ),
            [0, 1, 2, 4, 5, 7, 9, 10, 11, 50],
            [0.0, 0.5, 1.0, 1.0, 1.0, 0.6, 0.2, 0.2, 0.1, 0.1],
        ),
        (
            ConstantWithCoolDownLR(1.0, 2, keep_steps=2, total_steps=10, final_steps=2),
            [4, 6, 8, 9, 12],
            [1.0, 0.5, 0.0, 0.0, 0.0],
        ),
        (ConstantWithCoolDownLR(1.0, total_steps=8, decay_ratio=0.5), [0, 2, 4], [1.0, 0.5, 0.0]),
        # AdaFactor's own rate, as transformers' with relative_step
        (RelativeStepLR(), [0, 9_999, 39_999], [1e-2, 1e-2, 5e-3]),
        (RelativeStepLR(warmup_init=True), [0, 99, 9_999, 999_999], [1e-6, 1e-4, 1e-2, 1e-3]),
        (LearningRateWiseLayer(LinearWithWarmUpLR(1.0, 4), 0.5), [0, 2, 4], [0.5, 0.25, 0.0]),
    ],
    ids=lambda value: type(value).__name__ if callable(value) else None,
)  # fmt: skip
def test_a_schedule_follows_its_closed_form(schedule, steps, expected):
    assert curve(schedule, steps) == pytest.approx(expected, abs=1e-8)


def test_the_ratio_wins_over_the_number_of_warm_up_steps():
    schedule = CosineWithWarmUpLR(1.0, warmup_steps=7, total_steps=15, warmup_ratio=0.2)
    assert curve(schedule, [0, 1, 2, 3]) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize("missing", [{}, {"total_steps": -1}, {"total_steps": None}])
def test_total_steps_of_minus_one_or_none_is_the_length_of_the_run(missing):
    schedule = build_schedule({"type": "linear", "learning_rate": 8.0, **missing}, total_steps=8)
    assert curve(schedule, [0, 4, 8]) == [8.0, 4.0, 0.0]


def test_a_given_total_is_kept():
    schedule = build_schedule({"type": "linear", "learning_rate": 8.0, "total_steps": 4}, 8)
    assert schedule(2) == 4.0


def test_the_glm4_finetune_section_is_a_constant_in_effect():
    section = {
        "type": "CosineWithWarmUpLR", "learning_rate": 1e-6, "lr_end": 1e-6, "warmup_ratio": 0,
        "total_steps": -1,
    }  # fmt: skip
    schedule = build_schedule(section, total_steps=100)
    assert curve(schedule, [0, 50, 100, 101]) == [1e-6] * 4


def test_without_a_section_the_optimizers_rate_is_constant():
    assert curve(build_schedule(None, 10, 2e-5), [0, 9]) == [2e-5, 2e-5]
    assert build_schedule({"type": "constant_with_warmup"}, 10, 2e-5)(0) == 2e-5


@pytest.mark.parametrize(
    ("alias", "schedule_class"),
    [
        ("constant_with_warmup", ConstantWarmUpLR),
        ("linear", LinearWithWarmUpLR),
        ("cosine", CosineWithWarmUpLR),
        ("cosine_with_restarts", CosineWithRestartsAndWarmUpLR),
        ("polynomial", PolynomialWithWarmUpLR),
        ("cosine_annealing", CosineAnnealingLR),
        ("cosine_annealing_warm_restarts", CosineAnnealingWarmRestarts),
    ],
)
def test_a_schedule_is_registered_by_its_class_name_and_its_alias(alias, schedule_class):
    for name in (alias, schedule_class.__name__):
        assert MindFormerRegister.get_cls(MindFormerModuleType.LR, name) is schedule_class


@pytest.mark.parametrize(
    "name", ["WarmUpStableDecayLR", "ConstantWithCoolDownLR", "LearningRateWiseLayer"]
)
def test_a_schedule_without_alias_is_registered_by_its_class_name(name):
    assert MindFormerRegister.is_exist(MindFormerModuleType.LR, name)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "cosin", "learning_rate": 1.0}, "no lr is called 'cosin'"),
        ({"learning_rate": 1.0}, "lr_schedule: has no 'type'"),
        ({"type": "cosine", "learning_rate": 1.0, "warmup_step": 3},
         "lr_schedule.warmup_step: CosineWithWarmUpLR has no such argument"),
        ({"type": "cosine"}, "lr_schedule.learning_rate: CosineWithWarmUpLR needs it"),
        ({"type": "cosine", "learning_rate": 1.0, "warmup_ratio": 1.5},
         "lr_schedule.warmup_ratio: is 1.5; allowed: a number from 0 to 1"),
        ({"type": "cosine", "learning_rate": -1.0},
         "lr_schedule.learning_rate: is -1.0; allowed: a finite number, 0 or more"),
        ({"type": "cosine", "learning_rate": 1.0, "warmup_steps": 2.5},
         "lr_schedule.warmup_steps: is 2.5; allowed: a whole number of steps, 0 or more"),
        ({"type": "polynomial", "learning_rate": 1e-8},
         "lr_schedule.lr_end: is 1e-07; allowed: less than learning_rate (1e-08)"),
        ({"type": "cosine_annealing", "base_lr": 1.0, "t_max": 0},
         "lr_schedule.t_max: is 0; allowed: more than 0"),
        ({"type": "WarmUpStableDecayLR", "learning_rate": 1.0, "warmup_steps": 5,
          "decay_start_steps": 3},
         "lr_schedule.decay_start_steps: is 3; allowed: not before the end of the warm-up (5"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused_with_its_key(section, message):
    with pytest.raises(ConfigError) as caught:
        build_schedule(section, total_steps=10)
    assert str(caught.value).startswith(message)


def test_a_ratio_without_total_steps_is_refused():
    with pytest.raises(
        ConfigError, match=r"lr_schedule.total_steps: is not given; warmup_ratio needs it"
    ):
        ConstantWarmUpLR(1.0, warmup_ratio=0.1)


def test_a_run_without_any_learning_rate_is_refused():
    with pytest.raises(ConfigError, match=r"neither lr_schedule nor optimizer.learning_rate"):
        build_schedule(None, 10)
