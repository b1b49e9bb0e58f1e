"""Saves the trained members of BiasEnsemble, which can then judge images of any dataset."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_geometry
from hf_biasensemble.data.store.features import Features, FeatureTransform
from hf_biasensemble.evaluation.classifier import check_input, in_blocks, predict_logits
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.internal.seeding import build_with_seed
from hf_biasensemble.judging.pseudo_groups import PseudoGroups
from hf_biasensemble.models.backbones import from_scratch, source_of
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.early_layers import EarlyAndFinal
from hf_biasensemble.models.frozen import FrozenBackbone, hash_of_weights
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier, build_encoder
from hf_biasensemble.models.pair import MemberEnsemble

FILE_NAME = "members.safetensors"
FORMAT_VERSION = 2
_METADATA_KEY = "hf_biasensemble"


@dataclass(frozen=True, eq=False)
class Members:
    """Trained members with their preprocessing and frozen backbone, if any."""

    networks: MemberEnsemble  # with cross-fitting, two networks per member
    network_args: ModelArguments
    transform: ImageTransform | FeatureTransform  # of images, or of the backbone's features
    class_names: list[str]
    train_fingerprint: str
    backbone: FrozenBackbone | None = None
    features: str = "final"  # of the backbone: "final" or "early"

    @property
    def image_args(self) -> ModelArguments:
        """Arguments of the network that takes images."""
        return self.network_args if self.backbone is None else self.backbone.model_args

    @property
    def geometry(self) -> Geometry:
        """How images are resized and cropped for the members."""
        return image_geometry(self.image_args)

    @cached_property
    def digest(self) -> str:
        """Hash of all weights."""
        return hash_of_weights(self._tensors())

    def to(self, device: torch.device) -> "Members":
        """Moves the members to the device and returns them."""
        self.networks.to(device)
        if self.backbone is not None:
            self.backbone.network.to(device)
        return self

    def groups_of(self, split: ImageSplit, batch_size: int = 512) -> PseudoGroups:
        """Pseudo-groups of a split that no member was trained on, decoded with the members' `geometry` or encoded by
        their frozen backbone."""
        if split.class_names != self.class_names:
            raise BiasEnsembleError(
                f"expected images of the members' classes {', '.join(self.class_names)}, found "
                f"{', '.join(split.class_names)}"
            )
        network: nn.Module = self.networks
        transform = self.transform
        if self.backbone is not None and isinstance(transform, FeatureTransform):
            if not isinstance(split.pixels, Features):
                network, transform = _OnImages(self, transform), self.backbone.transform
        check_input(split, transform)
        groups = []
        for part in in_blocks(split, len(self.networks.members) * len(self.class_names), batch_size):
            probabilities = predict_logits(network, part, transform, batch_size).softmax(dim=-1).mean(dim=1)
            labels = part.labels[part.rows].numpy()
            groups.append(PseudoGroups.from_probabilities(probabilities.cpu().numpy(), labels, self.digest))
        return PseudoGroups.joined(groups, self.digest)

    def save(self, folder: str | Path) -> Path:
        """Writes `members.safetensors` into the folder, complete or not at all."""
        images = self.transform if self.backbone is None else self.backbone.transform
        stated = {
            "format_version": FORMAT_VERSION,
            "network_args": _portable(self.network_args),
            "image_args": _portable(self.image_args),
            "image_mean": getattr(images, "image_mean", None),  # None for vectors
            "image_std": getattr(images, "image_std", None),
            "class_names": self.class_names,
            "num_networks": len(self.networks.members),
            "train_fingerprint": self.train_fingerprint,
            "features": self.features,
        }
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._tensors().items()}
        path = Path(folder) / FILE_NAME
        with written_whole(path) as file:
            save_file(tensors, file, {_METADATA_KEY: json.dumps(stated)})
        return path

    @classmethod
    def load(cls, place: str | Path) -> "Members":
        """Loads members from the folder of a run or of its selection, or from the Hub id of a model pushed with its
        selection."""
        file = _file_in(str(place))
        try:
            with safe_open(file, framework="pt") as stored:
                stated = json.loads(stored.metadata()[_METADATA_KEY])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}
            return build_with_seed(0, partial(cls._from, stated, tensors))  # leaves training's random state alone
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise BiasEnsembleError(
                f"{file}: expected the members of BiasEnsemble, found a file that cannot be read "
                f"({reason_of(error, 200)}); remove the selection and run again"
            ) from error

    @classmethod
    def _from(cls, stated: dict[str, Any], tensors: dict[str, torch.Tensor]) -> "Members":
        if stated["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {stated['format_version']}, not {FORMAT_VERSION}")
        network_args, image_args = (ModelArguments(**stated[name]) for name in ("network_args", "image_args"))
        config = classifier_config(network_args, stated["class_names"])
        networks = MemberEnsemble([DebiasedImageClassifier(config) for _ in range(stated["num_networks"])])
        networks.load_state_dict(_below("networks.", tensors))
        features = FeatureTransform(tensors["mean"], tensors["std"]) if "mean" in tensors else None
        backbone = None
        if stated["image_mean"] is not None:
            size = image_geometry(image_args).image_size
            images = ImageTransform(tuple(stated["image_mean"]), tuple(stated["image_std"]), image_size=size)
            if features is not None:
                network = build_encoder(classifier_config(image_args, stated["class_names"]))
                network.load_state_dict(_below("backbone.", tensors))
                backbone = FrozenBackbone(image_args, images, EarlyAndFinal(network, size))
        return cls(
            networks.eval(),
            network_args,
            features or images,
            stated["class_names"],
            stated["train_fingerprint"],
            backbone,
            stated["features"],
        )

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"networks.{name}": value for name, value in self.networks.state_dict().items()}
        if self.backbone is not None:
            weights = self.backbone.network.backbone.state_dict()
            tensors |= {f"backbone.{name}": value for name, value in weights.items()}
        if isinstance(self.transform, FeatureTransform):
            tensors |= {"mean": self.transform.mean, "std": self.transform.std}
        return tensors


class _OnImages(nn.Module):
    """Members on top of their frozen backbone, with features rounded to float16, as stored ones are."""

    def __init__(self, members: Members, standardise: FeatureTransform):
        super().__init__()
        assert members.backbone is not None
        self.backbone, self.networks, self.standardise = members.backbone.network, members.networks, standardise
        self.columns = self.backbone.columns(members.features)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.backbone(pixel_values).to(torch.float16)[:, self.columns]
        return self.networks(pixel_values=self.standardise.normalise(features))


def _file_in(place: str) -> Path:
    """Finds the members' file in a folder or Hub repository."""
    folder = Path(place).expanduser()
    for path in (folder / FILE_NAME, folder / "selection" / FILE_NAME):
        if path.exists():
            return path
    missing = f"{place}: expected a run with BiasEnsemble, or its selection folder, found no {FILE_NAME} there"
    if folder.exists():
        raise BiasEnsembleError(f"{missing}; selections of version 0.1 have none: remove the selection and run again")
    try:
        return Path(hf_hub_download(place, f"selection/{FILE_NAME}"))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise BiasEnsembleError(
            f"{missing}, nor on the Hub ({reason_of(error, 200)}); push with --with_selection to include them"
        ) from error


def _portable(model_args: ModelArguments) -> dict[str, Any]:
    """The arguments without the source of the weights, which the file contains itself."""
    source = source_of(model_args)
    arguments = json.dumps(source.arguments)
    return asdict(from_scratch(model_args, backbone=source.architecture, backbone_args=arguments))


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
