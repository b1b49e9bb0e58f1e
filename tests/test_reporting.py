"""What services are told of a run: those that are not installed here are tried where they are, without network."""

import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys

import pytest
from runs import error_line, train, words

from hf_biasensemble.arguments import DebiasingArguments


def test_unknown_service_is_refused_before_anything_is_done(tmp_path, capsys):
    assert train(tmp_path / "no data", tmp_path / "out", report_to="wnadb") == 2
    message = error_line(capsys)
    assert "--report_to: expected none, all, or any of" in message and message.endswith("found wnadb")


@pytest.mark.skipif(importlib.util.find_spec("comet_ml") is not None, reason="comet_ml is installed")
def test_service_without_its_package_is_refused_before_anything_is_done(tmp_path, capsys):
    assert train(tmp_path / "no data", tmp_path / "out", report_to="comet_ml") == 2
    assert "--report_to comet_ml: expected its package, found none; install it" in error_line(capsys)


def test_all_means_what_is_installed(tmp_path):
    assert "tensorboard" in DebiasingArguments(output_dir=str(tmp_path), report_to=["all"]).report_to


def run_with(service, digits, tmp_path, command="train", **environment):
    """A run with members that reports to the service, from an empty working folder."""
    given = words(digits, tmp_path / "out", "lff_be", report_to=service, logging_steps=4)
    done = subprocess.run(
        [sys.executable, "-m", "hf_biasensemble", command, *given],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def check(logged: set[str], members: set[str], config: dict) -> None:
    assert {"train/loss", "train/learning_rate", "train/loss_biased", "train/loss_debiased"} <= logged
    assert {f"test/{kind}_accuracy" for kind in ("aligned", "conflicting", "unbiased")} <= logged
    assert {f"train/validation_{kind}_accuracy" for kind in ("aligned", "conflicting")} <= logged
    assert "train/loss_member_0" in members and not any("loss_member" in name for name in logged)
    assert {"method": "lff_be", "num_members": 3, "label_column": "label", "backbone": "mlp"}.items() <= config.items()


def records(file):
    """The protocol buffers in a file of wandb: records in blocks of 32 KiB, as in LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    content, place, found = file.read_bytes(), 7, b""
    while place < len(content):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        found += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(found)
            found = b""
            yield record


@pytest.mark.slow
def test_weights_and_biases_get_a_run_of_the_members_and_one_of_the_training(digits, tmp_path):
    pytest.importorskip("wandb")
    run_with("wandb", digits, tmp_path, WANDB_MODE="offline")
    runs, configs = {}, {}
    for file in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        name, logged, config = "", set(), {}
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name
            elif kind == "history":
                logged |= {item.key or "/".join(item.nested_key) for item in record.history.item}
            elif kind == "config":
                config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        runs[name], configs[name] = logged, config
    name = f"lff_be in {tmp_path / 'out'}"
    assert runs.keys() == {name, f"{name}/selection"}
    check(runs[name], runs[f"{name}/selection"], configs[name])


@pytest.mark.slow
def test_trackio_gets_a_run_of_the_members_and_one_of_the_training(digits, tmp_path):
    pytest.importorskip("trackio")
    run_with("trackio", digits, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    runs: dict[str, set[str]] = {}
    with sqlite3.connect(tmp_path / "trackio" / "huggingface.db") as database:
        for name, logged in database.execute("select run_name, metrics from metrics"):
            runs.setdefault(name, set()).update(json.loads(logged))
        configs = {
            name: json.loads(config) for name, config in database.execute("select run_name, config from configs")
        }
    name = f"lff_be in {tmp_path / 'out'}"
    assert runs.keys() == {name, f"{name}/selection"}
    check(runs[name], runs[f"{name}/selection"], configs[name])


@pytest.mark.slow
def test_the_members_of_an_audit_have_its_settings_at_trackio(digits, tmp_path):
    pytest.importorskip("trackio")
    run_with("trackio", digits, tmp_path, "audit", TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio" / "huggingface.db") as database:
        configs = [json.loads(config) for (config,) in database.execute("select config from configs")]
    expected = {"method": "lff_be", "num_members": 3, "label_column": "label", "backbone": "mlp"}
    assert len(configs) == 1 and expected.items() <= configs[0].items()
