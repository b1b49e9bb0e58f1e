"""The settings and data of a run, checked against each other before anything is written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_biasensemble.arguments import (
    DataArguments,
    DebiasingArguments,
    ModelArguments,
    resolved,
    settle_steps,
    settled_network,
    settled_selection,
)
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import (
    check_fingerprint,
    image_geometry,
    load_training_splits,
    stated_aligned_bias,
)
from hf_biasensemble.folders.output_folder import CONFIG_FILE, check_same_run
from hf_biasensemble.internal.files import write_text
from hf_biasensemble.models.inputs import Inputs, with_width
from hf_biasensemble.models.preprocessing import with_preprocessing


@dataclass(frozen=True, eq=False)
class Prepared:
    """Settings, completed from backbone and data, and decoded splits."""

    method: Method
    data_args: DataArguments
    model_args: ModelArguments
    selection_args: Any  # None without a selector
    args: DebiasingArguments
    splits: dict[str, ImageSplit]  # including "train"
    settings: dict[str, Any]  # the content of config.yaml

    @classmethod
    def of(
        cls,
        method: Method,
        data_args: DataArguments,
        model_args: ModelArguments,
        selection_args: Any,
        args: DebiasingArguments,
        load: Callable[[ModelArguments], dict[str, ImageSplit]] | None = None,
    ) -> "Prepared":
        """Completes the settings and loads the splits: those of `data_args`, unless `load` gives others."""
        model_args = with_preprocessing(settled_network(model_args, data_args, args))
        selection_args = settled_selection(selection_args, model_args, args)
        splits = load(model_args) if load else load_training_splits(data_args, image_geometry(model_args))
        model_args = with_width(model_args, splits)
        settings = resolved(data_args, model_args, selection_args, args, hidden=method.hidden)
        settings["train_fingerprint"] = check_fingerprint(splits["train"], data_args)
        settings["reading"] = [line.strip() for line in splits["train"].reading[1:]] or None
        settings["aligned_bias"] = stated_aligned_bias(splits["train"], data_args)
        return cls(method, data_args, model_args, selection_args, args, splits, settings)

    @property
    def member_features(self) -> str:
        """The features that members see of a pretrained backbone, `"early"` or `"final"`."""
        return getattr(self.selection_args, "member_features", "final")

    def settle_steps(self, checkpoint: Path | None = None) -> None:
        """Sets steps and schedule in `args`; refuses to resume a run with other settings."""
        before: dict[str, Any] = {}
        if self.args.resume_from_checkpoint:
            before = check_same_run(checkpoint.parent if checkpoint else Path(self.args.output_dir), self.settings)
        settle_steps(self.args, len(self.splits["train"]), before)
        self.settings["schedule_steps"] = self.args.schedule_steps

    def write_settings(self, folder: Path) -> None:
        """Writes `config.yaml`."""
        write_text(folder / CONFIG_FILE, yaml.safe_dump(self.settings, sort_keys=False))

    def inputs(self) -> Inputs:
        """The inputs of the networks; encodes the images if the backbone is frozen."""
        return Inputs.of_run(self.model_args, self.data_args, self.args, self.splits, self.member_features)
