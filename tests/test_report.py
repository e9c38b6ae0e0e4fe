"""Tables, claims and figures on a fabricated results tree: every number in it is made up."""

import csv
import functools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rewriting import rewrite

from ctxnet.measure import ContextProfile
from ctxnet.models.variants import VARIANTS
from ctxnet.paper import claims, figures, results, statistics, words
from ctxnet.paper.book import made
from ctxnet.paper.figures import degradation
from ctxnet.paper.figures.experiments import OTHERS
from ctxnet.records import (
    DamagedRecord,
    encode_csv,
    encode_predictions,
    encode_profile,
    read_predictions,
    read_provenance,
    records_of,
    run_folder,
    write_images,
    write_record,
)

REPO = Path(__file__).parents[1]
ROWS = [name for name, row in VARIANTS.items() if row.tables or name == results.BASELINE]
THESIS = [number for number in results.TABLES if number != results.OWN]
N = 200


def fake_profile(variant, side, seed):
    """A small profile: a Gaussian in a growing window, scattered where positions are random."""
    rng = np.random.default_rng(seed)
    resnet = variant.startswith("resnet")
    layers = (
        [f"layer{s}.{b}" for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)]
        if resnet
        else ["a", "b", "c"]
    )
    rows, columns = np.mgrid[:side, :side]
    centre = side // 2
    reach = np.maximum(abs(rows - centre), abs(columns - centre))
    far = np.hypot(rows - centre, columns - centre)
    rf, erf = [], []
    for i in range(len(layers)):
        share = (i + 1) / len(layers)
        mask = reach <= share * side * 0.6
        if "perm" in variant or "random" in variant:
            mask |= rng.random((side, side)) < share
        weight = mask * (np.exp(-((far / (2 + 8 * share)) ** 2)) + 0.01 * rng.random((side, side)))
        rf.append(mask)
        erf.append(weight / weight.sum())
    erf = torch.tensor(np.array(erf), dtype=torch.float32)
    return ContextProfile(
        layers=layers,
        center=torch.full((len(layers), 2), float(centre), dtype=torch.float64),
        rf=torch.from_numpy(np.array(rf)),
        erf=erf,
        distance=(erf * torch.from_numpy(far)).sum((1, 2)),
        exact=[True] * len(layers),
        summed=erf.mean(0) if variant in OTHERS else None,
    )


@functools.lru_cache(maxsize=512)
def fake_context(variant, size, seed, shares):
    """:func:`fake_profile` as its file holds it; the same ones stand in most projects of these tests."""
    profile = fake_profile(variant, size, seed)
    numbers = {f"erf{part}_share": [0.1] * len(profile.layers) for part in (50, 90, 99)} if shares else {}
    return encode_profile(profile, numbers=numbers)


def fabricate(root, variants=ROWS, protocol="small", seeds=(0,), measured=True, accuracy=None):
    """Write made-up results under ``root``, in the layout that training and measuring leave.

    ``accuracy``: variant -> chance of a right answer, instead of one that rises with the row's place.
    """
    shutil.copy(REPO / "params.yaml", root / "params.yaml")
    for number, variant in enumerate(dict.fromkeys(variants)):
        if measured:
            folder = root / "results" / "measure" / variant
            context = fake_context(variant, 56, number, shares=False)
            write_record(folder, {"variant": variant}, {"context.npz": context}, {"commit": "0" * 40})
        for seed in seeds:
            rng = np.random.default_rng([number, seed])
            folder = root / "results" / protocol / "runs" / variant / f"seed{seed}"
            labels = np.arange(N) % 10
            chance = (accuracy or {}).get(variant, 0.5 + 0.01 * number)
            predicted = np.where(rng.random(N) < chance, labels, (labels + 1) % 10)
            top1 = float((labels == predicted).mean())
            names = [f"val/{i:04d}" for i in range(N)]
            epochs = [[e, 0.05, 2.0 / (e + 1), 2.1 / (e + 1), top1 * (e + 1) / 5] for e in range(5)]
            origin = {
                "commit": "0" * 40,
                "dirty": False,
                "data_manifest": "made up",
                "versions": {"torch": "0"},
            }
            origin |= {"device": "no machine", "cores": 1, "wall_seconds": 60.0}
            record = {
                "protocol": protocol,
                "variant": variant,
                "seed": seed,
                "top1": top1,
                "top1_best": top1,
                "n": N,
            }
            record |= {"epochs": 5, "parameters": 1_500_000, "config": {}, "config_hash": "made up"}
            record["images"] = write_images(protocol, names, labels.tolist(), root)
            files = {
                "context.npz": fake_context(variant, 32, number + 100 * (seed + 1), shares=True),
                "history.csv": encode_csv(results.HISTORY_COLUMNS, epochs),
                "predictions.bin": encode_predictions(predicted),
            }
            write_record(folder, record, files, origin)
    return root


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return fabricate(tmp_path_factory.mktemp("full"))


