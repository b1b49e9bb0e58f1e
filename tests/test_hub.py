"""Pushing to a Hub and loading from it: real clients in processes of their own, a Hub on loopback."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import pytest
import torch
from hub_server import TOKEN, HubServer, Repository
from runs import error_line, train, words
from safetensors.torch import load_file
from synthetic import CLASS_NAMES

from hf_biasensemble import hub as hub_module
from hf_biasensemble.arguments import (
    DataArguments,
    DebiasingArguments,
    ModelArguments,
    SelectionArguments,
    parse_arguments,
)
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.output_folder import REPOSITORY_PLACEHOLDER
from hf_biasensemble.run import image_transform
from hf_biasensemble.trainers.erm import ErmTrainer

ROOT = Path(__file__).parents[1]
COMMAND = "from hf_biasensemble.cli.main import main; raise SystemExit(main())"
NORMALISATION = {"image_mean": "0.1 0.2 0.3", "image_std": "0.5 0.6 0.7"}
MODELS = {
    "mlp": ("lff_be", {"image_scale": 2.0}),
    "timm": ("lff", {"backbone": "test_resnet", "image_size": 32}),
    "disent": ("disent", {}),
}
NUM_IMAGES = 12


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Output folder of a run of each kind of model, test images as PNG files, and what the trained networks say."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "images").mkdir()
    for number, image in enumerate(datasets.load_dataset(str(digits), split="test")["image"][:NUM_IMAGES]):
        image.save(folder / "images" / f"{number:02}.png")
    expected = {}
    for name, (method, changes) in MODELS.items():
        lines = words(digits, folder / name, method, **NORMALISATION, **changes)
        argv = [word for line in lines for word in line.split(" ")]
        assert train_words(argv) == 0
        expected[name] = trained_probabilities(folder / name, argv)
    (folder / "expected.json").write_text(json.dumps(expected))
    return folder


def train_words(argv: list[str]) -> int:
    from hf_biasensemble.cli.main import run_command

    return run_command("train", argv)


def trained_probabilities(folder: Path, argv: list[str]) -> list[dict[str, float]]:
    """Class probabilities of the test images by the weights in the last checkpoint, through the training pipeline."""
    types = [DataArguments, ModelArguments, SelectionArguments, DebiasingArguments]
    data_args, model_args, _, args = parse_arguments(types, argv)
    config = classifier_config(model_args, CLASS_NAMES, 2 if args.method == "disent" else 1)
    model = DebiasedImageClassifier(config).eval()
    checkpoint = load_file(folder / "checkpoint-12" / "model.safetensors")
    model.load_state_dict(
        {key.removeprefix("debiased."): value for key, value in checkpoint.items() if key.startswith("debiased.")}
    )
    pixels = load_image_splits(data_args, model_args.image_size)["test"].pixels[:NUM_IMAGES]
    with torch.inference_mode():
        probabilities = model(image_transform(model_args)(pixels, training=False)).logits.softmax(dim=-1)
    return [dict(zip(CLASS_NAMES, row, strict=True)) for row in probabilities.tolist()]


@pytest.fixture
def hub(tmp_path):
    """A Hub of the test's own. Afterwards the token is in no file that was written or uploaded."""
    with HubServer() as hub:
        yield hub
    contents = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for repository in hub.repositories.values():
        contents |= {name: content for commit in repository.commits for name, content in commit.files.items()}
    assert [name for name, content in contents.items() if TOKEN.encode() in content] == []


@pytest.fixture
def client(hub, tmp_path):
    """Runs Python in a process that knows the Hub. It never shows the token."""

    def client(code: str, *arguments: str | Path, isolated: bool = False, **variables: str):
        environment = os.environ | hub.environment() | {"HF_HOME": str(tmp_path / "hf_home")}
        environment.pop("HF_DATASETS_CACHE")
        environment |= {} if isolated else {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, *(["-I"] if isolated else []), "-c", textwrap.dedent(code), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True, timeout=300
        )
        assert TOKEN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return client


@pytest.fixture
def push(client):
    """The push command."""

    def push(*arguments: str | Path, **variables: str):
        done = client(COMMAND, "push", *arguments, **variables)
        assert "Warning" not in done.stderr
        return done

    return push


