"""Trainers take plain datasets and names of networks, train what a run trains, and refuse mistakes in one line."""

import inspect
import json
from dataclasses import fields

import datasets
import pytest
import torch
from runs import SETTINGS, slow_but, weights
from synthetic import CLASS_NAMES
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PredictionOutput

import hf_biasensemble as be
from hf_biasensemble.methods import METHODS

OWN = {"max_steps": 12, "per_device_train_batch_size": 16, "learning_rate": 0.003, "eval_steps": 4, "save_steps": 5}
OWN |= {"save_total_limit": 10, "logging_steps": 3, "use_cpu": True, "disable_tqdm": True}
TRAINERS = {
    "erm": be.ErmTrainer,
    "lff": be.LffTrainer,
    "lff_be": be.LffTrainer,
    "disent": be.DisentTrainer,
    "disent_be": be.DisentTrainer,
    "jtt": be.JttTrainer,
    "group_dro_be": be.GroupDroTrainer,
    "logit_adjusted": be.LogitAdjustedTrainer,
    "product_of_experts": be.ProductOfExpertsTrainer,
}


@pytest.fixture(scope="module")
def data(digits) -> datasets.DatasetDict:
    """The digits as `load_dataset` gives them, without bias labels."""
    names = ("train", "validation", "test")
    found = {name: datasets.Dataset.from_parquet(str(digits / f"{name}.parquet")) for name in names}
    return datasets.DatasetDict(found).remove_columns(["bias_label", "is_conflicting"])


def members_of(method: str) -> dict:
    """Options of the method's selector."""
    selector = METHODS[method].selector
    known = {field.name for field in fields(selector.arguments)} if selector else set()
    return {name: value for name, value in SETTINGS.items() if name in known}


def settings(output_dir, kind: type = be.DebiasingArguments, **changes) -> be.DebiasingArguments:
    return kind(str(output_dir), **{**OWN, **changes})


def trainer_of(method: str, data, output_dir, **changes):
    """A trainer made as people make one."""
    given = {"train_dataset": data["train"], "eval_dataset": data["validation"], **changes}
    if selector := METHODS[method].selector:
        given["selection_args"] = selector.arguments(**members_of(method))
    return TRAINERS[method]("mlp", settings(output_dir, method=method), **given)


@pytest.mark.parametrize("method", slow_but(TRAINERS, "lff_be"))
def test_trainer_trains_what_the_function_trains(data, tmp_path, method):
    trainer = trainer_of(method, data, tmp_path / "out")
    trainer.train()
    trainer.save_model()
    plain = datasets.DatasetDict({name: data[name] for name in ("train", "validation")})
    run = be.fit(plain, method=method, output_dir=tmp_path / "run", test_share=0, **OWN, **members_of(method))
    assert weights(tmp_path / "out") == weights(run.folder)
    assert trainer.evaluate()["eval_accuracy"] == run.results["validation_accuracy"]
    reopened = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert list(reopened.config.id2label.values()) == CLASS_NAMES
    pixels = trainer.eval_dataset["eval"].pixels
    with torch.inference_mode():
        logits = reopened(trainer.transform(pixels, training=False)).logits
    torch.testing.assert_close(logits, torch.from_numpy(trainer.predict(data["validation"]).predictions))