@pytest.fixture
def empty(tmp_path):
    shutil.copy(REPO / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


# ---- records ----------------------------------------------------------------------------------------------


def test_records_are_read_in_order(full):
    frame = results.load_records("small", full)
    assert list(frame.columns) == results.RECORD_COLUMNS
    assert len(frame) == len(set(ROWS)) and frame["top1"].between(0, 1).all() and (frame["n"] == N).all()
    assert list(results.load_history("small", "resnet50", root=full).columns) == results.HISTORY_COLUMNS
    assert results.load_profile("small", "resnet50", root=full).rf.shape == (16, 32, 32)
    assert results.load_initial("resnet50", full).summed.shape == (56, 56)


def test_missing_records_name_the_command(empty):
    assert results.load_records("small", empty).empty
    with pytest.raises(
        results.MissingRecord, match="python -m ctxnet train --protocol small --variant resnet50"
    ):
        results.load_predictions("small", "resnet50", root=empty)
    with pytest.raises(results.MissingRecord, match="python -m ctxnet measure"):
        results.load_initial("resnet50", empty)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top1": 90.4}, "top1=.* must be a share"),
        ({"top1": "high"}, "top1=.* must be a share"),
        ({"n": 0}, "n must be a positive integer"),
        ({"variant": "resnet50_perm1"}, "its folder says 'resnet50'"),
        ({"protocol": "thesis"}, "its folder says 'small'"),
    ],
)
def test_an_impossible_record_is_refused_with_its_path(tmp_path, change, message):
    fabricate(tmp_path, ["resnet50"], measured=False)
    folder = results.run_folder("small", "resnet50", root=tmp_path)
    rewrite(folder, change)
    with pytest.raises(results.BadRecord, match=message) as caught:
        results.load_records("small", tmp_path)
    assert "runs/resnet50/seed0" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["record.json", "predictions.bin", "context.npz", "provenance.json"])
def test_a_damaged_file_is_refused_with_its_path(tmp_path, name):
    fabricate(tmp_path, ["resnet50"], measured=False)
    path = results.run_folder("small", "resnet50", root=tmp_path) / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(results.BadRecord, match="seed0/" + re.escape(name)):
        results.load_records("small", tmp_path)


# ---- tables -----------------------------------------------------------------------------------------------


def test_rows_name_their_tables(full):
    shown = results.tables_shown("small", full)
    assert list(shown) == THESIS and all(rows[0] == "resnet50" for rows in shown.values())
    assert shown["4.2"] == ["resnet50", "resnet50_perm1", "resnet50_perm1_stages34"]
    assert shown["4.5"][-1] == "resnet50_random_dilated8_conv" and len(shown["4.5"]) == 7
    assert {name for rows in shown.values() for name in rows} == set(ROWS)


def test_a_row_of_no_table_is_in_that_of_own_rows(tmp_path):
    fabricate(tmp_path, ["resnet50", "resnet18"], seeds=(0, 1, 2), measured=False)
    table = words.table(results.OWN, "small", tmp_path)
    assert list(table.shows) == ["resnet50", "resnet18"] and "thesis %" in table.header  # ResNet-50 has a number there
    assert "ResNet-18" in words.overview("small", tmp_path) and "ResNet-18" in words.readings(results.OWN, "small", tmp_path)
    assert words.table("4.6", "context", tmp_path).rows == []


def test_own_data_have_no_number_of_the_thesis_beside_them(tmp_path):
    fabricate(tmp_path, ["resnet50", "resnet50_perm1"], seeds=(0, 1, 2), measured=False)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["protocols"]["small"]["dataset"] = "data/my_birds"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    frame = results.table("4.1", "small", tmp_path)
    assert frame[["thesis_top1", "thesis_difference_points", "thesis_parameters_million"]].isna().all(axis=None)
    said = words.table("4.1", "small", tmp_path).markdown() + words.overview("small", tmp_path)
    said += words.readings("4.1", "small", tmp_path)
    assert "thesis" not in said and "90.42" not in said and "ResNet-50" in said
    assert "not tested" in claims.table("small", tmp_path).caption and claims.write_claims("small", tmp_path) is None
    assert len(figures.show("5.1", "small", tmp_path).axes) == 1
    assert "| my\\_birds |" in words.settings_table("small", tmp_path).markdown()
    assert "no number of the thesis" in str(words.reading_notes("small", tmp_path))


