"""A finished run as an object: its model, results, selection and estimates."""

import contextlib
import html
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from hf_biasensemble.arguments import DataArguments, InferenceArguments
from hf_biasensemble.arguments.data import IN_MEMORY
from hf_biasensemble.data.decoding import upright_image
from hf_biasensemble.data.loading import load_splits
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.evaluation.ranking import ranked_classes, ranked_in
from hf_biasensemble.folders.hub import push_model
from hf_biasensemble.folders.output_folder import AUDIT_FILES, CONFIG_FILE, RESULTS_FILE, settings_in
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.backbones import without_bar
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.reporting.audit.audit import suspicion_order
from hf_biasensemble.reporting.audit.audit_page import thumbnail
from hf_biasensemble.selection import FILE_NAME, Selection

_NO_ESTIMATES = "no estimates: no members judge this run; pass a run with members as judge=, or call judge"


class Estimates(dict[str, Any]):
    """Accuracy estimated without bias labels. `print` shows it in words.

    For a run, a dict from group (`"conflicting"`, `"aligned"`, `"unbiased"`) to the accuracy, both ends of its 95%
    interval and the number of images; empty if it cannot be estimated. For [`judge`], see [`judgement_table`].
    """

    def __init__(self, values: dict[str, Any], text: str):
        super().__init__(values)
        self.text = text

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


