"""The most probable classes of new images."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from hf_biasensemble.arguments import InferenceArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.decoding import decode_image
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.evaluation.classifier import finite
from hf_biasensemble.internal.errors import reason_of


def ranked_in(logits: torch.Tensor, names: dict[int, str], top_k: int) -> list[list[tuple[str, float]]]:
    """The `top_k` classes and their probabilities, most probable first, for each row of the logits (B, K)."""
    probabilities, classes = logits.float().softmax(dim=-1).topk(min(top_k, logits.shape[-1]))
    rows = zip(classes.tolist(), probabilities.tolist(), strict=True)
    return [[(names[number], value) for number, value in zip(*row, strict=True)] for row in rows]


def ranked_classes(
    opened: tuple[PreTrainedModel, ImageTransform, Geometry],
    images: Sequence[dict | Image.Image],
    inference: InferenceArguments,
    top_k: int = 1,
) -> Iterator[list[tuple[str, float]] | str]:
    """The `top_k` classes of each image and their probabilities, most probable first, or why it cannot be read.

    `opened` is the result of [`load_classifier`]; images are undecoded records (`bytes` or `path`) or PIL images.
    """
    model, transform, geometry = opened
    inference.placed(model)

    def decode(image: dict | Image.Image) -> np.ndarray | str:
        try:
            return decode_image(image, geometry)
        except Exception as error:  # PIL raises unrelated types for broken files
            return reason_of(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), inference.batch_size):
            decoded = list(pool.map(decode, images[start : start + inference.batch_size]))
            readable = [pixels for pixels in decoded if not isinstance(pixels, str)]
            ranked: Iterator[list[tuple[str, float]]] = iter(())
            if readable:
                pixels = torch.from_numpy(np.stack(readable)).to(inference.device)
                with torch.inference_mode():
                    logits = finite(model(pixel_values=transform(pixels, training=False)).logits)
                ranked = iter(ranked_in(logits, model.config.id2label, top_k))
            yield from (reason if isinstance(reason, str) else next(ranked) for reason in decoded)
