"""One process never spreads over several GPUs: the Trainer's own way would multiply the batch without a word."""

import pytest
from runs import error_line, train

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import refuse_data_parallel


@pytest.fixture
def two_gpus(monkeypatch):
    """What `TrainingArguments` find on a machine with two, in one process."""
    monkeypatch.setattr(DebiasingArguments, "n_gpu", property(lambda args: 2))


@pytest.mark.parametrize("method", ["erm", "lff_be"])
def test_run_is_refused_with_the_launch_command(digits, tmp_path, capsys, two_gpus, method):
    assert train(digits, tmp_path / "out", method) == 2
    line = error_line(capsys)
    assert "accelerate launch --num_processes 2 train.py" in line and "CUDA_VISIBLE_DEVICES=0" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_gpu_or_none_is_fine(gpus):
    refuse_data_parallel(gpus)


def test_trainer_from_python_is_refused_too(digits, tmp_path, two_gpus):
    from hf_biasensemble.data.batches.transforms import ImageTransform
    from hf_biasensemble.methods import METHODS

    args = DebiasingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(BiasEnsembleError, match="one process and 2 GPUs"):
        METHODS["erm"].trainer(None, args, ImageTransform((0.0,) * 3, (1.0,) * 3))
