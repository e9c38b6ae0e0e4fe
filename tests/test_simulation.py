"""How long campaigns take on many devices, and whether the document says what the simulation gives."""

import re
from pathlib import Path

import pytest

from ctxnet.training import simulate

TEXT = (Path(__file__).parents[1] / "docs/scale.md").read_text()


def test_each_run_begins_on_the_first_device_that_is_free():
    assert simulate([3, 1, 1, 1, 2], 1) == 8
    assert simulate([3, 1, 1, 1, 2], 2) == 5  # 3, then 2; 1, 1, 1
    assert simulate([3, 1, 1, 1, 2], 5) == simulate([3, 1, 1, 1, 2], 50) == 3
    assert simulate([], 4) == 0
    with pytest.raises(ValueError, match="devices=0 must be 1 or more; nearest valid value: 1"):
        simulate([1], 0)


def test_no_order_beats_the_longest_run_or_an_even_share():
    minutes = [7.0, 1.0, 4.0, 4.0, 2.0, 9.0, 3.0]
    for devices in range(1, 9):
        share = sum(minutes) / devices
        assert max(max(minutes), share) <= simulate(minutes, devices) <= share + max(minutes)


def test_the_document_holds_what_its_table_of_minutes_gives():
    minutes = 5 * [float(found) for found in re.findall(r"\| `\w+` \| ([\d.]+) \| assumed \|", TEXT)]
    assert len(minutes) == 100
    totals = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) % \|$", TEXT, re.M)
    assert [int(devices) for devices, *_ in totals] == [1, 8, 64]
    for devices, span, best, busy in totals:
        found = simulate(minutes, int(devices))
        assert f"{found:.0f}" == span and f"{max(max(minutes), sum(minutes) / int(devices)):.0f}" == best
        assert f"{100 * sum(minutes) / int(devices) / found:.0f}" == busy
    assert f"would need {simulate(sorted(minutes, reverse=True), 8):.0f} minutes" in TEXT
    one, eight, many = (simulate([each * 1281167 / 9469 for each in minutes], count) / 1440 for count in (1, 8, 64))
    assert f"take {one:.0f} days on one GPU, {eight:.1f} on 8, {many:.1f} on 64" in TEXT