def test_parameters_equal_the_contract():
    expected = {
        "resnet50": 23.508, "resnet50_perm1": 28.538, "resnet50_perm3": 38.598, "resnet50_perm5": 48.657,
        "resnet50_perm1_stages34": 28.227, "resnet50_perm3_enc": 38.598, "resnet50_perm5_attn": 23.508,
        "resnet50_inserted_dilated4": 34.833, "resnet50_random_dilated8": 63.747, "convnext_tiny": 27.820,
    }  # fmt: skip
    assert {name: round(results.parameters_million(name), 3) for name in expected} == expected


def test_table_values(full):
    table = results.table("4.1", "small", full).set_index("variant")
    runs = results.load_records("small", full).set_index("variant")
    assert list(table["thesis_top1"]) == [90.42, 90.52, 89.63, 89.81]
    assert table.loc["resnet50_perm3", "top1"] == round(100 * runs.loc["resnet50_perm3", "top1"], 2)
    expected = 100 * (runs.loc["resnet50_perm3", "top1"] - runs.loc["resnet50", "top1"])
    assert math.isclose(table.loc["resnet50_perm3", "difference_points"], expected, abs_tol=0.006)
    assert (table["interval_over"] == "images").all() and (table["n"] == N).all()
    with pytest.raises(ValueError, match="4.1"):
        results.table("4.11", "small", full)


def test_several_seeds_give_an_interval_over_seeds(tmp_path):
    fabricate(tmp_path, ["resnet50"], seeds=(0, 1, 2), measured=False)
    row = results.table("4.1", "small", tmp_path).iloc[0]
    assert row["seeds"] == 3 and row["interval_over"] == "seeds and images" and row["low"] < row["top1"] < row["high"]


def test_marks_need_three_seeds_of_both_rows_and_survive_holm(tmp_path):
    accuracy = dict.fromkeys(ROWS, 0.5) | {"resnet50_perm1": 0.8, "resnet50_perm3": 0.8}
    fabricate(tmp_path, results.tables_shown("small", REPO)["4.1"], seeds=(0, 1, 2, 3), measured=False, accuracy=accuracy)
    for seed in (2, 3):  # leaves perm3 two
        shutil.rmtree(results.run_folder("small", "resnet50_perm3", seed, tmp_path))
    frame = results.table("4.1", "small", tmp_path).set_index("variant")
    assert list(frame["p"].notna()) == [False, True, False, True]
    assert frame.loc["resnet50_perm1", "p_holm"] == min(1, 2 * frame.loc["resnet50_perm1", "p"]) < 0.05
    text = words.table("4.1", "small", tmp_path).markdown()
    (marked,) = [line for line in text.splitlines() if line.startswith("|") and "*" in line]
    assert "1 permutation " in marked and "Holm's correction for 2 tests in all tables" in text and "† One seed" not in text
    said = words.readings("4.1", "small", tmp_path).splitlines()
    assert said[0].endswith("better.") and "too few seeds: 2 and 4" in said[1] and said[2].endswith("shown.")
    note = "Fewer than 3 seeds for all rows but resnet50, resnet50_perm1, resnet50_perm5"
    assert words.reading_notes("small", tmp_path)[0].startswith(note)


def test_one_seed_is_said_to_cover_images_only_and_never_tested(full):
    text = words.table("4.1", "small", full).markdown()
    assert text.count("†") == 5 and "the choice of images and nothing else" in text and "No difference is tested" in text
    assert " † |" in words.overview("small", full)
    assert words.readings("4.1", "small", full).count("too few seeds: 1 and 1") == 3


