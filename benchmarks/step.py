"""A training step of each method: the library's trainers against bare PyTorch loops over the same tensors."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch

from benchmarks import bare
from benchmarks.measuring import Figure, Options, seconds
from benchmarks.trainers import Setting, amplified_set, random_split, seconds_per_step
from hf_biasensemble.data.pixels import ImageSplit

MLP = Setting()
RESNET18 = Setting(backbone="resnet18", image_size=64, batch_size=64, image_scale=1.0)
MEMBERS = 5


def figures(options: Options) -> Iterator[Figure]:
    """One figure for each method and network."""
    torch.manual_seed(0)
    for setting, samples, steps in ((MLP, 55_000, 300), (RESNET18, 5_000, 6)):
        split = random_split(options.few(samples, 600), setting.image_size)
        steps = options.few(steps)
        for method in ("erm", "lff_be", "disent_be", "members"):
            name = f"{method}, {setting.backbone} at {setting.image_size} px, batch {setting.batch_size}"
            contenders: dict[str, Callable] = {
                "bare loop": _bare(method, split, setting, steps),
                "trainer": lambda method=method, split=split, setting=setting, steps=steps: (
                    1000 * seconds_per_step(method, split, setting, steps)
                ),
            }
            if (method, setting) == ("lff_be", MLP):
                contenders["bare loop, default Adam"] = _bare(method, split, setting, steps, fused=None)
            yield Figure(name, "ms/step", contenders, reference="bare loop")


def _bare(
    method: str, split: ImageSplit, setting: Setting, steps: int, fused: bool | None = True
) -> Callable[[], float]:
    """Milliseconds per step of the bare loop."""
    pixels, labels = split.pixels, split.labels
    assert isinstance(pixels, torch.Tensor)
    amplified = amplified_set(len(labels))

    def work() -> float:
        batches = bare.from_memory(pixels, labels, setting.batch_size, setting.image_scale)
        some = islice(batches, steps * (MEMBERS if method == "members" else 1))
        loops: dict[str, Callable[[], None]] = {
            "erm": lambda: bare.erm(some, setting.backbone),
            "lff_be": lambda: bare.lff_be(some, setting.backbone, labels, amplified, fused),
            "disent_be": lambda: bare.disent_be(some, setting.backbone, labels, amplified),
            "members": lambda: bare.members(some, setting.backbone, MEMBERS),
        }
        return 1000 * seconds(loops[method]) / steps

    return work
