"""Both networks of a pair on 15,000 images of Coloured MNIST, the size of its validation and test splits together."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import bare
from benchmarks.measuring import Figure, Options, seconds
from benchmarks.trainers import CLASS_NAMES, Setting, load_splits, write_files
from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.data.prepare import image_transform
from hf_biasensemble.evaluation.accuracy import bias_accuracy
from hf_biasensemble.evaluation.classifier import predict_logits
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.pair import BiasedDebiasedPair

IMAGES, BATCH = 15_000, DebiasingArguments.per_device_eval_batch_size


def figures(options: Options) -> Iterator[Figure]:
    """One figure in seconds."""
    setting = Setting()
    transform = image_transform(setting.model_args())
    pair = METHODS["lff_be"].network(setting.model_args(), CLASS_NAMES, 0)
    assert isinstance(pair, BiasedDebiasedPair)
    with options.coloured_mnist() as words, TemporaryDirectory() as folder:
        train = load_splits(words)["train"]
        count = min(options.few(IMAGES, 600), len(train))
        split = train.select(torch.arange(count))
        files = write_files(train, Path(folder) / "images", count)
        labels = train.labels[:count]
        networks = [bare.classifier("mlp") for _ in range(2)]
        assert isinstance(train.pixels, torch.Tensor)
        pixels = train.pixels

        def library() -> None:
            for network in (pair.biased, pair.debiased):
                predictions = predict_logits(network, split, transform, BATCH).argmax(dim=-1)
                bias_accuracy(predictions.numpy(), **split.measured_by())

        def memory() -> None:
            rows = torch.arange(count).split(BATCH)
            bare.evaluate(networks, ((pixels[r].float() / 255 / 255, labels[r], r) for r in rows))

        def opened() -> None:
            bare.evaluate(networks, bare.from_files(bare.Files(files, labels), BATCH, shuffle=False))

        contenders = {
            "loop over PNG files": lambda: seconds(opened),
            "loop over memory": lambda: seconds(memory),
            "library": lambda: seconds(library),
        }
        yield Figure(f"both networks, {count:,} images", "s", contenders, reference="loop over PNG files")
