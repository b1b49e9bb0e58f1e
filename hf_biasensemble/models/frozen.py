"""A frozen backbone: images are encoded once, heads trained on the features, and both published together."""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from hf_biasensemble.arguments import DataArguments, ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.decoding import ROWS_AT_ONCE
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_geometry
from hf_biasensemble.data.store.array_store import StoredArray, digest_of, open_or_make
from hf_biasensemble.data.store.features import Features, FeatureTransform, mean_and_std
from hf_biasensemble.data.store.making import Store
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import number_started
from hf_biasensemble.internal.seeding import build_with_seed, derived_seed
from hf_biasensemble.models.backbones import from_scratch
from hf_biasensemble.models.build import backbone_alone, classifier_config
from hf_biasensemble.models.early_layers import EarlyAndFinal
from hf_biasensemble.models.modeling_debiased import FEATURES, DebiasedImageClassifier

FORMAT_VERSION = 3
VALUES_AT_ONCE = 2**19
"""Input values in a batch on the CPU: three images of 224 pixels. Layer outputs stay below 32 MB, beyond which the C
library returns memory to the system at once: with 64 images, page faults took more time than the computation."""
LIBRARIES = ("timm", "torch", "transformers")
"""Libraries whose version affects the features."""


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """A pretrained backbone, with everything that its features depend on.

    Attributes:
        model_args: Architecture, and how images are resized.
        transform: From decoded images to network input; its augmentation makes the further views of training images.
        network: From normalised images to features (B, D), the final ones first.
    """

    model_args: ModelArguments
    transform: ImageTransform
    network: EarlyAndFinal

    @classmethod
    def of(cls, model_args: ModelArguments, transform: ImageTransform) -> "FrozenBackbone":
        """The backbone that the arguments name, with its weights."""
        size = image_geometry(model_args).image_size
        return cls(model_args, transform, EarlyAndFinal(backbone_alone(model_args), size))

    @cached_property
    def identity(self) -> dict[str, str]:
        """Everything that features of images without augmentation depend on, as text."""
        config = classifier_config(self.model_args, [])
        normalisation = {name: getattr(self.transform, name) for name in ("image_mean", "image_std", "image_size")}
        geometry = vars(image_geometry(self.model_args))
        return {
            "architecture": f"{config.backbone} {json.dumps(config.timm_arguments(), sort_keys=True)}",
            "weights": hash_of_weights(self.network.backbone.state_dict()),
            "preprocessing": json.dumps(geometry | normalisation, sort_keys=True),
            "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        }

    def views_of_training_images(self, seed: int) -> dict[str, Any]:
        """Everything that augmented views of training images depend on."""
        count = self.model_args.feature_views if self.transform.augments else 0
        if count == 0:
            return {"views": 0}
        names = ("augmentation", "color_jitter", "crop_padding", "horizontal_flip")
        return {"views": count, **{name: getattr(self.transform, name) for name in names}, "seed": seed}

    @property
    def kinds(self) -> list[str]:
        """Kinds of features: `"final"` and, if the backbone exposes its layers, `"early"`."""
        return ["final", "early"] if self.network.early_width else ["final"]

    def heads(self, kind: str = "final") -> ModelArguments:
        """The arguments of networks on features of this kind; on early ones, heads are linear."""
        columns = self.network.columns(kind)
        hidden = self.model_args.head_hidden if self.model_args.head == "mlp" and kind == "final" else None
        widths = json.dumps({"width": columns.stop - columns.start, "hidden": hidden})
        own = {"backbone": FEATURES, "backbone_args": widths, "crop_padding": 0, "horizontal_flip": False}
        return from_scratch(self.model_args, **own)

    def encode(
        self, splits: dict[str, ImageSplit], data_args: DataArguments, device: torch.device
    ) -> dict[str, dict[str, ImageSplit]]:
        """The splits, including `train`, with features instead of pixels, for each of `kinds`.

        Views are drawn with `split_seed` instead of the seed of the run, so runs with other seeds reuse them.
        """
        stored: dict[int, StoredArray] = {}
        for name in sorted(splits, key=lambda name: name != "train"):  # splits cut from train share its pixels
            pixels: Any = splits[name].pixels
            if id(pixels) not in stored:
                stored[id(pixels)] = self.features_of(
                    pixels, name == "train", data_args.split_seed, device, name, data_args.verify_pixels
                )
        limit = data_args.pixel_memory_bytes() if number_started() == 1 else 0
        train, encoded = splits["train"], {}
        fingerprint = train.fingerprint
        for kind in self.kinds:
            columns = self.network.columns(kind)
            values = {key: array.part(columns, 2 * array.shape.numel() <= limit) for key, array in stored.items()}
            mean, std = mean_and_std(values[id(train.pixels)], train.rows)
            features = {key: Features(part, mean, std) for key, part in values.items()}
            encoded[kind] = {
                name: replace(split, pixels=features[id(split.pixels)], source_fingerprint=fingerprint)
                for name, split in splits.items()
            }
        return encoded

    def features_of(
        self,
        pixels: torch.Tensor | StoredArray,
        training: bool,
        seed: int,
        device: torch.device,
        title: str = "",
        verify: bool = False,
    ) -> StoredArray:
        """Features (N, 1 + V, D), float16, of all images of a split (N, 3, S, S), uint8, cached on disk.

        Training images have V augmented views, drawn with `seed`. Processes share the encoding, and what a killed one
        has encoded is kept. Messages call the images `title`; `verify` refuses damaged features.
        """
        views = self.views_of_training_images(seed) if training else {"views": 0}
        name = self.name_of_features(pixels, views)
        shape = (len(pixels), 1 + views["views"], self.network.width + self.network.early_width)
        blocks = partial(self._encoded, pixels, views["views"], seed, device)
        return open_or_make(Store("features", name, shape, np.dtype(np.float16), blocks, title), verify)[0]

    def name_of_features(self, pixels: torch.Tensor | StoredArray, views: dict[str, Any]) -> str:
        """A hash of everything that features of these images depend on."""
        depends_on = [FORMAT_VERSION, digest_of(pixels), self.identity, views]
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:40]

    @torch.inference_mode()
    def _encoded(
        self,
        pixels: torch.Tensor | StoredArray,
        views: int,
        seed: int,
        device: torch.device,
        rows_of_part: range,
        notes: dict[str, Any],
    ) -> Iterator[np.ndarray]:
        """Features of these rows, in blocks, each with its own seed of the random views."""
        # Two to three times as fast on the CPU in this memory format.
        encoder = self.network.to(device).to(memory_format=torch.channels_last)

        def encode(images: torch.Tensor) -> torch.Tensor:
            together = max(1, VALUES_AT_ONCE // images[0].numel()) if device.type == "cpu" else len(images)
            parts = images.split(together)
            return torch.cat([encoder(part.contiguous(memory_format=torch.channels_last)) for part in parts])

        for start in rows_of_part[::ROWS_AT_ONCE]:
            rows = torch.arange(start, min(start + ROWS_AT_ONCE, rows_of_part.stop))
            images = pixels.index_select(0, rows).to(device)
            encoded = [encode(self.transform(images, training=False))]
            for view in range(1, 1 + views):
                block = derived_seed(seed, "feature views", start * (1 + views) + view)
                encoded.append(encode(build_with_seed(block, partial(self.transform, images, training=True))))
            features = torch.stack(encoded, dim=1).to(torch.float16)
            if not features.isfinite().all():
                raise BiasEnsembleError(
                    f"{self.model_args.backbone}: expected finite features below 65,504, found others; its weights "
                    "may be damaged, or --image_mean and --image_std differ from those of its training"
                )
            yield features.cpu().numpy()

    def with_head(self, head: DebiasedImageClassifier, transform: FeatureTransform) -> DebiasedImageClassifier:
        """The backbone and a classifier of its features as one classifier of images. The first layer after the
        backbone also standardises features as `transform` does."""
        names = [head.config.id2label[number] for number in range(head.config.num_labels)]
        config = classifier_config(self.model_args, names, head.config.num_encoders)
        if self.model_args.head == "mlp":
            config.head_hidden = self.model_args.head_hidden
        model = build_with_seed(0, lambda: DebiasedImageClassifier(config))
        head = head_of_vectors(head, transform)
        model.classifier.load_state_dict(head.classifier.state_dict())
        weights = self.network.backbone.state_dict()
        encoder: Any
        for encoder, layer in zip(model.encoders(), head.encoders(), strict=True):
            if config.head_hidden is None:
                encoder.load_state_dict(weights)
            else:
                encoder.backbone.load_state_dict(weights)
                encoder.layer.load_state_dict(layer.state_dict())
        return model.eval()


@torch.no_grad()
def head_of_vectors(head: DebiasedImageClassifier, transform: FeatureTransform) -> DebiasedImageClassifier:
    """The same classifier for vectors that are not standardised: its first layer does that, too."""
    model: Any = copy.deepcopy(head).cpu()
    hidden = [encoder.linear for encoder in model.encoders() if encoder.linear is not None]
    mean, std = (values.double().cpu() for values in (transform.mean, transform.std))
    for layer in hidden or [model.classifier]:
        weight = layer.weight.double().cpu() / std
        layer.bias.copy_(layer.bias.double().cpu() - weight @ mean)
        layer.weight.copy_(weight)
    return model.eval()


def hash_of_weights(tensors: dict[str, torch.Tensor]) -> str:
    """A hash of names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
