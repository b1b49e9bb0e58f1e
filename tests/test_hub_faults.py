"""Whatever goes wrong between here and the Hub, a repository is as before or as it should be, and is mended later."""

from collections import Counter

import pytest
from fresh_python import only_error
from hub_server import TOKEN, Repository
from runs import pushed_of, trained_probabilities

OLD = {"config.json": b"{}", "model.safetensors": b"old", "selection/selection.parquet": b"old", "LICENSE": b"MIT"}
FAULTS = {
    "create 500": ("POST /api/repos/create", {"status": 500}, "old", "the Hub returned an error"),
    "create 404": ("POST /api/repos/create", {"status": 404}, "old", "no such repository (404)"),
    "look 503": ("GET /api/models/me/mine", {"status": 503}, "old", "the Hub returned an error"),
    "announce 503": ("POST .*/preupload/", {"status": 503}, "new", ""),
    "announce 429": ("POST .*/preupload/", {"status": 429, "headers": {"Retry-After": "0"}}, "new", ""),
    "upload cut off": ("PUT /lfs-objects/", {"drop": "request"}, "new", ""),
    "upload 500": ("PUT /lfs-objects/", {"status": 500}, "new", ""),
    "upload damaged": ("PUT /lfs-objects/", {"corrupt": True}, "old", "does not have the announced SHA-256"),
    "commit 500": ("POST .*/commit/", {"status": 500}, "old", "the Hub returned an error"),
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
def test_repository_is_old_or_new_whatever_happens_and_the_next_push_succeeds(published, hub, push, fault):
    pattern, how, state, named = FAULTS[fault]
    repository = hub.repositories["model", "me/mine"] = Repository("me/mine")
    repository.commit("old", OLD)
    new = pushed_of(published / "mlp", "me/mine") | {"LICENSE": b"MIT"}
    hub.fail(pattern, **how)
    done = push(published / "mlp", "me/mine")
    assert hub.faults[0].times == 0  # it did happen
    assert repository.files == (new if state == "new" else OLD)
    assert len(repository.commits) == (3 if state == "new" else 2)
    if named:
        error = only_error(done)
        assert f"{published / 'mlp'} is complete, but its upload to me/mine failed" in error and named in error
        assert error.endswith(f"; then: hf-biasensemble push {published / 'mlp'} me/mine")
    else:
        assert done.returncode == 0, done.stderr

    if named:
        assert push(published / "mlp", "me/mine").returncode == 0
        assert repository.files == new and len(repository.commits) == 3


@pytest.mark.slow
def test_upload_that_fails_again_and_again_leaves_nothing_and_the_next_push_succeeds(published, hub, push):
    hub.fail("PUT /lfs-objects/", status=500, times=1_000_000)  # until the client gives up, however many its files are
    assert "the Hub returned an error" in only_error(push(published / "mlp", "me/mine"))
    assert hub.model("me/mine").files == {}
    assert max(Counter(asked for asked in hub.requests if asked.startswith("PUT /lfs-objects/")).values()) > 2
    hub.faults.clear()
    assert push(published / "mlp", "me/mine").returncode == 0
    assert hub.model("me/mine").files == pushed_of(published / "mlp", "me/mine")


PREDICT = """
import sys
from hf_biasensemble.cli.main import run_command

for number in range(3):
    print("status", run_command("predict", sys.argv[1:]), flush=True)
"""


@pytest.mark.slow
def test_faults_while_a_model_is_downloaded_are_one_line_and_the_next_attempt_succeeds(published, hub, client):
    hub.repositories["model", "me/mine"] = Repository("me/mine")
    hub.model("me/mine").commit("new", pushed_of(published / "timm", "me/mine"))
    hub.fail("GET .*/resolve/.*/config.json", status=500)
    hub.fail("GET .*/resolve/.*/model.safetensors", drop="answer")
    done = client("-c", PREDICT, "--model", "me/mine", published / "images" / "00.png")
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 2", "status 0", "status 0"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith("error: --model me/mine: expected a folder or Hub id")
    assert [fault.times for fault in hub.faults] == [0, 0]
    rows = [line.split(",") for line in done.stdout.splitlines() if line.startswith(str(published))]
    wanted = trained_probabilities(published, "timm")[0]
    assert len(rows) == 2 and rows[0] == rows[1]
    assert wanted[rows[0][1]] == pytest.approx(float(rows[0][2]), abs=1e-5) == max(wanted.values())
