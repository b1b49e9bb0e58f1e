"""Finished runs whose model cards are looked at."""

from pathlib import Path

import pytest
from runs import METHODS, train
from synthetic import coloured_digits

# The method, what is left out of the data, and further settings.
RUNS: dict[str, tuple[str, tuple[str, ...], dict]] = {
    **{method: (method, (), {}) for method in METHODS},
    "no bias labels": ("lff_be", ("bias_label", "is_conflicting"), {}),
    "conflicts only": ("lff_be", ("bias_label",), {"checkpoint_choice": "validation_ac_score"}),
    "timm": ("erm", (), {"backbone": "test_resnet", "image_size": 32, "checkpoint_choice": "oracle_test"}),
    "train only": ("erm", (), {"validation_share": 0, "test_share": 0}),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of the data and folder of a finished run on it, by name, made once; not to be changed."""
    folder = tmp_path_factory.mktemp("cards")

    def finished(name: str) -> tuple[Path, Path]:
        method, leave_out, changes = RUNS[name]
        data, output_dir = folder / "-".join(("data", *leave_out, name[:5])), folder / name
        if not output_dir.exists():
            coloured_digits(data, leave_out=leave_out)
            if name == "train only":
                (data / "validation.parquet").unlink()
                (data / "test.parquet").unlink()
            assert train(data, output_dir, method, save_strategy="no", **changes) == 0
        return data, output_dir

    return finished


def card(output_dir: Path) -> str:
    return (output_dir / "README.md").read_text()
