"""The choice between methods: rule, tests, folds, and what a run says of it."""

import json

import pytest
import timm
import torch
from runs import results, train
from safetensors.torch import save_file

BACKBONE = "test_resnet"


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(timm.create_model(BACKBONE, num_classes=0).state_dict(), file)
    network = {"backbone": BACKBONE, "pretrained_weights": file, "image_size": 32}
    return {**network, "freeze_backbone": "true", "candidates": ["erm", "lff", "lff_be"], "folds": 3}


def test_auto_runs(digits, tmp_path, frozen):
    assert train(digits, tmp_path / "auto", "auto", **frozen) == 0
    found = results(tmp_path / "auto")
    print(json.dumps(found["candidates"], indent=1))
    print((tmp_path / "auto" / "README.md").read_text())
    assert 0
