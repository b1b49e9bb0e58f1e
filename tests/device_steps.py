"""Trains with each method on a device without hardware, and prints what its steps do there as JSON.

`python device_steps.py PROCESSES`: as the first of so many. `python device_steps.py 1 faults`: with one put into each
step."""

import json
import sys
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import fake_device
import numpy as np
import torch
from accelerate.utils import DistributedType
from transformers import TrainerCallback

from hf_biasensemble.arguments import ModelArguments, SelectionArguments
from hf_biasensemble.data.batches.device_pixels import with_pixels_on
from hf_biasensemble.data.batches.prefetching import BatchOnItsWay
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import Features
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.build import build_members
from hf_biasensemble.reporting.run.progress import use_own_progress
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer

PROCESSES = int(sys.argv[1])
SAMPLES, CLASS_NAMES = 256, ["zero", "one", "two"]
MODEL = ModelArguments(backbone="mlp", image_size=28)
PIXELS = torch.randint(256, (SAMPLES, 3, 28, 28), dtype=torch.uint8)
LABELS = torch.arange(SAMPLES) % len(CLASS_NAMES)
SPLIT = ImageSplit(PIXELS, LABELS, CLASS_NAMES, torch.arange(SAMPLES), is_conflicting=LABELS.numpy() == 0)
COLOURS = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
PLAIN = ImageTransform(*COLOURS)
AUGMENTED = {
    "crop and flip": {"crop_padding": 2, "horizontal_flip": True},
    "affine": {"augmentation": "affine"},
    "photographs": {"augmentation": "photographs", "color_jitter": 0.4, "image_size": 28},
}
FAULTS = {
    "a copy to the host": lambda batch: batch["pixel_values"].cpu(),
    "a new tensor of numbers": lambda batch: batch["pixel_values"].new_tensor([0.1, 0.2, 0.3]),
    "an index on the host": lambda batch: batch["pixel_values"][torch.arange(len(batch["labels"]))],
    "a value on the host": lambda batch: batch["labels"].float().mean().item(),
    "a mask of values": lambda batch: batch["labels"].gt(0).nonzero(),
}


def main() -> None:
    """All methods, then variants of one; or one method with each of the faults."""
    fake_device.set_up(PROCESSES)
    if sys.argv[2:]:
        found = {fault: steps("erm", fault=fault) for fault in FAULTS}
        handed_over, BatchOnItsWay.to = BatchOnItsWay.to, lambda batch, *args, **kwargs: batch.batch
        found["a batch that nothing waits for"] = steps("erm")
        BatchOnItsWay.to, torch.Tensor.pin_memory = handed_over, torch.Tensor.clone
        print(json.dumps(found | {"a batch in memory that is not pinned": steps("erm")}))
        return
    kinds = [name for name in METHODS if not METHODS[name].chooses]
    found = {name: steps(name) for name in [*kinds, "members"]}
    found["members on one batch"] = steps("members", share_batches=True)
    found["augmented members"] = steps("members", ImageTransform(*COLOURS, horizontal_flip=True))
    found["accumulated batches"] = steps("lff_be", gradient_accumulation_steps=2)
    found["clipped gradients"] = steps("lff_be", max_grad_norm=1.0)
    for name in ("erm", "disent_be", "members"):
        found[f"{name}, pixels on the device"] = steps(name, pixels_on="device")
    found["a share of conflicting samples"] = steps("lff_be", conflicting_share=0.3)
    for name, options in AUGMENTED.items():
        found[name] = steps("erm", ImageTransform(*COLOURS, **options))
    found["batch normalisation"] = steps("erm", backbone="resnet18")
    features = Features(torch.rand(SAMPLES, 3, 3 * 28 * 28).half(), torch.zeros(3 * 28 * 28), torch.ones(3 * 28 * 28))
    print(json.dumps(found | {"features": steps("erm", features.transform(), pixels=features)}))