def test_a_row_trained_by_its_own_recipe_is_a_second_line(tmp_path):
    fabricate(tmp_path, results.tables_shown("small", REPO)["4.6"], measured=False, accuracy={"convnext_tiny": 0.2})
    assert list(results.with_own_recipes("4.6", "small", tmp_path)["variant"]) == results.tables_shown("small", REPO)["4.6"]
    own = {"convnext_tiny": 0.8}
    fabricate(tmp_path, own, protocol="small_adamw", measured=False, accuracy=own)
    frame = results.with_own_recipes("4.6", "small", tmp_path).set_index("variant")
    line, first = frame.loc["small_adamw:convnext_tiny"], frame.loc["convnext_tiny"]
    assert len(frame) == 5 and line["architecture"] == "ConvNeXt-T, AdamW ‡" and line["seeds"] == 1
    assert abs(line["top1"] - 80) < 8 and abs(first["top1"] - 20) < 8
    assert line["difference_points"] == pytest.approx(line["top1"] - frame.loc["resnet50", "top1"], abs=0.02)
    assert (line["thesis_top1"], line["parameters_million"]) == (first["thesis_top1"], first["parameters_million"])
    text = words.table("4.6", "small", tmp_path).markdown()
    assert "protocol `small_adamw`" in text and text.count("ConvNeXt-T") == 2
    assert words.overview("small", tmp_path).count("`convnext_tiny`") == 2
    assert len(results.with_own_recipes("4.5", "small", tmp_path)) == 7
    assert "small_adamw:convnext_tiny" in (words.write_tables("small", tmp_path) / "table_4_6.csv").read_text()


def degrade(root, protocol="degradation", seeds=(0, 1, 2), deep=0.9):
    """Made-up runs in which plain nets of 56 layers err most, in training too."""
    error = {"plain20": 0.4, "plain56": deep, "resnet20": 0.35, "resnet56": 0.3}
    fabricate(root, error, protocol=protocol, seeds=seeds, measured=False, accuracy={k: 1 - e for k, e in error.items()})
    for row, last in error.items():
        for seed in seeds:
            folder = root / "results" / protocol / "runs" / row / f"seed{seed}"
            lines = (folder / "history.csv").read_text().splitlines()
            right = [(1 - last) * (e + 1) / 5 + seed / 100 for e in range(len(lines) - 1)]
            lines = [f"{line},{more}" for line, more in zip(lines, ["train_top1", *right], strict=True)]
            rewrite(folder, files={"history.csv": ("\n".join(lines) + "\n").encode()})


def test_degradation_is_read_from_records_of_either_protocol(tmp_path):
    shutil.copy(REPO / "params.yaml", tmp_path / "params.yaml")
    assert degradation.chosen(tmp_path) is None and degradation.table(tmp_path).empty
    assert "campaign --protocol degradation" in degradation.shown(tmp_path).markdown()
    assert any("campaign" in t.get_text() for ax in degradation.curves(tmp_path).axes for t in ax.texts)
    degrade(tmp_path)
    errors = degradation.errors("degradation", "plain56", tmp_path)
    assert errors.shape == (3, 5, 2) and errors[1, -1, 0] == pytest.approx(100 * (1 - 0.1 - 0.01))
    records_ = results.load_records("degradation", tmp_path).set_index(["variant", "seed"])
    assert errors[2, -1, 1] == pytest.approx(100 * (1 - records_.loc[("plain56", 2), "top1"]))
    table = degradation.table(tmp_path).set_index("network")
    assert table.loc["plain-56", "train_error"] == pytest.approx(89) and list(table["seeds"]) == [3] * 4
    text = degradation.shown(tmp_path).markdown()
    assert "plain-56 against plain-20" in text and "(p = 0.001): worse." in text
    lines = [line for ax in degradation.curves(tmp_path).axes for line in ax.lines]
    assert len(lines) == 8 and lines[2].get_ydata()[-1] == pytest.approx(89)  # 56 layers, training
    degrade(tmp_path, "degradation_full", seeds=(0,), deep=0.8)
    assert degradation.chosen(tmp_path) == "degradation_full"
    assert "too few seeds for a verdict" in degradation.shown(tmp_path).markdown()


def test_degradation_needs_training_errors(tmp_path):
    fabricate(tmp_path, degradation.ROWS, protocol="degradation", measured=False)
    with pytest.raises(results.BadRecord, match="plain20 seed 0: no train_top1"):
        degradation.curves(tmp_path)


def test_answers_that_disagree_with_their_record_are_refused(tmp_path):
    fabricate(tmp_path, ["resnet50"], seeds=(0, 1), measured=False)
    folder = results.run_folder("small", "resnet50", 0, tmp_path)
    rewrite(folder, {"top1": json.loads((folder / "record.json").read_text())["top1"] / 2})
    with pytest.raises(results.BadRecord, match="resnet50/seed0: its predictions give") as caught:
        results.table("4.1", "small", tmp_path)
    assert "\n" not in str(caught.value)


