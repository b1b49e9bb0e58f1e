"""Short model cards, for classifiers that were saved without a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import PreTrainedModel

from hf_biasensemble.folders.output_folder import CARD_FILE, REPOSITORY_PLACEHOLDER
from hf_biasensemble.internal.files import write_text
from hf_biasensemble.reporting.card.markdown import as_text, markdown_table


def write_draft(
    folder: str | Path,
    model: PreTrainedModel,
    trainer: str,
    evaluation: Mapping[str, float],
    model_name: str | None = None,
    **metadata: Any,
) -> Path:
    """Writes the card of a classifier that [`~EvaluatingTrainer.save_model`] saved, with the metrics of `evaluation`.

    Args:
        model_name: Title; by default the name of the folder.
        metadata: Further fields of `huggingface_hub.ModelCardData`; `tags` are added to the usual ones.
    """
    names = ", ".join(as_text(str(name)) for name in model.config.id2label.values())
    about = f"An image classifier trained with `{trainer}` of hf_biasensemble. Classes: {names}."
    if evaluation:
        rows = [(metric, f"{value:.4g}") for metric, value in evaluation.items()]
        about += "\n\n" + markdown_table([("metric", "value"), *rows])
    return write_short_card(folder, model_name or Path(folder).resolve().name, about, **metadata)


def write_short_card(
    folder: str | Path,
    title: str,
    about: str,
    details: str = "",
    repository: str = REPOSITORY_PLACEHOLDER,
    **metadata: Any,
) -> Path:
    """Writes a card with `about`, an example that loads `repository`, and `details`, all Markdown but the title."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    remote_code = ", trust_remote_code=True" if "auto_map" in config else ""
    usual = {"library_name": "transformers", "pipeline_tag": "image-classification"}
    tags = ["hf_biasensemble", "debiasing", *metadata.get("tags", ())]
    example = f"""```python
from transformers import pipeline

classifier = pipeline("image-classification", model={json.dumps(repository, ensure_ascii=False)}{remote_code})
print(classifier("image.png"))
```"""
    front_matter = f"---\n{ModelCardData(**(usual | metadata | {'tags': tags})).to_yaml()}\n---"
    parts = [front_matter, f"# {as_text(title)}", about, example, details]
    write_text(Path(folder) / CARD_FILE, "\n\n".join(filter(None, parts)) + "\n")
    return Path(folder) / CARD_FILE