def only_error(done: subprocess.CompletedProcess) -> str:
    """The one line that a command which failed has printed as its error."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    return errors[0]


# What is pushed, and how it opens ------------------------------------------------------------------------------------

OPEN = """
    import json, sys
    from pathlib import Path

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "hf_biasensemble":
                raise ImportError("blocked: " + name)

    sys.meta_path.insert(0, Blocker())
    try:
        import hf_biasensemble
    except ImportError as error:
        assert "blocked" in str(error)
    else:
        raise SystemExit("the library can be imported")

    import timm, torch
    from PIL import Image
    from transformers import pipeline

    files = sorted(Path(sys.argv[1]).iterdir())
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


def test_pushed_models_say_the_same_where_the_library_is_not_installed(trained, hub, client, push):
    for name in MODELS:
        done = push(trained / name, f"me/{name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"pushed: {hub.url}/me/{name}/commit/{hub.model(f'me/{name}').commits[-1].sha}\n"
    done = client(OPEN, trained / "images", isolated=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    expected = json.loads((trained / "expected.json").read_text())
    for name, rows in said.items():
        trainers = expected[name.split()[0]]
        assert len(rows) == NUM_IMAGES
        for row, wanted in zip(rows, trainers, strict=True):
            assert max(row, key=row.get) == max(wanted, key=wanted.get)
            assert row == pytest.approx(wanted, abs=1e-5)
    assert "modeling_debiased.py" not in hub.model("me/timm").files


@pytest.fixture
def finished(trained, tmp_path):
    """An output folder with everything that a run may leave, and more."""
    folder = shutil.copytree(trained / "mlp", tmp_path / "finished")
    for name in ("figures/curves.png", ".eval_results/results.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    for name in (
        "runs/events.out.tfevents.1",
        "training_args.bin",
        "notes.txt",
        "figures/deeper/config.json",
        ".token",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private")
    return folder


PUSHED = {
    *("config.json", "model.safetensors", "modeling_debiased.py", "README.md", "all_results.json", "config.yaml"),
    *("history.csv", "figures/accuracy.png", "figures/curves.png", ".eval_results/results.yaml"),
    *("figures/groups.png", "figures/relative_difficulty.png", "figures/selection.png"),
}


def test_published_files_are_pushed_in_one_commit_and_nothing_else(finished, hub, push):
    assert push(finished, "me/mine", "--commit_message", "Seed 0").returncode == 0
    repository = hub.model("me/mine")
    assert repository.files == pushed_of(finished, "me/mine") and repository.files.keys() == PUSHED
    card = repository.files["README.md"].decode()
    assert 'pipeline("image-classification", model="me/mine"' in card and REPOSITORY_PLACEHOLDER not in card
    assert [commit.title for commit in repository.commits] == ["initial commit", "Seed 0"]
    assert not repository.private

    assert push(finished, "me/mine").returncode == 0
    assert len(repository.commits) == 2  # nothing has changed


def test_selection_is_pushed_on_demand_and_files_of_an_earlier_push_do_not_stay(finished, hub, push):
    assert push(finished, "mine", "--with_selection").returncode == 0
    repository = hub.model("me/mine")
    assert set(repository.files) == PUSHED | {"selection/selection.parquet"}

    repository.commit("by hand", repository.files | {"LICENSE": b"MIT", "data/config.json": b"{}"})
    (finished / "README.md").unlink()
    (finished / "figures" / "curves.png").unlink()
    assert push(finished, "me/mine").returncode == 0
    assert set(repository.files) == PUSHED - {"figures/curves.png"} | {"LICENSE", "data/config.json"}


def test_private_repository(finished, hub, client, push):
    assert push(finished, "me/secret", "--private").returncode == 0
    assert hub.model("me/secret").private
    read = "import huggingface_hub; print(open(huggingface_hub.hf_hub_download('me/secret', 'history.csv')).read())"
    assert (finished / "history.csv").read_text() in client(read).stdout
    look = """
        import huggingface_hub

        try:
            huggingface_hub.model_info("me/secret")
        except huggingface_hub.errors.RepositoryNotFoundError as error:
            print(error.response.status_code)
    """
    assert client(look, HF_TOKEN="").stdout == "401\n"

    delete = "import huggingface_hub as hub; hub.delete_repo('me/secret'); print(hub.whoami()['name'])"
    assert client(delete).stdout == "me\n" and hub.repositories == {}

    hub.repositories["model", "me/open"] = Repository("me/open")
    error = only_error(push(finished, "me/open", "--private"))
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
def test_push_that_cannot_be(trained, hub, push, repo_id, variables, named):
    error = only_error(push(trained / "mlp", repo_id, **variables))
    assert named in error and "hf_ofNobody" not in error
    assert hub.repositories == {}


def test_folders_without_a_finished_model_and_bad_cards_are_refused(finished, trained, hub, push, tmp_path):
    for folder, found in (
        (tmp_path / "nowhere", "no config.json"),
        (trained / "mlp" / "checkpoint-12", "no config.json"),
    ):
        assert f"finished run, found {found} in {folder}" in only_error(push(folder, "me/mine"))
    (finished / "optimizer.pt").touch()
    assert f"found a checkpoint in {finished}" in only_error(push(finished, "me/mine"))
    (finished / "optimizer.pt").unlink()
    (finished / "model.safetensors").rename(finished / "weights")
    assert "found no model.safetensors" in only_error(push(finished, "me/mine"))
    assert hub.repositories == {}

    (finished / "weights").rename(finished / "model.safetensors")
    (finished / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "Invalid metadata in README.md" in only_error(push(finished, "me/mine"))
    assert hub.model("me/mine").files == {}


def test_token_that_is_no_header_value_is_not_quoted(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(BiasEnsembleError, match="characters that no token has") as raised:
        hub_module.check_can_push("me/mine", "hf_half\nhf_otherHalf")
    assert "hf_" not in str(raised.value).replace("HF_", "")
    assert hub_module.check_can_push("me/mine", f"{TOKEN}\n") == TOKEN


# Faults --------------------------------------------------------------------------------------------------------------

OLD = {"config.json": b"{}", "model.safetensors": b"old", "selection/selection.parquet": b"old", "LICENSE": b"MIT"}
FAULTS = {
    "create 500": ("POST /api/repos/create", {"status": 500}, "old", "the Hub has a fault"),
    "create 404": ("POST /api/repos/create", {"status": 404}, "old", "no such place (404)"),
    "look 503": ("GET /api/models/me/mine", {"status": 503}, "old", "the Hub has a fault"),
    "announce 503": ("POST .*/preupload/", {"status": 503}, "new", ""),
    "announce 429": ("POST .*/preupload/", {"status": 429, "headers": {"Retry-After": "0"}}, "new", ""),
    "upload cut off": ("PUT /lfs-objects/", {"drop": "request"}, "new", ""),
    "upload 500": ("PUT /lfs-objects/", {"status": 500}, "new", ""),
    "upload damaged": ("PUT /lfs-objects/", {"corrupt": True}, "old", "does not have the announced SHA-256"),
    "commit 500": ("POST .*/commit/", {"status": 500}, "old", "the Hub has a fault"),
    "commit 429": ("POST .*/commit/", {"status": 429, "headers": {"Retry-After": "9"}}, "old", "too many requests"),
    "commit refused": (
        "POST .*/commit/",
        {"status": 400, "headers": {"X-Error-Message": f"bad {TOKEN}"}},
        "old",
        "bad ***",
    ),
    "commit cut off": ("POST .*/commit/", {"drop": "request"}, "old", "check network"),
    "commit answer cut off": ("POST .*/commit/", {"drop": "answer"}, "new", "check network"),
    "commit slow": ("POST .*/commit/", {"delay": 1.0}, "new", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_repository_is_old_or_new_whatever_happens_and_the_next_push_succeeds(trained, hub, push, fault):
    pattern, how, state, named = FAULTS[fault]
    repository = hub.repositories["model", "me/mine"] = Repository("me/mine")
    repository.commit("old", OLD)
    new = {name: content for name, content in pushed_of(trained / "mlp", "me/mine").items()} | {"LICENSE": b"MIT"}
    hub.fail(pattern, **how)
    done = push(trained / "mlp", "me/mine")
    assert hub.faults[0].times == 0  # it did happen
    assert repository.files == (new if state == "new" else OLD)
    assert len(repository.commits) == (3 if state == "new" else 2)
    if named:
        error = only_error(done)
        assert f"{trained / 'mlp'} is complete, but its upload to me/mine failed" in error and named in error
        assert error.endswith(f"; then: hf-biasensemble push {trained / 'mlp'} me/mine")
    else:
        assert done.returncode == 0, done.stderr

    if named:
        assert push(trained / "mlp", "me/mine").returncode == 0
        assert repository.files == new and len(repository.commits) == 3


def pushed_of(folder: Path, repo_id: str) -> dict[str, bytes]:
    """What a push must leave in a repository: the files, with the repository's name in the card's examples."""
    files = {name: (folder / name).read_bytes() for name in PUSHED if (folder / name).is_file()}
    card = files["README.md"].decode().replace(f"local-dir:{REPOSITORY_PLACEHOLDER}", f"hf-hub:{repo_id}")
    return files | {"README.md": card.replace(REPOSITORY_PLACEHOLDER, repo_id).encode()}


@pytest.mark.slow
def test_upload_that_fails_again_and_again(trained, hub, push):
    hub.fail("PUT /lfs-objects/", status=500, times=12)  # six attempts for each of two files
    assert "the Hub has a fault" in only_error(push(trained / "mlp", "me/mine"))
    assert hub.model("me/mine").files == {}
    hub.faults.clear()
    assert push(trained / "mlp", "me/mine").returncode == 0
    assert hub.model("me/mine").files == pushed_of(trained / "mlp", "me/mine")


PREDICT = """
    import sys
    from hf_biasensemble.cli.main import run_command

    for number in range(3):
        print("status", run_command("predict", sys.argv[1:]), flush=True)
"""


@pytest.mark.slow
def test_faults_while_a_model_is_downloaded(trained, hub, client):
    hub.repositories["model", "me/mine"] = Repository("me/mine")
    hub.model("me/mine").commit("new", pushed_of(trained / "timm", "me/mine"))
    hub.fail("GET .*/resolve/.*/config.json", status=500)
    hub.fail("GET .*/resolve/.*/model.safetensors", drop="answer")
    done = client(PREDICT, "me/mine", trained / "images" / "00.png")
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 2", "status 0", "status 0"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith("error: --model me/mine: expected a folder or Hub id")
    assert [fault.times for fault in hub.faults] == [0, 0]
    rows = [line.split(",") for line in done.stdout.splitlines() if line.startswith(str(trained))]
    wanted = json.loads((trained / "expected.json").read_text())["timm"][0]
    assert len(rows) == 2 and rows[0] == rows[1]
    assert wanted[rows[0][1]] == pytest.approx(float(rows[0][2]), abs=1e-5) == max(wanted.values())


# Training that pushes ------------------------------------------------------------------------------------------------

TRAIN = """
    import sys
    from hf_biasensemble.cli.main import run_command

    for folder in ("first", "second"):
        status = run_command("train", [*sys.argv[1:], "--output_dir", folder, "--hub_model_id", "me/" + folder])
        print("status", status, flush=True)
"""


def test_training_pushes_once_at_the_end(digits, hub, client, push, tmp_path):
    given = words(digits, tmp_path, "lff_be", push_to_hub="true", hub_strategy="all_checkpoints", hub_token=TOKEN)
    hub.fail("POST .*/commit/", status=503)
    done = client(TRAIN, *given, HF_TOKEN="")
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
    types = [DataArguments, ModelArguments, SelectionArguments, DebiasingArguments]
    given = words(digits, tmp_path, push_to_hub="true", hub_token=TOKEN, eval_strategy="no")
    data_args, model_args, _, args = parse_arguments(types, given)
    split = load_image_splits(data_args, 28)["train"]
    model = DebiasedImageClassifier(classifier_config(model_args, CLASS_NAMES))
    trainer = ErmTrainer(model, args, image_transform(model_args), train_dataset=split)
    assert args.push_to_hub and not trainer.args.push_to_hub and trainer.args.hub_token is None
    with pytest.raises(BiasEnsembleError, match="push_model"):
        trainer.push_to_hub()