def test_protocols_are_never_mixed(tmp_path):
    fabricate(tmp_path, ["resnet50"], protocol="small", measured=False)
    fabricate(tmp_path, ["resnet50_perm1"], protocol="quick", measured=False)
    assert list(results.table("4.1", "small", tmp_path)["top1"].notna()) == [True, False, False, False]
    assert list(results.table("4.1", "quick", tmp_path)["top1"].notna()) == [False, True, False, False]
    assert results.table("4.1", "quick", tmp_path)["difference_points"].isna().all()


def test_tables_are_written_in_full_and_byte_stable(full):
    folder = words.write_tables("small", full)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == sorted(f"table_4_{i}.{kind}" for i in range(1, 7) for kind in ("csv", "md"))
    words.write_tables("small", full)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    with open(folder / "table_4_5.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 7 and rows[-1]["thesis_top1"] == "" and "ours" in rows[-1]["architecture"]


def test_missing_rows_are_named_with_the_command(tmp_path):
    fabricate(tmp_path, ["resnet50"], measured=False)
    text = words.table("4.1", "small", tmp_path).markdown()
    assert "No record yet: resnet50_perm1" in text and "ctxnet campaign --protocol small" in text and "90.52" in text


def test_context(full, empty):
    context = results.context("small", full)
    assert context["initial_1"].between(0, 1).all() and context["covered"].notna().all()
    assert len(words.context_table("small", empty).rows) == len(context)


WIRING, LATE = "The receptive field soon covers the whole image", "Encoding or attention in stages 3–4 only does not help"


# ---- claims -----------------------------------------------------------------------------------------------


def verdicts(root):
    return claims.evaluate(claims.parts("small", root)).set_index("claim")


def test_claims_name_rows_of_the_thesis():
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS) >= 9
    known = {*VARIANTS, ""}
    assert {name for claim in claims.CLAIMS for pair in claim.pairs for name in pair} <= known
    assert {claim.side for claim in claims.CLAIMS} == {"above", "below", "within"}
    assert len(claims.OTHER_RESNETS) == 15


def test_every_claim_is_open_with_one_seed_or_none(full, empty):
    for root in (full, empty):
        found = verdicts(root)
        found = found.drop(index=WIRING) if root == full else found  # which needs no seeds
        assert (found["verdict"] == "open").all() and found["p"].isna().all()
        assert found["reason"].str.startswith("too few seeds").all()
        assert "no run of these rows" in found.loc[LATE, "reason"]
        shown = claims.table("small", root)
        assert len(shown.rows) == len(claims.CLAIMS) and all(len(row) == len(shown.header) for row in shown.rows)
    parts = claims.parts("small", full)
    assert set(parts.loc[~parts["claim"].isin([WIRING, LATE]), "reading"]) == {"too few seeds"}
    thesis = claims.parts("small", empty).drop_duplicates(["a", "b"])
    clear = thesis[thesis["thesis"].abs() > thesis["thesis_noise"]]
    assert {"resnet50_dilated4", "convnext_tiny", "vit_base_patch16_224"} <= set(clear["a"]) | set(clear["b"])


def test_claims_hold_fail_and_stay_open_as_the_records_say(tmp_path):
    accuracy = dict.fromkeys(ROWS, 0.5) | {"resnet50_dilated4": 0.1, "resnet50_inserted_dilated8": 0.9}
    accuracy |= {f"resnet50_perm{k}_attn": 0.1 for k in (1, 3, 5)} | {"resnet50_perm3_enc": 0.95}
    accuracy |= {"convnext_tiny": 0.95, "hrnet_w18": 0.75, "vit_base_patch16_224": 0.2}
    fabricate(tmp_path, seeds=(0, 1, 2, 3, 4), measured=False, accuracy=accuracy)
    found = verdicts(tmp_path)
    assert found.loc["Dilating the 3×3 itself hurts", "verdict"] == "holds"
    assert found.loc["An inserted dilated convolution with d = 8 hurts", "verdict"] == "does not hold"
    assert found.loc["Attention does not help", "verdict"] == "holds"  # every k is far below
    assert found.loc["The encoding does not help", "verdict"] == "does not hold"  # one k is enough
    assert found.loc["ConvNeXt > HRNet > ResNet-50 > ViT", "verdict"] == "holds"
    assert found.loc["Random dilated with d = 8 is the best of all", "verdict"] == "does not hold"
    assert found.loc["More permutations are worse", "verdict"] == "open"  # equal in truth
    tested = found["p"].dropna()
    assert (found.loc[tested.index, "p_holm"] >= tested).all()
    assert (found["verdict"] != "open").equals(found["p_holm"] <= 0.05)
    assert "**holds**" in claims.table("small", tmp_path).markdown()
    assert found.loc["More permutations are worse", "reason"].startswith("not clear with these seeds; it would take ")
    settled = found["verdict"] != "open"
    assert found.loc[settled, "needed"].isna().all() and (found.loc[~settled & found["p"].notna(), "needed"] >= 3).all()

    for seed in (2, 3, 4):  # two seeds left: no part that needs this row is tested any more
        shutil.rmtree(results.run_folder("small", "hrnet_w18", seed, tmp_path))
    row = verdicts(tmp_path).loc["ConvNeXt > HRNet > ResNet-50 > ViT"]
    assert row["verdict"] == "open" and row["reason"] == "too few seeds for 2 of 3 comparisons"


