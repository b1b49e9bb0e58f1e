"""A short `README.md` for a classifier whose trainer was used without a run, to be completed by its author."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import PreTrainedModel

from hf_biasensemble.folders.output_folder import CARD_FILE, REPOSITORY_PLACEHOLDER
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.reporting.card.markdown import as_text


def write_draft(
    folder: str | Path,
    model: PreTrainedModel,
    trainer: str,
    evaluation: Mapping[str, float],
    tags: Sequence[str] = (),
    model_name: str | None = None,
    **metadata: Any,
) -> Path:
    """Writes the card into a folder that [`~EvaluatingTrainer.save_model`] wrote.

    Args:
        folder: The folder.
        model: The published classifier.
        trainer: Name of the trainer's class.
        evaluation: Metrics to list.
        tags: Further tags.
        model_name: Title; by default the folder's name.
        metadata: Further fields of `huggingface_hub.ModelCardData`, such as `license` or `datasets`.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    trust = ", trust_remote_code=True" if "auto_map" in config else ""
    about = {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["hf_biasensemble", "debiasing", *tags],
    }
    title = as_text(model_name or folder.resolve().name)
    names = ", ".join(as_text(str(name)) for name in model.config.id2label.values())
    rows = "".join(f"\n| {name} | {value:.4g} |" for name, value in evaluation.items())
    table = f"\n| metric | value |\n|---|---|{rows}\n" if rows else ""
    with written_whole(folder / CARD_FILE) as file:
        file.write_text(
            f"""---
{ModelCardData(**(about | metadata)).to_yaml()}
---

# {title}

An image classifier trained with `{trainer}` of hf_biasensemble. Classes: {names}.
{table}
```python
from transformers import pipeline

classify = pipeline("image-classification", model="{REPOSITORY_PLACEHOLDER}"{trust})
```
""",
            encoding="utf-8",
        )
    return folder / CARD_FILE
