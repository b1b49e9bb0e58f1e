"""What a run has published says the same in the test command and in other programs, with and without the library."""

import json
import textwrap
from pathlib import Path

import pytest
from fresh_python import WITHOUT_LIBRARY, fresh_python
from runs import error_line, results

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.evaluation.accuracy import METRICS

# The test command ----------------------------------------------------------------------------------------------------


def measure(model: Path, data: Path, output_file: Path, *more: str) -> int:
    given = ["--model", str(model), "--dataset_name", str(data), "--output_file", str(output_file), *more]
    return run_command("test", given)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_saved_model_measures_as_it_did_in_training(finished, digits, tmp_path, split):
    file = tmp_path / "new" / "metrics.json"
    assert measure(finished("lff_be"), digits, file, "--split", split, "--batch_size", "7") == 0
    measured = json.loads(file.read_text())
    in_training = results(finished("lff_be"))
    expected = {f"{split}_{name}": in_training[f"{split}_{name}"] for name in METRICS}
    assert measured == expected and len(measured) == 6


def test_measuring_refuses_what_is_not_there(finished, digits, tmp_path, capsys):
    assert measure(finished("erm"), digits, tmp_path / "m.json", "--split", "exam") == 2
    assert "--split exam: expected one of train, validation, test" in error_line(capsys)
    assert measure(tmp_path / "no model", digits, tmp_path / "m.json") == 2
    assert f"--model {tmp_path / 'no model'}" in error_line(capsys)
    assert not (tmp_path / "m.json").exists()


# The published model in other programs -------------------------------------------------------------------------------

COMPARE = """
    import numpy as np, sys, torch
    from pathlib import Path
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = Path(sys.argv[1])
    images = [Image.open(file) for file in sorted((folder / "images").iterdir())]

    def logits(name, **options):
        processor = AutoImageProcessor.from_pretrained(folder / name)
        model = AutoModelForImageClassification.from_pretrained(folder / name, **options)
        with torch.inference_mode():
            batch = processor(images, return_tensors="pt")["pixel_values"]
            return batch, model(batch).logits, model

    def close(name, ours):
        expected = np.load(folder / f"{name}.npy")
        assert ours.shape == expected.shape, ours.shape
        assert expected.std() > 0.01
        assert np.abs(ours.numpy() - expected).max() < 1e-5, np.abs(ours.numpy() - expected).max()
        print("same logits:", name)
"""


def compared(code: str, published: Path, cwd: Path, library: bool = True) -> list[str]:
    """What a fresh interpreter prints that runs `COMPARE` and this code, with or without the library."""
    parts = ["" if library else WITHOUT_LIBRARY, textwrap.dedent(COMPARE), textwrap.dedent(code)]
    done = fresh_python("-c", "".join(parts), published, cwd=cwd, isolated=not library)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_model_opens_in_a_new_process_that_has_the_library(published, tmp_path):
    code = """
        import hf_biasensemble.models.export

        _, ours, model = logits("mlp")
        assert type(model).__module__ == "hf_biasensemble.models.modeling_debiased", type(model)
        close("mlp", ours)
    """
    assert compared(code, published, tmp_path) == ["same logits: mlp"]


def test_model_opens_where_the_library_is_not_installed(published, tmp_path):
    code = """
        _, ours, model = logits("mlp", trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        close("mlp", ours)

        batch, ours, model = logits("timm")
        assert type(model).__name__ == "TimmWrapperForImageClassification"
        assert list(model.config.id2label.values()) == ["bar", "pole", "cross", "square"]
        close("timm", ours)

        import timm

        network = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()
        with torch.inference_mode():
            close("timm", network(batch))
    """
    printed = compared(code, published, tmp_path, library=False)
    assert printed == ["same logits: mlp", "same logits: timm", "same logits: timm"]
