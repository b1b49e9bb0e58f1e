"""Uploads finished folders to the Hub, each in one commit, so an interrupted upload changes nothing.

Imports no torch.
"""

import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_biasensemble.folders.output_folder import (
    CARD_FILE,
    CONFIG_FILE,
    FIGURES_DIR,
    HISTORY_FILE,
    REPOSITORY_PLACEHOLDER,
    RESULTS_FILE,
    settings_in,
    without_local_paths,
)
from hf_biasensemble.internal.errors import BiasEnsembleError

SELECTION_FILES = ["selection/selection.parquet", "selection/members.safetensors"]
PUBLISHED_FILES = [
    *("config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json"),
    *("modeling_*.py", CARD_FILE, RESULTS_FILE, CONFIG_FILE, HISTORY_FILE, f"{FIGURES_DIR}/*"),
]
"""Patterns of the files in a model repository, without checkpoints and logs; `*` matches within a folder."""

_ADVICE = {
    401: "the Hub does not accept the token (401); log in with `hf auth login`",
    403: "the token may not write there (403); name your own repository, or log in with a token that may write",
    404: "no such repository (404), or the token may not see it; check the name",
    429: "too many requests to the Hub (429); wait a few minutes",
}


def push_model(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    with_selection: bool = False,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Uploads model, card, results, settings and figures of a finished output folder; returns the commit's URL.

    Creates the repository if missing; `private` refuses a public one. `with_selection` adds the bias-amplified set and
    the members. Stale files of an earlier push are removed, except the card; other files stay. The default `token` is
    `HF_TOKEN` or the one of `hf auth login`.
    """
    folder = Path(folder)
    found = [f"no {name}" for name in ("config.json", "model.safetensors*") if not any(folder.glob(name))]
    found += ["a checkpoint"] if (folder / "optimizer.pt").exists() else []
    if found:
        raise BiasEnsembleError(f"expected the output folder of a finished run, found {found[0]} in {folder}")
    wanted = [*PUBLISHED_FILES, *SELECTION_FILES] if with_selection else PUBLISHED_FILES
    return push_folder(
        folder,
        repo_id,
        files=[name for name in _files_in(folder) if _matches(name, wanted)],
        replaced=[*PUBLISHED_FILES, *SELECTION_FILES],
        private=private,
        commit_message=commit_message or "Upload debiased image classifier",
        token=token,
        again=["hf-biasensemble", "push", str(folder), repo_id]
        + ["--private"] * private
        + ["--with_selection"] * with_selection,
    )


def check_can_push(repo_id: str, token: str | None = None) -> str:
    """Makes all checks of a push to `repo_id` that need no network, and returns the token to push with."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise BiasEnsembleError(f"expected a repository such as me/my-model, found {repo_id!r}: {error}") from None
    if constants.HF_HUB_OFFLINE:
        raise BiasEnsembleError("HF_HUB_OFFLINE is set, so nothing can be pushed to the Hub; unset it")
    token = (token or get_token() or "").strip()
    if not re.fullmatch("[!-~]+", token):  # the client would quote a token that is no header value
        found = "one with characters that no token has" if token else "none"
        raise BiasEnsembleError(f"expected a token to push with, found {found}; `hf auth login`, or set HF_TOKEN")
    return token


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    again: Sequence[str],
    commit_message: str,
    files: Sequence[str] | None = None,
    replaced: Sequence[str] = (),
    repo_type: str = "model",
    private: bool = False,
    token: str | None = None,
) -> str:
    """Commits `files` of a folder, by default all, to a repository and returns the commit's URL.

    Files in the repository that match `replaced` are removed unless they are pushed again, except the card. `again` is
    the command that repeats this push, for the error message.
    """
    folder = Path(folder)
    files = _files_in(folder) if files is None else files
    token = check_can_push(repo_id, token)
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True).repo_id
        before: Any = api.repo_info(repo_id, repo_type=repo_type)
        if private and not before.private:
            raise BiasEnsembleError(f"{repo_id} is public; make it private in its settings, or leave out --private")
        old = {sibling.rfilename for sibling in before.siblings or []} - {*files, CARD_FILE}
        # `upload_folder` splits a large folder into several commits.
        additions = [CommitOperationAdd(name, _content(folder / name, repo_id)) for name in files]
        deletions = [CommitOperationDelete(name) for name in sorted(old) if _matches(name, replaced)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            done = api.create_commit(
                repo_id, [*additions, *deletions], commit_message=commit_message, repo_type=repo_type
            )
    except BiasEnsembleError:
        raise
    except Exception as error:  # the client raises unrelated types: network, permission, a bad card
        print(file=sys.stderr)  # the client leaves its progress bar open
        raise BiasEnsembleError(
            f"{folder} is complete, but its upload to {repo_id} failed: {_reason(error, token)}; "
            f"then: {shlex.join(again)}"
        ) from None  # the original error may quote the token
    return str(done.commit_url)


def _files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _content(file: Path, repo_id: str) -> Path | bytes:
    """The content to upload: cards name the repository in their examples, settings lose their local paths."""
    if file.name == CONFIG_FILE:
        settings = without_local_paths(settings_in(file.parent))
        return yaml.safe_dump(settings, sort_keys=False).encode()
    if file.name != CARD_FILE:
        return file
    card, place, name = file.read_bytes(), REPOSITORY_PLACEHOLDER.encode(), repo_id.encode()
    return card.replace(b"local-dir:" + place, b"hf-hub:" + name).replace(place, name)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a path matches one of the patterns; `*` stays within a folder."""
    return any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)


def _reason(error: BaseException, token: str) -> str:
    """The cause and the remedy, in one line and without the token."""
    causes = [str(error)]
    while error.__cause__ and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
        causes.append(str(error))
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in _ADVICE:
        return _ADVICE[status]
    text = " ".join(": ".join(dict.fromkeys(causes)).replace(token, "***").split())
    text = text[:300].rstrip(".") or type(error).__name__
    if status >= 500:
        return f"the Hub returned an error ({text}); try again later"
    return f"{text}; check network and repository"
