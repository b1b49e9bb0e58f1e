"""The real trainers replay a recorded run of the authors' code, within 1e-5 everywhere."""

import numpy as np
import pytest
import torch
from recorded import TRANSFORM, RecordedRun

from hf_biasensemble.data.batches.member_batches import MemberBatches
from hf_biasensemble.methods.disent import DisentTrainer
from hf_biasensemble.methods.lff import LffTrainer
from hf_biasensemble.models.pair import BiasedDebiasedPair, MemberEnsemble
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer

TOLERANCE = 1e-5


def close(name: str, ours: np.ndarray, recorded: np.ndarray) -> float:
    assert np.shape(ours) == np.shape(recorded), name
    difference = float(np.abs(np.asarray(ours, dtype=np.float64) - recorded).max())
    print(f"{name}: largest difference {difference:.1e}")
    assert difference <= TOLERANCE, name
    return difference


def member_trainer(run: RecordedRun, tmp_path) -> BiasEnsembleTrainer:
    first = 2  # after the unused f_B and f_D
    seeds = run.recipe["init_seeds"][first : first + run.num_members]
    train = run.split("train")
    return BiasEnsembleTrainer(
        MemberEnsemble([run.classifier(seed) for seed in seeds]),
        run.arguments(tmp_path, run.recipe["args"]["biased_model_train_iter"]),
        TRANSFORM,
        run.selection_arguments(),
        train_dataset=train,
        eval_dataset={"validation": run.split("valid")},
        batches=MemberBatches(train, run.member_order()),
    )


def recorded_selection(run: RecordedRun) -> Selection:
    train = run.split("train")
    selected = run["selected"]
    return Selection(
        np.arange(len(train)), train.labels.numpy(), selected.astype(int), selected.astype(np.float32), selected, {}
    )


@pytest.mark.parametrize("method", ["lff_be", "disent_be"])
def test_members_and_selection_are_the_recorded_ones(method, tmp_path):
    run = RecordedRun(method)
    trainer = member_trainer(run, tmp_path)
    trainer.train()
    selection = trainer.select()
    close("member_true_class_prob", trainer.member_votes()["member_probabilities"].T, run["member_true_class_prob"])
    assert np.array_equal(selection.is_selected, run["selected"])
    # The recorded validation accuracies decided which weights of each member were kept.
    best = [max(a for m, _, a in run.recipe["pretrain_best_valid"] if m == k) for k in range(run.num_members)]
    assert trainer.best_accuracy.tolist() == pytest.approx(best)


class Recording:
    """Keeps what each step computed, in the names of the trace. Mixed into a real trainer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps: list[dict] = []

    def weigh(self, index, biased_loss, debiased_loss):
        weight = super().weigh(index, biased_loss, debiased_loss)
        self.steps.append({"loss_biased": biased_loss, "loss_debiased": debiased_loss, "weight": weight})
        return weight

    def training_terms(self, model, batch):
        terms = super().training_terms(model, batch)
        self.steps[-1]["terms"] = torch.stack(list(terms.values()))
        return terms

    def recorded(self, name: str) -> np.ndarray:
        return np.stack([step[name].detach().numpy() for step in self.steps])


class RecordingLffTrainer(Recording, LffTrainer):
    pass


class RecordingDisentTrainer(Recording, DisentTrainer):
    """With the recorded permutations in place of random ones."""

    permutations: list[np.ndarray]

    def swap_permutation(self, batch_size):
        drawn = super().swap_permutation(batch_size)
        return None if drawn is None else torch.from_numpy(self.permutations.pop(0))


def test_lff_with_bias_ensemble_makes_the_recorded_steps(tmp_path):
    run = RecordedRun("lff_be")
    seeds = run.recipe["init_seeds"]
    pair = BiasedDebiasedPair(biased=run.classifier(seeds[2 + run.num_members]), debiased=run.classifier(seeds[1]))
    trainer = RecordingLffTrainer(
        pair,
        run.arguments(tmp_path, run.recipe["args"]["num_steps"]),
        TRANSFORM,
        train_dataset=run.split("train").select(run.main_order()),
        selection=recorded_selection(run),
    )
    trainer.train()
    for name in ("loss_biased", "loss_debiased", "weight", "terms"):
        close(name, trainer.recorded(name), run[name])
    averages = trainer.sample_losses.averages()
    close("ema_biased", averages[:, 0], run["ema_biased"])
    close("ema_debiased", averages[:, 1], run["ema_debiased"])
    print("final weights", run.assert_final_weights("biased", pair.biased.encoder, pair.biased.classifier, TOLERANCE))
    print(
        "final weights",
        run.assert_final_weights("debiased", pair.debiased.encoder, pair.debiased.classifier, TOLERANCE),
    )


def test_disent_with_bias_ensemble_makes_the_recorded_steps(tmp_path):
    run = RecordedRun("disent_be")
    recipe = run.recipe["args"]
    biased_seed, debiased_seed = run.recipe["init_seeds"][2 + run.num_members :]
    pair = run.disentangled_pair(biased_seed, debiased_seed)
    trainer = RecordingDisentTrainer(
        pair,
        run.arguments(
            tmp_path,
            recipe["num_steps"],
            lambda_dis=recipe["lambda_dis_align"],
            lambda_swap=recipe["lambda_swap"],
            lambda_swap_bias=recipe["lambda_swap_align"],
            swap_start_step=recipe["curr_step"],
            step_decay_steps=recipe["lr_decay_step"],
            step_decay_factor=recipe["lr_gamma"],
            step_decay_start=recipe["curr_step"],
        ),
        TRANSFORM,
        train_dataset=run.split("train").select(run.main_order()),
        selection=recorded_selection(run),
    )
    trainer.permutations = list(run["swap_permutation"])
    trainer.train()
    assert not trainer.permutations, "the swap must start where it did in the recorded run"
    for name in ("loss_biased", "loss_debiased", "weight"):
        close(name, trainer.recorded(name), run[name])
    terms = np.zeros_like(run["terms"])
    for row, step in zip(terms, trainer.steps, strict=True):
        row[: len(step["terms"])] = step["terms"].detach().numpy()
    close("terms", terms, run["terms"])
    averages = trainer.sample_losses.averages()
    close("ema_biased", averages[:, 0], run["ema_biased"])
    close("ema_debiased", averages[:, 1], run["ema_debiased"])
    debiased = pair.debiased
    print("final biased", run.assert_final_weights("biased", debiased.bias_encoder, pair.bias_classifier, TOLERANCE))
    print("final debiased", run.assert_final_weights("debiased", debiased.encoder, debiased.classifier, TOLERANCE))
