"""A new classifier that starts from the weights of a published one."""

import torch

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.backbones import weights_of
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier


def start_from(model: DebiasedImageClassifier, name: str, part: str = "whole") -> None:
    """Copies weights into the model.

    Args:
        model (`DebiasedImageClassifier`): The classifier to fill.
        name (`str`): Folder or Hub id of a published classifier of the same architecture.
        part (`str`, *optional*, defaults to `"whole"`): `"whole"`, `"encoder"` (the head keeps its weights) or
            `"head"`. With the head, the classes must be the same, in the same order.

    Raises:
        `BiasEnsembleError`: If there is no such classifier, or it has other weights or classes.
    """
    where = f"--init_from {name}"
    try:
        source, _, _ = load_classifier(name)
    except BiasEnsembleError as error:
        raise BiasEnsembleError(str(error).replace("--model", "--init_from", 1)) from error
    theirs = [source.config.id2label[number] for number in range(source.config.num_labels)]
    ours = [model.config.id2label[number] for number in range(model.config.num_labels)]
    if part != "encoder" and theirs != ours:
        raise BiasEnsembleError(
            f"{where}: expected the classes {', '.join(ours[:10])}, found {', '.join(theirs[:10])}; use "
            "--init_part encoder for a new head"
        )
    found = weights_of(source, model.config.backbone_args or {})
    wanted = {key: value for key, value in model.state_dict().items() if _is_wanted(key, part)}
    misfits = [key for key, value in wanted.items() if key not in found or found[key].shape != value.shape]
    surplus = [key for key in found if _is_wanted(key, part) and key not in wanted]
    if misfits or surplus:
        kind = source.config.model_type
        architecture = getattr(source.config, "architecture", None) or getattr(source.config, "backbone", kind)
        raise BiasEnsembleError(
            f"{where}: expected the weights of {model.config.backbone} with {model.config.num_encoders} encoder(s), "
            f"found {len(misfits)} missing or of another shape and {len(surplus)} unknown ({architecture}, for "
            f"instance {(misfits + surplus)[0]}); use the --backbone of that model and a method with as many encoders"
        )
    with torch.no_grad():
        for key, value in wanted.items():
            value.copy_(found[key])


def _is_wanted(key: str, part: str) -> bool:
    return part == "whole" or key.startswith("classifier.") == (part == "head")
