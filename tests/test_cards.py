"""Model cards: on the committed records of `small`, and on made-up ones."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rewriting import rewrite
from test_report import fabricate

import ctxnet
from ctxnet.models.variants import VARIANTS
from ctxnet.paper import cards, results, words

REPO = Path(__file__).parents[1]
ROWS = ["resnet50", "resnet50_perm1", "resnet50_perm3", "vit_base_patch16_224"]


def parts(text):
    """(front matter as a dict, heading -> what stands under it)."""
    _, front, body = re.split(r"^---$\n", text, maxsplit=2, flags=re.M)
    _, *sections = re.split(r"^## (.*)\n", body, flags=re.M)
    return yaml.safe_load(front), dict(zip(sections[::2], sections[1::2], strict=True))


def table_cells(section):
    """first cell -> the other cells, over every Markdown table of a section."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The committed records of `small` in a folder that may be written to."""
    root = tmp_path_factory.mktemp("small")
    shutil.copy(REPO / "params.yaml", root)
    unread = shutil.ignore_patterns("*.safetensors", "notebook", ".lock")
    for folder in ("small/runs", "images", "measure"):
        shutil.copytree(REPO / "results" / folder, root / "results" / folder, ignore=unread)
    cards.write_cards("small", root)
    return root


def test_every_committed_row_has_a_card_whose_numbers_are_its_records(small):
    found = results.load_records("small", small)
    assert {path.stem for path in (small / "results/small/cards").iterdir()} == set(found["variant"])
    frames = {row["variant"]: row for n in results.TABLES for row in results.table(n, "small", small).to_dict("records")}
    for variant, runs in found.groupby("variant"):
        front, sections = parts((small / "results/small/cards" / f"{variant}.md").read_text(encoding="utf-8"))
        assert (front["license"], front["library_name"], front["datasets"]) == ("mit", "ctxnet", ["imagenette"])
        (model,) = front["model-index"]
        (metric,) = model["results"][0]["metrics"]
        assert model["name"] == variant and metric["value"] == pytest.approx(runs["top1"].mean(), abs=6e-5)
        assert metric["name"].endswith(f"mean over {len(runs)} seeds" if len(runs) > 1 else "one seed")
        each = table_cells(sections["Results"])
        for run in runs.to_dict("records"):
            assert each[str(run["seed"])] == [
                f"{100 * run['top1']:.2f}", f"{100 * run['top1_best']:.2f}", str(run["epochs"]), f"{run['n']:,}"
            ]  # fmt: skip
        row = frames[variant]
        sd, interval, seeds, *thesis = each[f"{row['top1']:.2f}"]
        assert interval.startswith(f"{row['low']:.1f}–{row['high']:.1f}") and seeds == str(len(runs))
        assert sd == ("–" if len(runs) == 1 else f"{row['sd_points']:.1f}")
        assert thesis == ([] if VARIANTS[variant].thesis_top1 is None else [f"{VARIANTS[variant].thesis_top1:.2f}"])
        about = table_cells(sections["What it is"])
        assert about["parameters, as trained"][0].startswith(f"{runs['parameters'].iloc[0] / 1e6:.3f} M")
        assert about["parameters, full size"][0].startswith(f"{results.parameters_million(variant):.3f} M")
        assert "have changed since" not in sections["How it was trained"]
        far = [line.split(" | ") for line in sections["How far it looks"].splitlines() if line.startswith("| as trained")]
        side = results.load_profile("small", variant, runs["seed"].iloc[0], small)
        assert [row[4] for row in far] == [f"{float(side.distance[i]):.1f}" for i in (0, -1)]
        origin = results.load_provenance("small", variant, runs["seed"].iloc[0], small)
        assert all(origin[key] in sections["Where it came from"] for key in ("commit", "data_manifest"))


def test_the_verdict_is_that_of_the_command(small):
    found = results.load_records("small", small)["variant"].value_counts()
    said = set()
    for variant in found.index.drop("resnet50"):
        _, sections = parts((small / "results/small/cards" / f"{variant}.md").read_text(encoding="utf-8"))
        section = sections["Compared with `resnet50`"]
        lines = words.comparison("small", variant, "resnet50", small).splitlines()
        command = dict(re.split(r" {2,}", line, maxsplit=1) for line in lines[3:])
        if found[variant] < 3:
            assert f"No verdict: {command['verdict']}." in section and "better" not in section and "worse" not in section
            continue
        mine = table_cells(section)
        verdict = command["verdict"].split(":")[0]
        said.add(verdict)
        assert mine["verdict"][0].startswith(f"**{verdict}**")
        assert mine["difference"][0].startswith(command["difference A − B"])
        for key in ("95 % interval", "minimum detectable"):
            assert mine[key][0] == command[key]
        assert mine["p"][0].split(",")[0] == command["p"].split(",")[0]
    assert {"worse", "no difference shown"} <= said


def test_cards_are_byte_stable(small):
    folder = cards.write_cards("small", small)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    cards.write_cards("small", small)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_cards_name_no_machine_folder(small):
    for path in (small / "results/small/cards").iterdir():
        assert str(small) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("variant", ["resnet50_perm1", "vit_base_patch16_224"])
