"""What `accelerate launch` asks for: stated, compared when a run is resumed, warned of where it has no effect."""

import pytest
import yaml
from runs import train

from hf_biasensemble.arguments import DebiasingArguments, resolved
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import _processes_asked_for

LAUNCH = ["python", "/bin/accelerate", "launch"]


def stated(**options) -> dict:
    return resolved(DebiasingArguments(output_dir="out", use_cpu=True, **options))


def test_precision_of_the_launcher_is_that_of_the_option(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert stated() == stated(bf16=True) and stated()["bf16"] is True
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert "bf16" not in stated()


def test_compiler_of_the_launcher_is_that_of_the_option(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "AOT_EAGER")
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
    found = stated()
    assert (found["torch_compile"], found["torch_compile_backend"]) == (True, "aot_eager")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    assert "torch_compile" not in stated()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--mixed_precision: expected no, bf16 or fp16, found fp8"),
        ("ACCELERATE_USE_FSDP", "true", "expected processes that each hold the whole network, found fsdp"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "expected processes that each hold the whole network, found deepspeed"),
    ],
)
def test_what_the_launcher_asks_for_in_vain_is_refused(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(BiasEnsembleError, match=said):
        stated()


def test_run_in_float32_is_not_resumed_in_bfloat16(digits, tmp_path, monkeypatch, capsys):
    assert train(digits, tmp_path / "out") == 0
    assert "bf16" not in yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train(digits, tmp_path / "out", resume_from_checkpoint="true") == 2
    assert "bf16 (then: None, now: True)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([*LAUNCH, "--cpu", "--num_processes", "2", "train.py", "--seed", "3"], 2),
        ([*LAUNCH, "--num-processes=3", "train.py"], 3),
        ([*LAUNCH, "--config_file", "two.yaml", "train.py", "--num_processes", "5"], 2),
        ([*LAUNCH, "--config_file", "two.yaml", "--num_processes", "4", "train.py"], 4),
        ([*LAUNCH, "--cpu", "train.py"], 1),
        (["bash", "launch", "--num_processes", "2"], 1),
        (["python", "train.py"], 1),
    ],
)
def test_processes_that_a_launcher_was_asked_for(words, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 2\n"
    )
    assert _processes_asked_for(words) == asked