def test_not_helping_takes_an_interval_below_the_margin_and_not_a_large_p():
    """Equal rows: with a scatter of 2 points nothing is shown; with almost none the gain is below 0.5 points."""
    claim = next(c for c in claims.CLAIMS if c.text == "Attention does not help")
    for scatter, reading in [(0.02, "not clear"), (0.0005, "for")]:
        values = 0.5 + scatter * np.array([-1.0, 0.0, 1.0, 0.5, -0.5])
        found = claims.statistics.compare_values(values, values[::-1])
        part = claims._part(found, claim.side, claim.bound)
        assert part["reading"] == reading and (part["high"] < claims.MARGIN) == (reading == "for")


def test_what_follows_from_the_wiring_is_certain_and_leaves_the_other_ps_alone():
    """Two rows of the thesis do not see the whole image by block 5, so its sentence about all of them does not hold."""
    parts = claims.parts("small", REPO)
    mine = parts[parts["claim"] == WIRING]
    assert set(mine.loc[mine["reading"] == "against", "a"]) == {"resnet50_dilated4", "resnet50_perm1_stages34"}
    found, rest = claims.evaluate(parts).set_index("claim"), parts[parts["claim"] != WIRING]
    assert found.loc[WIRING, ["verdict", "p"]].tolist() == ["does not hold", 0]
    others = found["p"].drop(index=WIRING).dropna()
    assert (found.loc[others.index, "p_holm"] == statistics.holm(others)).all() and len(rest) < len(parts)


def test_staying_the_same_takes_an_interval_within_the_margin():
    claim = next(c for c in claims.CLAIMS if c.side == "within")
    for shift, scatter, verdict in [(0.0, 0.001, "holds"), (0.05, 0.001, "does not hold"), (0.0, 0.05, "open")]:
        values = 0.3 + scatter * np.array([-1.0, 0.0, 1.0, 0.5, -0.5])
        found = claims.statistics.compare_values(values + shift, values[::-1])
        rows = [
            dict.fromkeys(claims.PART_COLUMNS, math.nan) | {"claim": claim.text, "seeds_a": 5, "seeds_b": 5}
            | claims._part(found, side, bound)
            for _ in claim.pairs for side, bound in (("above", -claim.bound), ("below", claim.bound))
        ]  # fmt: skip
        assert claims.evaluate(pd.DataFrame(rows)).set_index("claim").loc[claim.text, "verdict"] == verdict