def steps(method: str, transform: Any = PLAIN, pixels: Any = PIXELS, fault: str = "", **options: Any) -> dict:
    """Trains for some steps and evaluates; members vote.

    Returns:
        `dict`: `launches`, `uploads` and so on of each step but the first ones; `copied_before_first`, how many of the
        tensors of batches were sent before the first step; the shape of what was predicted, and traffic `after` steps.
    """
    device = fake_device.Device()
    split = ImageSplit(pixels, LABELS, CLASS_NAMES, torch.arange(SAMPLES), is_conflicting=SPLIT.is_conflicting)
    with TemporaryDirectory() as folder, device:
        split = with_pixels_on(options.get("pixels_on", "host"), torch.device(fake_device.NAME, 0), {"": split})[""]
        trainer = built(method, folder, split, transform, options)
        each = EachStep(device)
        trainer.add_callback(each)
        if fault:
            terms = trainer.training_terms
            trainer.training_terms = lambda model, batch: (FAULTS[fault](batch), terms(model, batch))[1]
        trainer.train()
        if method == "members":
            predicted = trainer.member_votes()["member_probabilities"].shape
        else:
            predicted = trainer.predict_logits(split).shape
    after = {"races_after": device.traffic.races, "beside_after": device.traffic.beside}
    return {**each.found(), **after, "predicted": list(predicted)}


def built(method: str, folder: str, split: ImageSplit, transform: Any, options: dict) -> Any:
    """The trainer, as `train.py` builds it."""
    kind = METHODS["lff_be" if method == "members" else method]
    shared = options.pop("share_batches", False)
    model_args = replace(MODEL, backbone=options.pop("backbone", MODEL.backbone))
    args = kind.arguments(
        output_dir=folder,
        **{"method": kind.name, "max_steps": 6, "per_device_train_batch_size": 8, "weight_average": 0.9},
        per_device_eval_batch_size=64 if PROCESSES == 1 else SAMPLES,  # what the others predict is not gathered here
        **{"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 100},
        **({"swap_start_step": 0.1} if method.startswith("disent") else {}),
        **({"ddp_backend": "fake"} if PROCESSES > 1 else {}),
        **options,
    )
    assert (args.device.type, args.world_size) == (fake_device.NAME, PROCESSES)
    if method == "members":
        args.weight_average = 0.0
        chosen = SelectionArguments(num_members=3, member_agreement=1, share_batches=shared)
        trainer: Any = BiasEnsembleTrainer(
            build_members(model_args, CLASS_NAMES, 3, seed=0), args, transform, chosen, train_dataset=split
        )
    else:
        extra = {"selection": selection()} if kind.selector else {}
        trainer = kind.trainer(kind.network(model_args, CLASS_NAMES, 0), args, transform, train_dataset=split, **extra)
    if PROCESSES > 1:
        trainer.accelerator.prepare_model = lambda model, **_: model  # what averages gradients reads their memory
        trainer.accelerator.pad_across_processes = lambda tensor, dim: tensor  # sizes are values; here they are equal
        trainer.accelerator.state.distributed_type = DistributedType.MULTI_GPU
    use_own_progress(trainer)
    return trainer


def selection() -> Selection:
    """Votes of three members."""
    probabilities = np.random.default_rng(0).random((3, SAMPLES)).astype(np.float32)
    return Selection.from_votes(
        probabilities,
        labels=LABELS.numpy(),
        index=np.arange(SAMPLES),
        threshold=0.3,
        agreement=2,
        predicted_labels=LABELS.numpy(),
        agreeing_members=np.full(SAMPLES, 3),
        lowest_probability=probabilities.min(axis=0),
        probabilities=np.full((SAMPLES, len(CLASS_NAMES)), 0.25, dtype=np.float16),
    )


class EachStep(TrainerCallback):
    """Takes the traffic of each whole step, from the end of the one before."""

    def __init__(self, device: fake_device.Device):
        self.device = device
        self.steps: list[fake_device.Traffic] = []
        self.copied_before_first = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.copied_before_first = self.device.traffic.beside

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(self.device.traffic)
        self.device.traffic = fake_device.Traffic()

    def found(self) -> dict:
        steady = self.steps[3:]
        assert len(steady) == 3
        return {
            "copied_before_first": self.copied_before_first,
            "launches": [step.launches.total() for step in steady],
            "uploads": [step.uploads for step in steady],
            "beside": [step.beside for step in steady],
            "waits": [step.waits for step in steady],
            "races": [step.races for step in steady],
        }


if __name__ == "__main__":
    main()
