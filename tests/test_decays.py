"""The table of how the learning rate falls, from made-up runs."""

import math

import pytest
from test_report import fabricate

from ctxnet.paper import decays
from ctxnet.paper.results import settings_of

CHANCES = {"pays": 0.8, "context_steps": 0.5, "context_late_steps": 0.79}


def test_steps_are_compared_with_the_linear_decay(tmp_path):
    for protocol, chance in CHANCES.items():
        seeds = settings_of(protocol).seeds
        done = seeds[:1] if protocol == "context_late_steps" else seeds
        fabricate(tmp_path, [decays.ROW], protocol, seeds=done, measured=False, accuracy={decays.ROW: chance})
    frame = decays.decays(tmp_path).set_index("protocol")
    assert frame["n"].tolist() == [8, 3, 1] and frame["planned"].tolist() == [8, 3, 3]
    steps = frame.loc["context_steps"]
    assert steps["difference"] == pytest.approx(steps["top1"] - frame.loc["pays", "top1"])
    assert steps["difference_low"] < steps["difference"] < steps["difference_high"] < 0
    late = frame.loc["context_late_steps"]
    assert late["interval_over"] == "images" and late["difference"] != 0
    assert math.isnan(late["difference_low"])  # one seed has no scatter
    text = decays.table(tmp_path).markdown()
    assert "campaign --protocol context_late_steps`" in text and "context_steps" not in text.split("Runs are missing")[1]


def test_without_runs_the_table_says_how_to_make_them(tmp_path):
    fabricate(tmp_path, [decays.ROW], "small", measured=False)  # another protocol's
    frame = decays.decays(tmp_path)
    assert (frame["n"] == 0).all() and frame["top1"].isna().all()
    assert decays.table(tmp_path).after.count("campaign --protocol") == 3


def test_nothing_but_the_fall_of_the_rate_differs():
    fall = {"schedule", "warmup_epochs", "decay_epochs", "decay_factor"}
    ours = [vars(settings_of(name)) for name in decays.PROTOCOLS]
    for other in ours[1:]:
        assert {key for key in other if other[key] != ours[0][key]} <= fall | {"name", "seeds", "note"}
