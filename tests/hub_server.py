"""A small Hub on the loopback interface, for the real clients of `huggingface_hub`, `transformers` and `datasets`.

It keeps repositories in memory and speaks as much of the Hub's HTTP interface as these clients use for creating,
uploading (regular files and LFS), committing, listing and downloading. Tokens and private repositories are checked.
On demand it fails like a real one does:

    with HubServer() as hub:
        hub.fail("POST .*/commit/", status=503)  # the next commit
        run_a_client(env=hub.environment())
        assert not hub.model("me/mine").files
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "me"
TOKEN = "hf_loopbackTokenThatMustNotLeak"
LFS_SUFFIXES = (".safetensors", ".parquet", ".png")


@dataclass
class Commit:
    """State of a repository after a commit."""

    title: str
    files: dict[str, bytes]
    sha: str


@dataclass
class Repository:
    """A model or a dataset: its commits, oldest first; the first is empty."""

    name: str
    private: bool = False
    commits: list[Commit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit("initial commit", {})

    @property
    def files(self) -> dict[str, bytes]:
        """What is in the repository now."""
        return self.commits[-1].files

    def commit(self, title: str, files: dict[str, bytes]) -> Commit:
        sha = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits.append(Commit(title, files, sha))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch name or a hash means."""
        known = {commit.sha: commit for commit in self.commits} | {"main": self.commits[-1]}
        return known.get(revision)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose `METHOD /path` the pattern matches.

    Attributes:
        status: Answer with this status instead of doing anything.
        headers: Headers of that answer, such as `Retry-After`.
        drop: `"request"`: hang up in the middle of the request, nothing is done. `"answer"`: do it, but hang up in the
            middle of the answer.
        delay: Wait so many seconds first.
        corrupt: One byte of an uploaded or downloaded file arrives changed.
    """

    pattern: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    drop: str = ""
    delay: float = 0.0
    corrupt: bool = False


class HubServer(ThreadingHTTPServer):
    """The server; a context manager that serves in a thread. `requests` lists `METHOD /path` of all that came in."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # uploaded LFS files by SHA-256
        self.tokens = {TOKEN: USER}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.Lock()

    def forget(self) -> None:
        """As if it were new."""
        for kept in (self.repositories, self.objects, self.faults, self.requests):
            kept.clear()

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def environment(self) -> dict[str, str]:
        """Variables for a client process. The client libraries read them when they are imported."""
        variables = dict(HF_ENDPOINT=self.url, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
        return variables | dict(HF_HUB_DISABLE_TELEMETRY="1", NO_PROXY="127.0.0.1")

    def fail(self, pattern: str, **how: Any) -> None:
        """Makes the next matching request go wrong, see [`Fault`]."""
        self.faults.append(Fault(pattern, **how))

    def model(self, name: str) -> Repository:
        return self.repositories["model", name]

    def dataset(self, name: str) -> Repository:
        return self.repositories["dataset", name]

    def handle_error(self, *request: Any) -> None:
        pass  # a client that hangs up is no news


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers | ({"X-Error-Code": code} if code else {})


class _HungUp(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    # One request --------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        asked = f"{self.command} {unquote(parts.path)}"
        with self.server.lock:
            self.server.requests.append(asked)
            due = [fault for fault in self.server.faults if fault.times > 0 and re.search(fault.pattern, asked)]
            self.fault = due[0] if due else Fault("")
            self.fault.times -= 1
        time.sleep(self.fault.delay)
        try:
            self.body = self.read_body()
            if self.fault.status:
                raise _Refused(self.fault.status, "a fault on demand", **self.fault.headers)
            for pattern, handler in _ROUTES:
                if match := re.fullmatch(pattern, asked):
                    with self.server.lock:
                        answer = handler(self, **match.groupdict())
                    return self.answer(200, answer)
            raise _Refused(404, f"no such page: {asked}", "EntryNotFound")
        except _Refused as refused:
            self.answer(refused.status, {"error": str(refused)}, {"X-Error-Message": str(refused)} | refused.headers)
        except _HungUp:
            self.hang_up()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if self.fault.drop == "request":
            self.rfile.read(length // 2)
            raise _HungUp
        body = self.rfile.read(length)
        return self.damaged(body) if self.command == "PUT" else body

    def damaged(self, content: bytes) -> bytes:
        """The content, with its last byte changed if the fault says so."""
        return content[:-1] + bytes([content[-1] ^ 1]) if self.fault.corrupt and content else content

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        """Sends JSON; a handler may also give its own status, body and headers."""
        if isinstance(content, tuple):
            status, content, headers = content
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        stated = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in stated.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault.drop == "answer":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            return self.hang_up()
        self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was quicker

    # Who may do what ----------------------------------------------------------------------------------------------

    def user(self) -> str | None:
        """The user whose token came along, or `None` without one; a token that nobody has is refused."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self.server.tokens:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return self.server.tokens.get(token)

    def signed_in_user(self) -> str:
        user = self.user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        return user

    def check_write(self, namespace: str) -> None:
        if self.signed_in_user() != namespace:
            raise _Refused(403, f"You don't have the rights to write under the namespace {namespace}")

    def repository(self, type: str, name: str, write: bool = False) -> Repository:
        """The repository; one that is private does not exist for others."""
        user, found = self.user(), self.server.repositories.get((type, name))
        if found is None or (found.private and user != name.split("/")[0]):
            raise _Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write:
            self.check_write(name.split("/")[0])
        return found

    def commit_at(self, type: str, name: str, revision: str) -> Commit:
        commit = self.repository(type, name).at(revision)
        if commit is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Routes -------------------------------------------------------------------------------------------------------

    def whoami(self) -> dict:
        user = self.signed_in_user()
        return {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def validate_yaml(self) -> dict:
        card = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        try:
            readable = head is None or isinstance(yaml.safe_load(head[1]), dict)
        except yaml.YAMLError:
            readable = False
        if not readable:
            raise _Refused(400, "the metadata is no YAML")
        return {"errors": [], "warnings": []}

    def create(self) -> dict | tuple[int, bytes, dict[str, str]]:
        wanted = json.loads(self.body)
        type, namespace = wanted.get("type") or "model", wanted.get("organization") or self.user() or ""
        self.check_write(namespace)
        name = f"{namespace}/{wanted['name']}"
        url = f"{self.server.url}/{'' if type == 'model' else type + 's/'}{name}"
        if (type, name) in self.server.repositories:
            return 409, json.dumps({"error": "You already created this repo", "url": url}).encode(), {}
        self.server.repositories[type, name] = Repository(name, wanted.get("visibility") == "private")
        return {"url": url, "name": name, "id": name}

    def delete(self) -> dict:
        wanted = json.loads(self.body)
        key = (wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}")
        self.repository(*key, write=True)
        del self.server.repositories[key]
        return {}

    def preupload(self, type: str, name: str, revision: str) -> dict:
        before = self.repository(type, name, write=True).files
        modes = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            oid = _oid(path, before[path]) if path in before else None
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": modes}

    def lfs_batch(self, type: str, name: str) -> dict:
        self.repository("dataset" if type else "model", name, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            href = f"{self.server.url}/lfs-objects/{wanted['oid']}"
            known = wanted["oid"] in self.server.objects
            actions = {} if known else {"actions": {"upload": {"href": href, "header": {}}}}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **actions})
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, oid: str) -> dict:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "the content does not have the announced SHA-256")
        self.server.objects[oid] = self.body
        return {}

    def commit(self, type: str, name: str, revision: str) -> dict:
        repository = self.repository(type, name, write=True)
        files, title = dict(repository.files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.server.objects:
                    raise _Refused(400, f"LFS object of {value['path']} was not uploaded")
                files[value["path"]] = self.server.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refused(400, f"unknown operation {key}")
        sha = repository.commit(title, files).sha
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{name}/commit/{sha}"}

    def info(self, type: str, name: str, revision: str | None = None) -> dict:
        repository, commit = self.repository(type, name), self.commit_at(type, name, revision or "main")
        day = "2026-01-01T00:00:00.000Z"
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        stated = {"private": repository.private, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        return {"_id": "1", "id": name, "sha": commit.sha, "lastModified": day, "createdAt": day, **stated}

    def tree(self, type: str, name: str, revision: str, folder: str | None = None) -> list[dict]:
        files = self.commit_at(type, name, revision).files
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in sorted(files) if path.startswith(prefix)]
        if prefix and not inside:
            raise _Refused(404, f"{folder} does not exist", "EntryNotFound")
        if self.query.get("recursive", ["false"])[0].lower() in ("true", "1"):
            return [_entry(path, files[path]) for path in inside]
        entries: dict[str, dict] = {}
        for path in inside:
            child = prefix + path[len(prefix) :].split("/")[0]
            directory = {"type": "directory", "path": child, "oid": "0" * 40, "size": 0}
            entries[child] = _entry(path, files[path]) if child == path else directory
        return list(entries.values())

    def resolve(self, type: str, name: str, revision: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        """A file, or the part of it that the client asks for."""
        commit = self.commit_at("dataset" if type else "model", name, revision)
        if path not in commit.files:
            raise _Refused(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
        content = self.damaged(commit.files[path])
        headers = {"Content-Length": str(len(content)), "X-Repo-Commit": commit.sha}
        headers["ETag"] = f'"{_oid(path, commit.files[path])}"'
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not part:
            return 200, content, headers
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        headers |= {"Content-Length": str(last + 1 - first), "Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return 206, content[first : last + 1], headers


def _oid(path: str, content: bytes) -> str:
    """What the Hub names the content by: SHA-256 of an LFS file, git's blob hash of any other."""
    if path.endswith(LFS_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(path, content)}


_API = "/api/(?P<type>model|dataset)s/(?P<name>[^/]+/[^/]+)"
_PAGE = "/(?P<type>datasets/)?(?P<name>[^/]+/[^/]+?)"
_ROUTES = [
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/validate-yaml", _Handler.validate_yaml),
    ("POST /api/repos/create", _Handler.create),
    ("DELETE /api/repos/delete", _Handler.delete),
    (f"POST {_API}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (f"POST {_API}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (f"GET {_API}", _Handler.info),
    (f"GET {_API}/revision/(?P<revision>[^/]+)", _Handler.info),
    (f"GET {_API}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", _Handler.tree),
    (rf"POST {_PAGE}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT /lfs-objects/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    (f"(GET|HEAD) {_PAGE}/(resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