def test_a_trainer_is_a_trainer(data, tmp_path):
    class Seen(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    seen = Seen()
    sets = {"day": data["validation"], "night": data["test"]}
    trainer = be.LffTrainer(
        model="test_resnet",
        args=settings(tmp_path / "out", method="lff"),
        train_dataset=data["train"],
        eval_dataset=sets,
        callbacks=[seen],
    )
    assert trainer.transform.image_size == 28
    found = trainer.train()
    assert seen.steps == found.global_step == 12
    assert {"day_accuracy", "night_accuracy"} <= trainer.evaluate().keys()
    assert trainer.evaluate(data["test"])["eval_accuracy"] == trainer.evaluate()["night_accuracy"]
    both = trainer.evaluate({"one": data["test"], "other": data["validation"]})
    assert both["one_accuracy"] == trainer.predict(data["test"]).metrics["test_accuracy"] != both["other_accuracy"]
    predicted = trainer.predict(data["test"])
    assert isinstance(predicted, PredictionOutput) and predicted.label_ids.tolist() == data["test"]["label"][:]
    for several in (None, sets):
        with pytest.raises(be.BiasEnsembleError, match="predict: expected one dataset, found (none|day, night)"):
            trainer.predict(several)
    trainer.save_model(tmp_path / "saved")
    assert AutoImageProcessor.from_pretrained(tmp_path / "saved")


def test_without_other_splits_nothing_is_evaluated(data, tmp_path):
    trainer = be.ErmTrainer("mlp", settings(tmp_path / "out"), train_dataset=data["train"])
    trainer.train()
    assert len(trainer.train_dataset) == 96 and trainer.eval_dataset == {} and trainer.evaluate() == {}
    assert not any("eval_accuracy" in entry for entry in trainer.state.log_history)


def test_a_run_is_resumed_from_a_folder_that_was_named_late(data, tmp_path):
    for resumed in (None, True):
        trainer = be.ErmTrainer("mlp", settings(tmp_path / "first"), train_dataset=data["train"])
        trainer.args.output_dir = str(tmp_path / "late")
        trainer.train(resume_from_checkpoint=resumed)
        assert (tmp_path / "late" / "config.yaml").exists()
        assert not (tmp_path / "first" / "config.yaml").exists()


def test_splits_of_a_dataset_dict_are_evaluated(data, tmp_path):
    trainer = be.ErmTrainer("mlp", settings(tmp_path / "out"), train_dataset=data)
    assert {name: len(split) for name, split in trainer.eval_dataset.items()} == {"validation": 32, "test": 64}
    held = be.DataArguments("mine", validation_share=0.25, test_share=0.0)
    trainer = be.ErmTrainer("mlp", settings(tmp_path / "out"), train_dataset=data["train"], data_args=held)
    assert {name: len(split) for name, split in trainer.eval_dataset.items()} == {"validation": 24}


def named(split: datasets.Dataset, **other: str) -> datasets.Dataset:
    """A split whose labels are text."""
    names = [other.get(CLASS_NAMES[label], CLASS_NAMES[label]) for label in split["label"]]
    return split.remove_columns("label").add_column("label", names)


def test_eval_labels_are_those_of_the_training_images(data, tmp_path):
    train, test = named(data["train"]), named(data["test"])
    test = test.select([row for row, name in enumerate(test["label"]) if name == "square"])  # the last of four
    trainer = be.ErmTrainer("mlp", settings(tmp_path / "out"), train_dataset=train, eval_dataset=test)
    assert trainer.eval_dataset["eval"].labels.tolist() == [3] * len(test) != []
    assert trainer.predict(test).label_ids.tolist() == [3] * len(test)


def test_resumed_trainer_is_bitwise_the_undisturbed_one(data, tmp_path):
    whole = trainer_of("lff_be", data, tmp_path / "out")
    whole.train()
    again = trainer_of("lff_be", data, tmp_path / "out")
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    for name, value in whole.model.state_dict().items():
        assert again.model.state_dict()[name].equal(value), name
    assert json.loads((tmp_path / "out" / "checkpoint-12" / "trainer_state.json").read_text())["global_step"] == 12


RESUMED = {
    "seed": (lambda data: data, {"seed": 3}, r"seed \(then: 42, now: 3\)"),
    "data": (lambda data: data.select(range(90)), {}, "train_fingerprint"),
    "rate": (lambda data: data, {"learning_rate": 0.1}, r"learning_rate \(then: 0.003, now: 0.1\)"),
    "network": (lambda data: data, {}, r"backbone \(then: mlp, now: test_resnet\)"),
}


@pytest.mark.parametrize("change", slow_but(RESUMED, "seed", "data"))
def test_another_run_is_not_resumed_nor_overwritten(data, tmp_path, change):
    other, changes, message = RESUMED[change]
    first = be.ErmTrainer("mlp", settings(tmp_path / "out", max_steps=5), train_dataset=data["train"])
    first.train()
    network = "test_resnet" if change == "network" else "mlp"
    given = settings(tmp_path / "out", max_steps=5, **changes)
    second = be.ErmTrainer(network, given, train_dataset=other(data["train"]))
    with pytest.raises(be.BiasEnsembleError, match=f"cannot resume the run in .*{message}"):
        second.train(resume_from_checkpoint=True)
    with pytest.raises(be.BiasEnsembleError, match="holds another run .*resume_from_checkpoint=True"):
        be.ErmTrainer("mlp", given, train_dataset=data["train"]).train()
    assert (tmp_path / "out" / "checkpoint-5").is_dir()
    replaced = settings(tmp_path / "out", max_steps=2, save_steps=2, overwrite_output_dir=True, **changes)
    be.ErmTrainer("mlp", replaced, train_dataset=data["train"]).train()
    assert not (tmp_path / "out" / "checkpoint-5").exists() and (tmp_path / "out" / "checkpoint-2").is_dir()


def test_a_trainer_of_ones_own_takes_the_same(data, tmp_path):
    class MyTrainer(be.DebiasingTrainer):
        def training_terms(self, model, batch):
            logits = model(pixel_values=batch["pixel_values"])["logits"]
            return {"mine": self.part.mean(be.cross_entropy(logits, batch["labels"]))}

    trainer = MyTrainer("mlp", settings(tmp_path / "out"), train_dataset=data["train"], eval_dataset=data["test"])
    assert trainer.train().global_step == 12 and "eval_accuracy" in trainer.evaluate()


def test_finished_network_is_trained(data, tmp_path):
    pair = be.biased_and_debiased(be.ModelArguments("mlp"), CLASS_NAMES, 0)
    before = pair.debiased.state_dict()["classifier.weight"].clone()
    trainer = be.LffTrainer(pair, settings(tmp_path / "out", method="lff"), train_dataset=data["train"])
    trainer.train()
    assert trainer.model is pair and not pair.debiased.state_dict()["classifier.weight"].equal(before)


MISTAKES = {
    "args of another method": (
        lambda data, out: be.LffTrainer("mlp", settings(out, METHODS["jtt"].arguments), train_dataset=data["train"]),
        "LffTrainer: expected args of the type RelativeDifficultyArguments or DebiasingArguments, found JttArguments",
    ),
    "args of a plain Trainer": (
        lambda data, out: be.LffTrainer("mlp", TrainingArguments(str(out)), train_dataset=data["train"]),
        "LffTrainer: expected args of the type .*, found TrainingArguments",
    ),
    "another method": (
        lambda data, out: be.LffTrainer("mlp", settings(out, method="disent"), train_dataset=data["train"]),
        "LffTrainer: expected args of the method lff or lff_be, found disent",
    ),
    "an option that does nothing": (
        lambda data, out: be.LffTrainer(
            "mlp", settings(out, be.RelativeDifficultyArguments, generalized_cross_entropy_q=0.5), train_dataset=data
        ),
        "--generalized_cross_entropy_q: has no effect with --method lff_be; leave it out",
    ),
    "one classifier for a pair": (
        lambda data, out: be.LffTrainer(
            be.classifier_alone(be.ModelArguments("mlp"), CLASS_NAMES, 0), settings(out), train_dataset=data
        ),
        "LffTrainer: expected .* or a BiasedDebiasedPair, found a DebiasedImageClassifier; biased_and_debiased",
    ),
    "any module": (
        lambda data, out: be.ErmTrainer(torch.nn.Linear(2, 2), settings(out), train_dataset=data["train"]),
        "ErmTrainer: expected .* or a DebiasedImageClassifier, found a Linear; classifier_alone",
    ),
    "no model": (
        lambda data, out: be.ErmTrainer(None, settings(out), train_dataset=data["train"]),
        "model: expected a name, a folder, a PreTrainedModel or a function that builds one, found NoneType",
    ),
    "no data": (
        lambda data, out: be.ErmTrainer("mlp", settings(out)),
        "train_dataset: expected a datasets.Dataset with images and labels, found none",
    ),
    "no dataset": (
        lambda data, out: be.ErmTrainer("mlp", settings(out), train_dataset=[1, 2]),
        "dataset: expected a datasets.Dataset or DatasetDict, .*, found list",
    ),
    "no label column": (
        lambda data, out: be.ErmTrainer("mlp", settings(out), train_dataset=data["train"].remove_columns("label")),
        "'label'",
    ),
    "no image column": (
        lambda data, out: be.ErmTrainer("mlp", settings(out), train_dataset=data["train"].remove_columns("image")),
        "expected an image column 'image', found columns label",
    ),
    "a class that is only evaluated": (
        lambda data, out: be.ErmTrainer(
            "mlp",
            settings(out),
            train_dataset=named(data["train"]),
            eval_dataset=named(data["test"], pole="zebra"),
        ),
        "zebra",
    ),
    "metrics of one's own": (
        lambda data, out: be.ErmTrainer("mlp", settings(out), train_dataset=data["train"], compute_metrics=len),
        "ErmTrainer: expected no compute_metrics, found one; accuracy by group is always measured",
    ),
    "a choice without its split": (
        lambda data, out: be.ErmTrainer(
            "mlp", settings(out, checkpoint_choice="validation_accuracy"), train_dataset=data["train"]
        ),
        "--checkpoint_choice validation_accuracy: expected a validation split, found train; use last",
    ),
    "nothing to retrain": (
        lambda data, out: be.LastLayerTrainer("mlp", settings(out), train_dataset=data["train"]),
        "--init_from: expected the folder of a finished run of erm, from which last_layer_be starts, found nothing",
    ),
    "unknown backbone": (
        lambda data, out: be.ErmTrainer("resnet_18", settings(out), train_dataset=data["train"]),
        "--backbone resnet_18",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_at_construction(data, tmp_path, mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises(be.BiasEnsembleError, match=message) as error:
        make(data, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_public_trainers_document_what_they_take():
    given = inspect.signature(be.LffTrainer).parameters.keys()
    text = inspect.getdoc(be.DebiasingTrainer)
    assert [name for name in given - {"self", "kwargs"} if f"    {name} (" not in text] == []
