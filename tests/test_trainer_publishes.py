"""A trainer that is used by hand saves, describes and pushes the classifier; its checkpoints hold all it trains."""

import json

import pytest
import torch
from hub_server import TOKEN
from runs import words
from safetensors.torch import load_file
from synthetic import CLASS_NAMES
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_biasensemble.data.prepare import image_transform, load_image_splits
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS
from hf_biasensemble.runs.run_arguments import parse_run

PAIRS = {"lff": "biased.", "disent": "bias_classifier.", "erm": "classifier."}


@pytest.fixture(params=PAIRS)
def trainer(request, digits, tmp_path):
    """One that has trained two steps, and its test split."""
    changes = {"max_steps": 2, "save_steps": 2, "eval_steps": 2, "push_to_hub": "true", "hub_model_id": "me/mine"}
    given = words(digits, tmp_path / "out", request.param, **changes)
    data_args, model_args, _, args = parse_run(given)
    splits = load_image_splits(data_args, 28)
    method = METHODS[request.param]
    network = method.network(model_args, CLASS_NAMES, 0)
    found = method.trainer(network, args, image_transform(model_args), splits["train"], eval_dataset=splits)
    found.train()
    return found


def test_saved_model_opens_and_says_the_same(trainer, tmp_path):
    trainer.save_model(str(tmp_path / "saved"))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert list(model.config.id2label.values()) == CLASS_NAMES
    assert AutoImageProcessor.from_pretrained(tmp_path / "saved")
    split = trainer.eval_dataset["test"]
    with torch.inference_mode():
        logits = model(trainer.transform(split.pixels_of(split.rows), training=False)).logits
    torch.testing.assert_close(logits, torch.from_numpy(trainer.predict(split).predictions), rtol=0, atol=1e-5)


def test_checkpoint_holds_all_that_is_trained(trainer, tmp_path):
    names = load_file(tmp_path / "out" / "checkpoint-2" / "model.safetensors").keys()
    assert names == trainer.model.state_dict().keys()
    method = trainer.args.method
    assert any(name.startswith(PAIRS[method]) for name in names)


def test_card_describes_the_classifier(trainer, tmp_path):
    trainer.save_model()
    trainer.create_model_card(license="mit", model_name="Mine")
    card = (tmp_path / "out" / "README.md").read_text()
    accuracy = trainer.evaluate()["test_accuracy"]
    assert "license: mit" in card and "# Mine" in card and f"| test_accuracy | {accuracy:.4g} |" in card
    assert type(trainer).__name__ in card and "trust_remote_code=True" in card
    assert "auto_map" in json.loads((tmp_path / "out" / "config.json").read_text())


def test_features_alone_are_not_published(trainer, tmp_path):
    trainer.transform = FeatureTransform(torch.zeros(3), torch.ones(3))
    with pytest.raises(BiasEnsembleError, match="save_model: expected a classifier of images, found one of a frozen"):
        trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


PUSH = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from runs import words
from synthetic import CLASS_NAMES
from hf_biasensemble.data.prepare import image_transform, load_image_splits
from hf_biasensemble.methods import METHODS
from hf_biasensemble.runs.run_arguments import parse_run

given = words(Path(sys.argv[1]), Path(sys.argv[2]), "lff", max_steps=1, hub_model_id="me/mine")
data_args, model_args, _, args = parse_run(given)
splits = load_image_splits(data_args, 28)
network = METHODS["lff"].network(model_args, CLASS_NAMES, 0)
trainer = METHODS["lff"].trainer(network, args, image_transform(model_args), splits["train"], eval_dataset=splits)
trainer.train()
print(trainer.push_to_hub("By hand", license="mit"))
"""


@pytest.mark.slow
def test_classifier_is_pushed(digits, hub, client, tmp_path):
    from pathlib import Path

    done = client("-c", PUSH.format(tests=str(Path(__file__).parent)), digits, tmp_path / "out", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr[-2000:]
    files = hub.model("me/mine").files
    assert {"config.json", "model.safetensors", "modeling_debiased.py", "README.md"} == files.keys()
    assert b"license: mit" in files["README.md"] and b'model="me/mine"' in files["README.md"]
    assert hub.model("me/mine").commits[-1].title == "By hand"
