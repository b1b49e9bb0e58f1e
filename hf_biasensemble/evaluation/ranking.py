"""The most probable classes of new images, by a published classifier."""

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


def ranked_in(logits: torch.Tensor, names: dict[int, str], top_k: int) -> list[list[tuple[str, float]]]:
    """The `top_k` classes with their probabilities, most probable first, of each row of the logits (B, K)."""
    found = logits.float().softmax(dim=-1).topk(min(top_k, logits.shape[-1]))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [[(names[n], value) for n, value in zip(*pair, strict=True)] for pair in pairs]


def ranked_classes(
    opened: tuple[PreTrainedModel, ImageTransform, Geometry],
    images: Sequence[dict | Image.Image],
    inference: InferenceArguments,
    top_k: int = 1,
) -> Iterator[list[tuple[str, float]] | str]:
    """The classes of each image with their probabilities, most probable first; or why the image cannot be read.

    Args:
        opened (`tuple`): What [`load_classifier`] gives.
        images (`Sequence[dict | Image.Image]`): Undecoded records (`bytes` or `path`), or images of PIL.
        inference (`InferenceArguments`): Device, precision and batch size.
        top_k (`int`, *optional*, defaults to 1): Classes per image; at most as many as there are.
    """
    model, transform, geometry = opened
    inference.placed(model)

    def decode(image: dict | Image.Image) -> np.ndarray | str:
        try:
            return decode_image(image, geometry)
        except Exception as error:  # PIL raises a dozen types for broken files
            return " ".join(str(error).split()) or type(error).__name__

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
