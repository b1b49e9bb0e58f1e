"""The first stage of JTT through its real trainer, against a naive loop: an ordinary classifier and its errors."""

import copy

import numpy as np
import pytest
import torch
from test_disent import random_split

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.methods import METHODS
from hf_biasensemble.selectors.erm_errors import SELECTOR as ERM_ERRORS
from hf_biasensemble.selectors.erm_errors import ErmErrorsArguments
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer

STEPS, RATE = 9, 0.003


def test_first_stage_is_ordinary_training_and_keeps_what_it_gets_right(tmp_path, monkeypatch):
    batches = []
    terms = BiasEnsembleTrainer.training_terms

    def recording(trainer, model, batch):
        batches.append((batch["pixel_values"][:, 0].clone(), batch["labels"][:, 0].clone()))
        return terms(trainer, model, batch)

    monkeypatch.setattr(BiasEnsembleTrainer, "training_terms", recording)
    split = random_split()
    args = jtt_arguments(tmp_path)
    model_args = ModelArguments(backbone="mlp", image_size=split.pixels.shape[-1])
    trainer = ERM_ERRORS.trainer(model_args, ErmErrorsArguments(first_stage_steps=STEPS), args, {"train": split}, [])
    network = copy.deepcopy(trainer.model.members[0])
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    adam = torch.optim.Adam(network.parameters(), lr=RATE, eps=1e-4)
    losses = []
    for images, labels in batches:
        scores = [network(image[None]).logits[0] for image in images]
        each = [torch.log(torch.exp(s).sum()) - s[int(y)] for s, y in zip(scores, labels, strict=True)]
        loss = torch.stack(each).mean()
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert len(losses) == STEPS
    assert logged == pytest.approx(losses, abs=1e-5)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(trainer.model.members[0].state_dict()[name], value, atol=1e-5, rtol=0)

    made = trainer.select()
    with torch.inference_mode():
        pixels = trainer.transform(split.pixels[split.rows], training=False)
        right = (network.eval()(pixels).logits.argmax(dim=1) == split.labels[split.rows]).numpy()
    assert 0 < right.sum() < len(right)
    assert np.array_equal(made.is_selected, right) and np.array_equal(made.votes, right)


def jtt_arguments(folder):
    return METHODS["jtt"].arguments(
        **{"output_dir": str(folder), "per_device_train_batch_size": 16, "learning_rate": RATE, "adam_epsilon": 1e-4},
        **{"logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True},
    )
