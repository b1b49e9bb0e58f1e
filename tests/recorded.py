"""A recorded run of the authors' code, laid out for the trainers of the library."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hf_biasensemble.arguments import SelectionArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.methods.disent import DisentArguments
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier, DebiasedImageClassifierConfig
from hf_biasensemble.models.pair import DisentangledPair

FIXTURES = Path(__file__).parent / "fixtures"
TRANSFORM = ImageTransform(image_mean=(0.0,) * 3, image_std=(255.0,) * 3)  # divided by 255 twice


@dataclass
class RecordedRun:
    """One method's part of a trace; `self["weight"]` is the recorded array of that name."""

    method: str
    file: Path = FIXTURES / "cmnist_mlp.npz"

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.file))

    @cached_property
    def recipe(self) -> dict:
        return json.loads(self.file.with_suffix(".json").read_text())[self.method]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[f"{self.method}.{name}"]

    def split(self, name: str) -> ImageSplit:
        images = torch.from_numpy(self.arrays[f"{name}_image"]).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(self.arrays[f"{name}_label"])
        bias_labels = self.arrays[f"{name}_bias_label"]
        names = [str(digit) for digit in range(10)]
        return ImageSplit(images, labels, names, torch.arange(len(labels)), bias_labels, bias_labels != labels.numpy())

    @property
    def num_members(self) -> int:
        return self.recipe["args"]["num_bias_models"]

    def member_order(self) -> torch.Tensor:
        """(members, steps * batch): positions in the training split that each member saw."""
        steps = self.recipe["args"]["biased_model_train_iter"]
        batches = self["batch_index"][: self.num_members * steps]
        return torch.from_numpy(batches).reshape(self.num_members, -1)

    def main_order(self) -> torch.Tensor:
        return torch.from_numpy(self["train_batch_index"]).flatten()

    def classifier(self, seed: int) -> DebiasedImageClassifier:
        """A network with the recorded initial weights."""
        model = DebiasedImageClassifier(DebiasedImageClassifierConfig(num_labels=10))
        recorded_initialisation(list(model.encoder.parameters()) + list(model.classifier.parameters()), seed)
        return model

    def disentangled_pair(self, biased_seed: int, debiased_seed: int) -> DisentangledPair:
        """E_b, C_b and E_i, C_i with the recorded initial weights of f_B and f_D."""
        debiased = DebiasedImageClassifier(DebiasedImageClassifierConfig(num_labels=10, num_encoders=2))
        pair = DisentangledPair(debiased, torch.nn.Linear(32, 10))
        recorded_initialisation([*debiased.encoder.parameters(), *debiased.classifier.parameters()], debiased_seed)
        bias_network = [*debiased.bias_encoder.parameters(), *pair.bias_classifier.parameters()]
        recorded_initialisation(bias_network, biased_seed)
        return pair

    def arguments(self, output_dir: Path, max_steps: int, **changes) -> DisentArguments:
        recipe = self.recipe["args"]
        settings = {
            "method": self.method,
            "output_dir": str(output_dir),
            "max_steps": max_steps,
            "per_device_train_batch_size": self.recipe["batch_size"],
            "learning_rate": recipe["lr"],
            "loss_average_decay": recipe["ema_alpha"],
            "train_sampling_strategy": "sequential",
            "eval_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return DisentArguments(**(settings | changes))

    def selection_arguments(self) -> SelectionArguments:
        recipe = self.recipe["args"]
        return SelectionArguments(
            num_members=self.num_members,
            member_steps=recipe["biased_model_train_iter"],
            member_threshold=recipe["biased_model_softmax_threshold"],
            member_agreement=recipe["agreement"],
            keep_member="best",
            member_eval_steps=recipe["valid_freq"],
        )

    def assert_final_weights(
        self, network: str, encoder: torch.nn.Module, head: torch.nn.Module, tolerance: float
    ) -> float:
        """Compares the recorded rows of each weight with the trained network; gives the largest difference."""
        recorded_names = [name for name in self.arrays if name.startswith(f"{self.method}.final_{network}.")]
        parameters = [*encoder.parameters(), *head.parameters()]
        largest = 0.0
        for name, parameter in zip(recorded_names, parameters, strict=True):
            recorded = self.arrays[name]
            difference = float(np.abs(parameter.detach().numpy()[: len(recorded)] - recorded).max())
            assert difference <= tolerance, f"{name}: {difference}"
            largest = max(largest, difference)
        return largest


def recorded_initialisation(parameters: list[torch.nn.Parameter], seed: int) -> None:
    """uniform(-b, b), b = 1 / sqrt(fan_in), weight and bias in turn, from one numpy generator per network."""
    generator = np.random.RandomState(seed)
    with torch.no_grad():
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            bound = 1 / np.sqrt(weight.shape[1])
            for parameter in (weight, bias):
                drawn = generator.uniform(-bound, bound, tuple(parameter.shape)).astype(np.float32)
                parameter.copy_(torch.from_numpy(drawn))
