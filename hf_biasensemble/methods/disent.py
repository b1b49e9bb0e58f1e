"""DisEnt: disentangled features, exchanged between images."""

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.methods import lff
from hf_biasensemble.models.build import disentangled
from hf_biasensemble.trainers.disent import DisentArguments, DisentTrainer

_CITATION = """\
@inproceedings{lee2021learning,
  title     = {Learning Debiased Representation via Disentangled Feature Augmentation},
  author    = {Lee, Jungsoo and Kim, Eungyeup and Lee, Juyoung and Lee, Jihyeon and Choo, Jaegul},
  booktitle = {NeurIPS},
  year      = {2021}
}"""


def about(biased_set: str) -> str:
    """The card's words, with what the bias encoder learns from."""
    return (
        "DisEnt ([Lee et al., 2021](https://huggingface.co/papers/2107.01372)): one encoder is to see what makes the "
        f"class, the other what merely goes with it. The second learns from {biased_set}; the first learns most from "
        "the images that are hard for the second. Later the second encoder's features are exchanged between images, "
        "so that the classifier meets classes together with attributes that they rarely come with. Both encoders are "
        "part of the published model."
    )


METHOD = Method(
    name="disent",
    title="DisEnt",
    trainer=DisentTrainer,
    arguments=DisentArguments,
    network=disentangled,
    unused=frozenset({"conflicting_share"}),
    baseline="erm",
    about=about(lff.EASY_IMAGES),
    citations=(*lff.METHOD.citations, _CITATION),  # DisEnt weighs images as LfF does
)