def test_the_code_on_a_card_builds_what_was_trained(small, variant):
    text = (small / "results/small/cards" / f"{variant}.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, flags=re.S)[1], names)
    found = results.load_records("small", small).set_index("variant")["parameters"]
    assert ctxnet.count_parameters(names["as_trained"]) == found[[variant]].iloc[0]
    assert ctxnet.count_parameters(names["full"]) / 1e6 == results.parameters_million(variant)
    assert ("timm.create_model" in text.split("```")[1]) == (variant == "resnet50_perm1")  # the other is timm's own


def test_one_seed_is_said_to_be_one_and_gets_no_verdict(tmp_path):
    root = fabricate(tmp_path, ROWS)
    front, sections = parts(cards.cards("small", root)["resnet50_perm1"])
    assert front["model-index"][0]["results"][0]["metrics"][0]["name"] == "top-1, one seed"
    assert "† One seed" in sections["Results"]
    assert "No verdict: too few seeds: 1 and 1, 3 of each needed" in sections["Compared with `resnet50`"]


def test_three_seeds_of_both_get_a_verdict(tmp_path):
    root = fabricate(tmp_path, ROWS[:2], seeds=(0, 1, 2), measured=False, accuracy={"resnet50": 0.3, "resnet50_perm1": 0.9})
    _, sections = parts(cards.cards("small", root)["resnet50_perm1"])
    assert "**better** than `resnet50`" in sections["Compared with `resnet50`"] and "†" not in sections["Results"]
    assert "python -m ctxnet measure --variant resnet50_perm1" in sections["How far it looks"]
    _, sections = parts(cards.cards("small", root)["resnet50"])
    assert "the others" in sections["Compared"]


def test_without_resnet50_nothing_is_compared(tmp_path):
    root = fabricate(tmp_path, ["plain20"], protocol="degradation", measured=False)
    _, sections = parts(cards.cards("degradation", root)["plain20"])
    assert "no finished run" in sections["Compared"] and "| in the thesis | no |" in sections["What it is"]
    assert "32×32 pixels" in sections["What it is"] and "timm" not in sections["What it is"]


def test_cards_of_rows_without_a_run_vanish(tmp_path):
    root = fabricate(tmp_path, ROWS[:2])
    folder = cards.write_cards("small", root)
    (folder / "no_such_row.md").write_text("old")
    assert folder == root / "results" / "small" / "cards"
    shutil.rmtree(root / "results/small/runs/resnet50_perm1")
    cards.write_cards("small", root)
    assert [path.name for path in folder.iterdir()] == ["resnet50.md"]
    shutil.rmtree(root / "results/small/runs")
    assert list(cards.write_cards("small", root).iterdir()) == []


def test_cards_of_an_unknown_protocol_are_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'small'"):
        cards.write_cards("smal", fabricate(tmp_path, ROWS[:1], measured=False))


def test_settings_that_changed_since_are_told(small, tmp_path):
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["protocols"]["small"]["learning_rate"] = 0.03
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    _, sections = parts(cards.cards("small", tmp_path)["resnet50_perm1"])
    assert "These settings have changed since seeds 0, 1, 2, 3, 4 were trained" in sections["How it was trained"]
    assert table_cells(sections["How it was trained"])["learning rate"] == ["0.03"]


def test_off_settings_and_folders_of_a_machine_are_left_out(tmp_path):
    root = fabricate(tmp_path, ROWS[:1], measured=False)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["protocols"]["small"] |= {"dataset": "/home/someone/flowers", "flip": False, "decay_epochs": [], "drop_rate": 0.1}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    text = cards.cards("small", root)["resnet50"]
    front, sections = parts(text)
    settings = table_cells(sections["How it was trained"])
    assert front["datasets"] == settings["dataset"] == ["flowers"] and "/home" not in text
    assert not {"flip", "decay epochs", "decay factor", "workers"} & set(settings) and settings["drop rate"] == ["0.1"]
    assert "drop_rate=0.1" in sections["How to build it"] and "classes of flowers" in sections["Intended use and limits"]


def test_what_provenance_says_is_text_and_never_markup(tmp_path):
    root = fabricate(tmp_path, ROWS[:1], measured=False)
    evil = "<script>alert(1)</script> a|b\n# heading [x](y)"
    rewrite(results.run_folder("small", "resnet50", 0, root), provenance={"device": evil})
    _, sections = parts(cards.cards("small", root)["resnet50"])
    origin = sections["Where it came from"]
    assert "<script" not in origin and "&lt;script&gt;" in origin and "a\\|b # heading \\[x\\](y)" in origin


def test_a_record_that_disagrees_with_its_answers_is_refused(tmp_path):
    root = fabricate(tmp_path, ROWS[:1], measured=False)
    folder = results.run_folder("small", "resnet50", 0, root)
    rewrite(folder, {"top1": json.loads((folder / "record.json").read_text())["top1"] / 2})
    with pytest.raises(results.BadRecord, match="resnet50/seed0: its predictions give"):
        cards.write_cards("small", root)


def test_the_hub_reads_the_accuracy(small):
    hub = pytest.importorskip("huggingface_hub")
    text = (small / "results/small/cards/resnet50.md").read_text(encoding="utf-8")
    data = hub.ModelCard(text).data
    (result,) = data.eval_results
    top1 = results.load_records("small", small).query("variant == 'resnet50'")["top1"].mean()
    assert data.model_name == "resnet50" and result.metric_value == round(top1, 4) and result.dataset_type == "imagenette"
