"""Pushing to a Hub and loading from it: real clients in processes of their own, a Hub on loopback."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from fresh_python import WITHOUT_LIBRARY, only_error
from hub_server import TOKEN, Repository
from runs import PUSHED, error_line, pushed_of, train, trained_probabilities, words
from synthetic import CLASS_NAMES

from hf_biasensemble.data.prepare import image_transform, load_image_splits
from hf_biasensemble.folders import hub as hub_module
from hf_biasensemble.folders.hub import PUBLISHED_FILES
from hf_biasensemble.folders.output_folder import REPOSITORY_PLACEHOLDER
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods.erm import ErmTrainer
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.runs.run_arguments import parse_run

NUM_IMAGES = 12

# What is pushed, and how it opens ------------------------------------------------------------------------------------

OPEN = """
import json, sys
from pathlib import Path

import timm, torch
from PIL import Image
from transformers import pipeline

files = sorted(Path(sys.argv[1]).iterdir())[: int(sys.argv[2])]
said = {}
for name, remote_code in (("mlp", True), ("timm", False), ("disent", True)):
    classify = pipeline("image-classification", model="me/" + name, trust_remote_code=remote_code)
    said[name] = [{row["label"]: row["score"] for row in classify(str(file), top_k=4)} for file in files]
labels = list(classify.model.config.id2label.values())
network = timm.create_model("hf-hub:me/timm", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
batch = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
with torch.inference_mode():
    said["timm itself"] = [dict(zip(labels, row)) for row in network(batch).softmax(dim=-1).tolist()]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_pushed_models_say_the_same_where_the_library_is_not_installed(published, hub, client, push):
    for name in ("mlp", "timm", "disent"):
        done = push(published / name, f"me/{name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"pushed: {hub.url}/me/{name}/commit/{hub.model(f'me/{name}').commits[-1].sha}\n"
    done = client("-c", WITHOUT_LIBRARY + OPEN, published / "images", str(NUM_IMAGES), isolated=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name, rows in said.items():
        assert len(rows) == NUM_IMAGES
        expected = trained_probabilities(published, name.split()[0])[:NUM_IMAGES]
        for row, wanted in zip(rows, expected, strict=True):
            assert max(row, key=row.get) == max(wanted, key=wanted.get)
            assert row == pytest.approx(wanted, abs=1e-5)
    assert "modeling_debiased.py" not in hub.model("me/timm").files


# The index of weights that are too large for one file, and an image processor that somebody saved with the model.
NOT_OF_EVERY_RUN = {"model.safetensors.index.json", "preprocessor_config.json"}


@pytest.mark.parametrize("pattern", sorted({*PUBLISHED_FILES} - NOT_OF_EVERY_RUN))
def test_files_that_are_pushed_are_files_that_runs_write(published, pattern):
    assert [folder for folder in ("mlp", "timm") if any((published / folder).glob(pattern))]


@pytest.fixture
def full_folder(published, tmp_path):
    """An output folder with everything that a run may leave, and more."""
    folder = shutil.copytree(published / "mlp", tmp_path / "finished")
    (folder / "figures" / "reliance.png").write_text("as explain draws it")
    private = ("runs/events.out.tfevents.1", "training_args.bin", "notes.txt", "figures/deeper/config.json", ".token")
    for name in private:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private")
    return folder


def test_published_files_are_pushed_in_one_commit_and_nothing_else(full_folder, hub, push):
    assert push(full_folder, "me/mine", "--commit_message", "Seed 0").returncode == 0
    repository = hub.model("me/mine")
    assert repository.files == pushed_of(full_folder, "me/mine") and repository.files.keys() == PUSHED
    card = repository.files["README.md"].decode()
    assert 'pipeline("image-classification", model="me/mine"' in card and REPOSITORY_PLACEHOLDER not in card
    assert [commit.title for commit in repository.commits] == ["initial commit", "Seed 0"]
    assert not repository.private

    assert push(full_folder, "me/mine").returncode == 0
    assert len(repository.commits) == 2  # nothing has changed


def test_nothing_that_is_pushed_says_where_it_was_made(full_folder, hub, push):
    settings = yaml.safe_load((full_folder / "config.yaml").read_text())
    assert Path(settings["dataset_name"]).is_absolute() and Path(settings["output_dir"]).is_absolute()
    assert push(full_folder, "me/mine").returncode == 0
    files = hub.model("me/mine").files
    parts = {Path(settings[name]).parent.as_posix().encode() for name in ("dataset_name", "output_dir")}
    assert [name for name, content in files.items() if any(part in content for part in parts)] == []
    assert yaml.safe_load(files["config.yaml"])["dataset_name"] == f"path/to/{Path(settings['dataset_name']).name}"


def test_selection_is_pushed_on_demand_and_files_of_an_earlier_push_do_not_stay(full_folder, hub, push):
    assert push(full_folder, "mine", "--with_selection").returncode == 0
    repository = hub.model("me/mine")
    assert set(repository.files) == PUSHED | {"selection/selection.parquet", "selection/members.safetensors"}

    repository.commit("by hand", repository.files | {"LICENSE": b"MIT", "data/config.json": b"{}"})
    (full_folder / "README.md").unlink()
    (full_folder / "figures" / "reliance.png").unlink()
    assert push(full_folder, "me/mine").returncode == 0
    assert set(repository.files) == PUSHED - {"figures/reliance.png"} | {"LICENSE", "data/config.json"}


LOOK = """
import huggingface_hub

try:
    huggingface_hub.model_info("me/secret")
except huggingface_hub.errors.RepositoryNotFoundError as error:
    print(error.response.status_code)
"""


def test_private_repository_is_for_its_owner_alone(full_folder, hub, client, push):
    assert push(full_folder, "me/secret", "--private").returncode == 0
    assert hub.model("me/secret").private
    read = "import huggingface_hub; print(open(huggingface_hub.hf_hub_download('me/secret', 'history.csv')).read())"
    assert (full_folder / "history.csv").read_text() in client("-c", read).stdout
    assert client("-c", LOOK, HF_TOKEN="").stdout == "401\n"

    delete = "import huggingface_hub as hub; hub.delete_repo('me/secret'); print(hub.whoami()['name'])"
    assert client("-c", delete).stdout == "me\n" and hub.repositories == {}

    hub.repositories["model", "me/open"] = Repository("me/open")
    error = only_error(push(full_folder, "me/open", "--private"))
    assert error.startswith("error: me/open is public; make it private") and hub.model("me/open").files == {}


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "repo_id, variables, named",
    [
        ("me/mine", {"HF_TOKEN": ""}, "expected a token to push with, found none; `hf auth login`"),
        ("me/mine", {"HF_TOKEN": "hf_ofNobody"}, "does not accept the token (401)"),
        ("you/mine", {}, "the token may not write there (403)"),
        ("a/b/c", {}, "expected a repository such as me/my-model, found 'a/b/c'"),
        ("me/mine", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("me/mine", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "check network and repository; then: hf-biasensemble push"),
    ],
)
def test_push_that_cannot_be_makes_no_repository(published, hub, push, repo_id, variables, named):
    error = only_error(push(published / "mlp", repo_id, **variables))
    assert named in error and "hf_ofNobody" not in error
    assert hub.repositories == {}


def test_folders_without_a_finished_model_and_bad_cards_are_refused(full_folder, published, hub, push, tmp_path):
    for other in (tmp_path / "nowhere", published / "mlp" / "checkpoint-12"):
        assert f"finished run, found no config.json in {other}" in only_error(push(other, "me/mine"))
    (full_folder / "optimizer.pt").touch()
    assert f"found a checkpoint in {full_folder}" in only_error(push(full_folder, "me/mine"))
    (full_folder / "optimizer.pt").unlink()
    (full_folder / "model.safetensors").rename(full_folder / "weights")
    assert "found no model.safetensors" in only_error(push(full_folder, "me/mine"))
    assert hub.repositories == {}

    (full_folder / "weights").rename(full_folder / "model.safetensors")
    (full_folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "Invalid metadata in README.md" in only_error(push(full_folder, "me/mine"))
    assert hub.model("me/mine").files == {}


def test_token_that_is_no_header_value_is_not_quoted(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(BiasEnsembleError, match="characters that no token has") as raised:
        hub_module.check_can_push("me/mine", "hf_half\nhf_otherHalf")
    assert "hf_" not in str(raised.value).replace("HF_", "")
    assert hub_module.check_can_push("me/mine", f"{TOKEN}\n") == TOKEN


# Training that pushes ------------------------------------------------------------------------------------------------

TRAIN = """
import sys
from hf_biasensemble.cli.main import run_command

for folder in ("first", "second"):
    status = run_command("train", [*sys.argv[1:], "--output_dir", folder, "--hub_model_id", "me/" + folder])
    print("status", status, flush=True)
"""


@pytest.mark.slow
def test_training_pushes_once_at_the_end(digits, hub, client, push, tmp_path):
    given = words(digits, tmp_path, "lff_be", push_to_hub="true", hub_token=TOKEN)
    hub.fail("POST .*/commit/", status=503)
    done = client("-c", TRAIN, *given, HF_TOKEN="")
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 2", "status 0"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "first is complete, but its upload to me/first failed" in errors[0]

    assert hub.model("me/first").files == {}
    assert push(tmp_path / "first", "me/first").returncode == 0
    for name in ("first", "second"):
        assert hub.model(f"me/{name}").files == pushed_of(tmp_path / name, f"me/{name}")
        assert {"config.json", "model.safetensors", "all_results.json"} <= hub.model(f"me/{name}").files.keys()
        assert len(hub.model(f"me/{name}").commits) == 2
        assert (tmp_path / name / "checkpoint-5" / "training_args.bin").exists()  # where the Trainer keeps settings
    made = [request for request in hub.requests if request == "POST /api/repos/create"]
    assert len(hub.repositories) == 2 and len(made) == 3


def test_push_that_cannot_be_is_refused_before_training(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", push_to_hub="true", hub_model_id="me/mine") == 2
    assert "HF_HUB_OFFLINE is set" in error_line(capsys)
    assert train(digits, tmp_path / "out", push_to_hub="true", hub_model_id="a/b/c") == 2
    assert "a/b/c" in error_line(capsys)
    assert train(digits, tmp_path / "out", push_to_hub="true", hub_revision="dev") == 2
    assert "--hub_revision" in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_trainer_itself_pushes_nothing(digits, tmp_path):
    given = words(digits, tmp_path, push_to_hub="true", hub_token=TOKEN, eval_strategy="no")
    data_args, model_args, _, args = parse_run(given)
    split = load_image_splits(data_args, 28)["train"]
    model = DebiasedImageClassifier(classifier_config(model_args, CLASS_NAMES))
    trainer = ErmTrainer(model, args, image_transform(model_args), train_dataset=split)
    assert args.push_to_hub and not trainer.args.push_to_hub and trainer.args.hub_token is None