class Run:
    """A finished training run or audit. A notebook displays its results and flagged images.

    Args:
        folder (`str` or `Path`): The output folder.
        data_args (`DataArguments`, *optional*): Its dataset. Defaults to the one in its `config.yaml`.

    Raises:
        `BiasEnsembleError`: If the folder holds no run.
    """

    def __init__(self, folder: str | Path, data_args: DataArguments | None = None):
        self.folder = Path(folder)
        self._data_args = data_args
        if not any((self.folder / name).exists() for name in (RESULTS_FILE, f"selection/{FILE_NAME}")):
            raise BiasEnsembleError(
                f"Run: expected the output folder of a finished run, found no {RESULTS_FILE} in {self.folder}"
            )

    @cached_property
    def model(self) -> PreTrainedModel:
        """The published classifier, in evaluation mode."""
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[Any, Any, Any]:
        with without_bar():
            return load_classifier(str(self.folder), None)

    @cached_property
    def results(self) -> dict[str, Any]:
        """The content of `all_results.json`; empty for an audit."""
        file = self.folder / RESULTS_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    @cached_property
    def selection(self) -> Selection | None:
        """The votes on the training images; `None` if the method needs none."""
        folder = self.folder / "selection"
        return Selection.load(folder) if (folder / FILE_NAME).exists() else None

    @property
    def estimates(self) -> Estimates:
        """Accuracy on held-out images, estimated without bias labels."""
        intervals = self.results.get("validation_estimated_intervals", {})
        values = {
            name.removeprefix("estimated_").removesuffix("_accuracy"): [self.results[f"validation_{name}"], *interval]
            for name, interval in intervals.items()
        }
        return Estimates(values, self.results.get("validation_judgement", _NO_ESTIMATES))

    def predict(
        self, images: Any, top_k: int = 1, batch_size: int = 64, use_cpu: bool = False
    ) -> dict[str, Any] | list[Any]:
        """Predicts the classes of images with the published model.

        Args:
            images: One image or a sequence of them: PIL images, paths, or uint8 arrays (H, W) or (H, W, 3). For a
                classifier of vectors, one vector (D,) or several (N, D).
            top_k (`int`, *optional*, defaults to 1): Number of classes per image.
            batch_size (`int`, *optional*, defaults to 64): Images per batch.
            use_cpu (`bool`, *optional*, defaults to `False`): Use the CPU even if there is a GPU.

        Returns:
            `{"label": ..., "score": ...}` per image, as from an image-classification pipeline: a list of `top_k` of
            them if that is more than one, and no list of images for a single one.

        Raises:
            `BiasEnsembleError`: If an image cannot be read.
        """
        inference = InferenceArguments(batch_size, use_cpu)
        model, transform, _ = self._opened
        if isinstance(transform, FeatureTransform):
            vectors = _vectors(images, model.config.backbone_args["width"])
            with torch.inference_mode():
                logits = inference.placed(model)(pixel_values=torch.atleast_2d(vectors).to(inference.device)).logits
            return _scored(ranked_in(logits, model.config.id2label, top_k), top_k, vectors.ndim == 1)
        images = images.numpy() if isinstance(images, torch.Tensor) else images
        is_array = isinstance(images, np.ndarray)
        single = images.ndim < 4 if is_array else isinstance(images, str) or not hasattr(images, "__len__")
        given: Sequence[Any] = [images] if single else images
        records = [_record(image, number) for number, image in enumerate(given)]
        answers: list[Any] = []
        for number, ranked in enumerate(ranked_classes(self._opened, records, inference, top_k)):
            if isinstance(ranked, str):
                what = given[number] if isinstance(given[number], (str, Path)) else f"number {number}"
                raise BiasEnsembleError(f"predict: expected an image, found an unreadable one: {what} ({ranked})")
            answers.append(ranked)
        return _scored(answers, top_k, single)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads model, card, results and figures in one commit. See [`push_model`] for the options.

        Args:
            repo_id (`str`): Repository, such as `"me/birds"`; created if missing.

        Returns:
            `str`: URL of the commit.
        """
        return push_model(self.folder, repo_id, **options)

    def flagged_images(self, count: int = 12) -> list[tuple[int, Image.Image, str]]:
        """The training images that contradict the shortcut most: row of the training split, image, class.

        Args:
            count (`int`, *optional*, defaults to 12): Maximum number of images.

        Returns:
            `list`: Empty without a selection, or if the dataset was in memory and is no longer available.

        Raises:
            `BiasEnsembleError`: If the dataset cannot be read or has fewer rows than during training.
        """
        selection = self.selection
        if selection is None or (data_args := self._data_args or self._stated_data()) is None:
            return []
        with contextlib.redirect_stdout(io.StringIO()):  # training has printed how the data are read
            train = load_splits(data_args)["train"]
        if train.images is None:
            return []
        if selection.index.max() >= len(train.labels):
            raise BiasEnsembleError(
                f"{data_args.dataset_name}: expected the training images of {self.folder}, found only "
                f"{len(train.labels):,}; the dataset has changed"
            )
        order = suspicion_order(selection)
        rows = selection.index[order[~selection.is_selected[order]]][:count].tolist()
        return [
            (row, upright_image(train.images[row]["image"]), train.class_names[int(train.labels[row])]) for row in rows
        ]

    def _stated_data(self) -> DataArguments | None:
        settings = settings_in(self.folder) if (self.folder / CONFIG_FILE).exists() else {}
        if settings.get("dataset_name") in (None, IN_MEMORY):
            return None
        names = [field.name for field in fields(DataArguments) if field.name in settings]  # older versions had fewer
        return DataArguments(**{name: settings[name] for name in names})

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __fspath__(self) -> str:
        return str(self.folder)

    def _repr_html_(self) -> str:
        """Renders a table of accuracies, the estimates and the flagged images."""
        splits = [name for name in ("validation", "test") if f"{name}_accuracy" in self.results]
        metrics = [metric for metric in METRICS if any(f"{split}_{metric}" in self.results for split in splits)]
        rows = [["", *(metric.replace("_", " ") for metric in metrics)]]
        for split in splits:
            values = (self.results.get(f"{split}_{metric}") for metric in metrics)
            rows.append([split, *("" if value is None else f"{100 * value:.1f}" for value in values)])
        table = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        parts = [f"<b>{html.escape(str(self.folder))}</b>", f"<table>{table}</table>" if splits else ""]
        parts.append(f"<p>{html.escape(self.estimates.text)}</p>" if self.results else "")
        try:
            flagged = self.flagged_images()
        except (BiasEnsembleError, OSError):  # the data may have moved
            flagged = []
        figures = (
            f'<figure style="display:inline-block;margin:4px"><img src="data:image/webp;base64,{thumbnail(image)}">'
            f"<figcaption>{row}: {html.escape(name)}</figcaption></figure>"
            for row, image, name in flagged
        )
        parts.append("<p>Flagged most: row and class</p>" + "".join(figures) if flagged else "")
        page = self.folder / AUDIT_FILES[0]
        parts.append(f"<p>{html.escape(str(page))}</p>" if page.exists() else "")
        return "".join(parts)


def _scored(ranked: list[list[tuple[str, float]]], top_k: int, single: bool) -> Any:
    scored = [[{"label": label, "score": probability} for label, probability in row] for row in ranked]
    answers = [row[0] if top_k == 1 else row for row in scored]
    return answers[0] if single else answers


def _vectors(given: Any, width: int) -> torch.Tensor:
    """Converts one vector (D,) or several (N, D) to float32."""
    try:
        vectors = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BiasEnsembleError(
            f"predict: expected vectors of {width} numbers, found {type(given).__name__}"
        ) from error
    if vectors.ndim not in (1, 2) or vectors.shape[-1] != width:
        raise BiasEnsembleError(f"predict: expected vectors of {width} numbers, found the shape {vectors.shape}")
    return torch.from_numpy(vectors)


def _record(image: Any, number: int) -> dict | Image.Image:
    """A record of the image's path, or a PIL image."""
    if isinstance(image, (str, Path)):
        return {"bytes": None, "path": str(image)}
    if isinstance(image, Image.Image):
        return image
    try:
        return Image.fromarray(np.asarray(image))
    except (TypeError, ValueError) as error:
        raise BiasEnsembleError(
            f"predict: expected images of PIL, paths or uint8 arrays (H, W, 3), found {type(image).__name__} "
            f"{getattr(image, 'dtype', '')} {getattr(image, 'shape', '')} at place {number}"
        ) from error
