"""The fuzzer passes what is right, finds what is broken, and what it prints repeats it."""

import re

import fuzz
import pytest

from torchmetrics_dice_ext._kernels import reference

BACKENDS = ("reference",)


def test_the_first_cases_hold():
    for seed in range(80):
        for name in fuzz.CHECKS:
            fuzz.check(name, fuzz.draw_case(seed, BACKENDS)[0])


def test_a_run_tells_what_it_has_seen(capsys):
    assert fuzz.fuzz(range(5), BACKENDS) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^task: .*multiclass \d", printed, re.MULTILINE)
    assert re.search(r"^5 cases in .* a second: 0 failed", printed, re.MULTILINE)


def test_a_case_can_be_drawn_again():
    assert fuzz.literal(fuzz.draw_case(7, BACKENDS)[0]) == fuzz.literal(fuzz.draw_case(7, BACKENDS)[0])


def test_time_is_kept(capsys):
    fuzz.fuzz(range(50), BACKENDS, seconds=0.0)
    (cases,) = re.findall(r"^(\d+) cases in", capsys.readouterr().out, re.MULTILINE)
    assert int(cases) <= 1  # where the clock has not moved on


def test_a_broken_count_is_caught_and_its_reproducer_repeats_it(monkeypatch, capsys):
    count_views = reference.count_views

    def forgetful(views):
        counts, faults = count_views(views)
        counts[..., 2] -= (counts[..., 2] == 3).long()  # a target of three voxels loses one
        return counts, faults

    monkeypatch.setattr(reference, "count_views", forgetful)
    assert fuzz.fuzz(range(20), BACKENDS) > 0
    printed = capsys.readouterr().out
    assert re.search(r"FAILED: counts.* of case \d+\. AssertionError: target_cardinality", printed)
    assert re.search(r"fuzz.py --case \d+", printed)
    codes = re.findall(r"^from math.*?^check.*?$", printed, re.MULTILINE | re.DOTALL)
    smallest = min(codes, key=len)
    assert len(smallest) < 1000
    with pytest.raises(AssertionError, match="target_cardinality"):
        exec(smallest, {})
    monkeypatch.undo()
    exec(smallest, {})


def test_a_lost_refusal_is_caught(monkeypatch, capsys):
    count_views = reference.count_views

    def lenient(views):
        counts, faults = count_views(views)
        return counts, faults * 0

    monkeypatch.setattr(reference, "count_views", lenient)
    assert fuzz.fuzz(range(40), BACKENDS) > 0
    assert "taken by an eager metric" in capsys.readouterr().out