def test_no_part_of_an_open_claim_is_called_refuted(tmp_path):
    """What a single interval says is no verdict: one part clearly against, and Holm's correction leaves the claim open."""
    accuracy = dict.fromkeys(ROWS, 0.5) | {"resnet50_perm1_stages34": 0.44}
    fabricate(tmp_path, seeds=(0, 1, 2, 3), measured=False, accuracy=accuracy)
    parts = claims.parts("small", tmp_path)
    assert set(parts["reading"]) <= {"for", "against", "not clear", "too few seeds", "no record yet"}
    with open(claims.write_claims("small", tmp_path), newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        assert (row["claim_verdict"] == "open") == bool(row["claim_reason"])
        assert row["reading"] not in ("shown", "refuted")
    assert any(row["claim_verdict"] == "open" and row["reading"] == "against" for row in rows)


def test_seeds_that_a_claim_would_take_settle_it():
    """With so many seeds, and the truth as it was found, a part is called in four cases of five at the level left to it."""
    claim = next(c for c in claims.CLAIMS if c.text == "Dilating the 3×3 itself hurts")
    a, b = 0.5 + 0.01 * np.array([-1.0, 0.0, 1.0]), 0.51 + 0.01 * np.array([-1.0, 0.0, 1.0])
    part = claims._part(claims.statistics.compare_values(a, b), claim.side, claim.bound)
    seeds, level = int(part["needed"]), 0.05 / len(claims.CLAIMS)
    rng = np.random.default_rng(0)
    p = claims.statistics.welch(rng.normal(0.5, 0.01, (4000, seeds)), rng.normal(0.51, 0.01, (4000, seeds)))["p"]
    assert 0.77 < (p <= level).mean() < 0.84


def test_stars_are_corrected_over_all_tables_and_a_row_of_two_tables_counts_once(tmp_path):
    """Nine rows in three tables, and a row that two of them show."""
    names = [name for name in ROWS if name.startswith("resnet50_perm")]
    fabricate(tmp_path, ["resnet50", *names], seeds=(0, 1, 2), measured=False)
    frames = {number: results.table(number, "small", tmp_path).set_index("variant") for number in results.TABLES}
    every = pd.concat([frame["p"].dropna() for frame in frames.values()])
    every = every[~every.index.duplicated()]
    corrected = dict(zip(every.index, statistics.holm(every), strict=True))
    assert len(every) == len(names)
    for frame in frames.values():
        assert (frame["tests"] == len(names)).all()
        for name in frame.index[frame["p"].notna()]:
            assert frame.loc[name, "p_holm"] == corrected[name]
    fabricate(tmp_path, ["vit_base_patch16_224"], seeds=(0, 1, 2), measured=False)
    assert set(results.table("4.1", "small", tmp_path)["tests"]) == {len(names) + 1}  # new records are seen at once


def test_context_of_trained_networks_is_tested_over_seeds(tmp_path):
    names = ["resnet50", "resnet50_perm1", "resnet50_perm5"]
    fabricate(tmp_path, names, seeds=(0, 1, 2), measured=False)
    part = claims.parts("small", tmp_path).query("quantity == 'early'").iloc[0]
    seen = results.load_records("small", tmp_path)
    early = claims.DISTANCES["early"]
    means = [np.mean([early(d) for d in claims._trained_distances("small", name, seen, tmp_path)]) for name in names[1::-1]]
    assert math.isclose(part["ours"], 100 * (means[0] - means[1])) and part["reading"] == "for"
    assert part["seeds_a"] == part["seeds_b"] == 3 and math.isnan(part["thesis"])


def test_claims_are_written_in_full_and_byte_stable(full):
    path = claims.write_claims("small", full)
    before = path.read_bytes()
    assert claims.write_claims("small", full).read_bytes() == before
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == sum(len(claim.pairs) * (1 + (claim.side == "within")) for claim in claims.CLAIMS)
    assert {row["claim_verdict"] for row in rows if row["claim"] != WIRING} == {"open"}
    path.unlink()  # the tables' test counts files


# ---- figures ----------------------------------------------------------------------------------------------


def test_every_figure_is_registered_once_with_its_facts():
    known = figures.known_figures()
    assert list(known) == [
        "1.1", "1.2", "1.3", *(f"2.{i}" for i in range(1, 10)), *(f"3.{i}" for i in range(1, 5)),
        *(f"4.{i}" for i in range(1, 15)), "5.1", "6.1", "6.2",
        *(f"7.{i}" for i in range(1, 5)), "8.1", "8.2", "9.1", "9.2", "10.1", "10.2", "10.3", "A.1",
        *(f"B.{i}" for i in range(1, 5)), "C.1", "C.2", "C.3",
    ]  # fmt: skip
    for about in known.values():
        assert about.facts["caption"].endswith((".", ")")) and len(about.facts["alt"]) > 30
        assert set(about.facts["shows"]) <= set(VARIANTS) and set(about.facts["rests_on"]) <= set(made.RECORDS)


def test_a_figure_carries_its_facts_to_its_output(full):
    drawn = figures.show("4.2", "small", full)
    data, metadata = drawn._repr_mimebundle_()
    facts = metadata["ctxnet"]
    assert {"image/png", "image/svg+xml", "text/plain"} == set(data) and facts["number"] == "4.2"
    assert facts["shows"] == ["resnet50_perm1", "resnet50_perm3", "resnet50_perm5"] and facts["rests_on"] == ["measure"]
    assert facts["networks"] == "full size, 224 px, at initialisation; trained, small (64 px, width ×0.25)"
    assert json.loads(json.dumps(facts)) == facts
    plain = figures.show("4.10", "small", full).facts
    assert plain["shows"] == [] and plain["networks"] == "full size, 224 px, at initialisation"


def test_a_figure_is_kept_as_one_file(full):
    folder = full / "results/small/figures"
    for number, kind in (("4.1", "svg"), ("4.2", "png")):
        figures.show(number, "small", full, save=True)
        (path,) = folder.glob(f"figure_{number.replace('.', '_')}.*")
        assert path.suffix == f".{kind}"
        before = path.read_bytes()
        figures.show(number, "small", full, save=True)
        assert path.read_bytes() == before


@pytest.mark.parametrize("number", ["4.1", "4.2", "4.4", "4.10", "4.14", "B.2", "5.1"])
def test_figures_draw_with_and_without_records(number, full, empty):
    with_records = figures.show(number, "small", full)
    without = figures.show(number, "small", empty)
    assert with_records.get_size_inches()[0] <= 7.2
    pictures = [ax for ax in _all_axes(with_records) if ax.images or ax.lines]
    assert pictures
    said = " ".join(text.get_text() for ax in _all_axes(without) for text in ax.texts)
    assert "ctxnet" in said or "dvc repro" in said


def _all_axes(fig):
    return fig.axes + [ax for part in getattr(fig, "subfigs", []) for ax in _all_axes(part)]


def test_a_wrong_figure_number_is_refused():
    with pytest.raises(ValueError, match="4.1"):
        figures.show("4.15", "small")


# ---- the table in README ------------------------------------------------------------------------------------------------


def test_readme_shows_the_committed_records():
    text = (REPO / "README.md").read_text()
    assert words.overview("small", REPO) in text, "renew it: python -m ctxnet report --protocol small --readme README.md"


def test_overview_replaces_only_what_stands_between_its_markers(tmp_path):
    fabricate(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: rows -->\nold\n<!-- end -->\nafter\n")
    words.write_overview(page, "small", tmp_path)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert text.count("`resnet50`") == 1 and "`vit_base_patch16_224`" in text
    page.write_text("nothing to replace")
    with pytest.raises(ValueError, match="page.md"):
        words.write_overview(page, "small", tmp_path)


def test_a_list_of_images_may_be_shared_by_protocols(tmp_path):
    fabricate(tmp_path, ROWS[:1], seeds=(0, 1))
    folder = run_folder("small", ROWS[0], 0, tmp_path)
    (own,) = (tmp_path / "results/small/images").iterdir()
    before, shared = read_predictions(folder)[0], tmp_path / "results/images" / own.name
    shared.parent.mkdir()
    own.rename(shared)
    assert read_predictions(folder)[0] == before
    fabricate(tmp_path, ROWS[1:2], seeds=(0,))  # judged by the same images: no second list
    assert not list(own.parent.iterdir()) and read_predictions(run_folder("small", ROWS[1], 0, tmp_path))[0] == before
    shared.write_text("image,label\n")
    with pytest.raises(DamagedRecord, match=own.name):
        read_predictions(folder)
    shared.unlink()
    with pytest.raises(DamagedRecord, match=f"small/images/{own.name}"):
        read_predictions(folder)


def test_every_minute_in_the_readme_is_that_of_the_records():
    text = (REPO / "README.md").read_text()  # which test_prose compares with what is written anew
    told = re.findall(r"<!-- minutes: ([\w-]+) -->([\d–]+)<!-- end -->", text)
    assert [protocol for protocol, _ in told] == ["small", "small_adamw", "dense", "degradation"]
    spent = [read_provenance(folder)["wall_seconds"] for folder, _ in records_of("small_adamw", REPO)]
    assert float(dict(told)["small_adamw"]) == round(sum(spent) / 60)


def test_minutes_are_of_seeds_that_every_row_has_and_never_averaged(tmp_path):
    fabricate(tmp_path, ROWS[:2], seeds=(0, 1))
    seconds = {(ROWS[0], 0): 60, (ROWS[1], 0): 120, (ROWS[0], 1): 600, (ROWS[1], 1): 30}
    for (row, seed), spent in seconds.items():
        rewrite(run_folder("small", row, seed, tmp_path), provenance={"wall_seconds": spent})
    assert results.minutes("small", tmp_path) == {0: 3.0, 1: 10.5}
    shutil.rmtree(run_folder("small", ROWS[1], 1, tmp_path))
    assert results.minutes("small", tmp_path) == {0: 3.0}
    page = tmp_path / "page.md"
    page.write_text("<!-- table: rows -->\n<!-- end -->\n<!-- minutes: smal -->1<!-- end -->")
    with pytest.raises(ValueError, match="smal: no seed"):
        words.write_overview(page, "small", tmp_path)
