"""The Hub's API on loopback: what huggingface_hub asks for when a model is created, pushed, listed and fetched.

Repositories live in memory. Weights travel by the classic LFS protocol: batch, upload, verify, commit; a download is
redirected to another host name, as the Hub redirects to its content network, and nothing secret may follow there.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER, TOKEN = "you", "hf_LoopbackTokenThatMustNotBePrinted"
LFS_SUFFIXES = (".safetensors", ".bin", ".pkl", ".pt", ".png")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class ApiError(Exception):
    """An answer other than success: status, the Hub's error code, text."""

    def __init__(self, status: int, code: str, text: str = ""):
        super().__init__(text)
        self.status, self.code, self.text = status, code, text or code


@dataclass(frozen=True)
class Blob:
    data: bytes = field(repr=False)
    lfs: bool

    @property
    def oid(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def listing(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        return entry | ({"lfs": {"oid": self.oid, "size": len(self.data), "pointerSize": 134}} if self.lfs else {})


@dataclass
class Repo:
    """Branches and tags name commits; a commit is the whole tree, path -> Blob."""

    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, tree: dict[str, Blob], message: str) -> str:
        state = [str(len(self.commits)), message, *(f"{path} {blob.oid}" for path, blob in sorted(tree.items()))]
        oid = hashlib.sha1("\n".join(state).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = tree, oid
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str:
        for oid in (self.branches.get(revision), self.tags.get(revision), revision):
            if oid in self.commits:
                return oid
        raise ApiError(404, "RevisionNotFound")

    def branch(self, name: str) -> str:
        if name not in self.branches:
            raise ApiError(404, "RevisionNotFound")
        return self.branches[name]


class HubServer:
    """A running server.

    Attributes:
        endpoint: for `HF_ENDPOINT`.
        repos: id -> Repo.
        requests: (method, path) of all that was asked, in order.
        drop_uploads: so many of the next LFS uploads end half-way with a closed connection.
        drop_commits: so many of the next commits end with a closed connection, unread.
        upload_begun: set when half of an LFS upload has arrived.
        release: while it is not set, uploads stop there.
        damaged: the content network sends objects of these digests with a bit flipped.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.drop_uploads = self.drop_commits = 0
        self.damaged: set[str] = set()
        self.upload_begun, self.release = threading.Event(), threading.Event()
        self.release.set()
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.port = self._http.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a commit, without those that the Hub itself adds."""
        repo = self.repos[repo_id]
        tree = repo.commits[repo.resolve(revision)]
        return {path: blob.data for path, blob in tree.items() if path != ".gitattributes"}

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False, message: str = "by hand") -> str:
        """Commits `files` as the whole tree of main, without a client; returns the commit."""
        repo = self.repos.setdefault(repo_id, Repo(private))
        return repo.commit("main", {path: _blob(path, data) for path, data in files.items()}, message)

    def count(self, method: str, part: str) -> int:
        """How often a path with `part` in it was asked for."""
        return sum(asked == method and part in path for asked, path in self.requests)


def _blob(path: str, data: bytes) -> Blob:
    return Blob(data, path.endswith(LFS_SUFFIXES))


class _Dropped(Exception):
    """The connection ends here."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        path = unquote(url.path)
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
        try:
            if path.startswith("/lfs/") and self.command == "PUT":
                self._upload(path.removeprefix("/lfs/"))
                return
            self.body = self._read_body()
            if path.startswith("/cdn/"):
                self._content_network(path.removeprefix("/cdn/"))
                return
            with self.hub.lock:
                answer = self._route(path, [part for part in url.path.split("/") if part])
            if answer is not None:
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        except ApiError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.text}
            self._send(error.status, json.dumps({"error": error.text}).encode(), headers)
        except _Dropped:
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    # Who asks

    def _user(self) -> str | None:
        authorization = self.headers.get("Authorization")
        if authorization is None:
            return None
        if authorization != f"Bearer {TOKEN}":
            raise ApiError(401, "", "Invalid credentials in Authorization header")
        return USER

    def _require_user(self) -> str:
        user = self._user()
        if user is None:
            raise ApiError(401, "", "Invalid username or password.")
        return user

    def _repo(self, repo_id: str) -> Repo:
        """A repository that the asker may see; a hidden one answers like an absent one."""
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self._user() is None):
            raise ApiError(401 if self._user() is None else 404, "RepoNotFound", "Repository not found")
        return repo

    # What is asked

    def _route(self, path: str, quoted: list[str]) -> dict | list | None:
        parts = [unquote(part) for part in quoted]
        if path == "/api/whoami-v2":
            return {"type": "user", "name": self._require_user(), "orgs": [], "auth": {"type": "access_token"}}
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if path == "/api/validate-yaml":
            return self._validate_yaml(json.loads(self.body)["content"])
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            return self._model(f"{parts[2]}/{parts[3]}", parts[4:])
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(self.body))
        if path == "/lfs-verify":
            return self._verify(json.loads(self.body))
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._resolve(f"{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]))
        raise ApiError(404, "", f"no such route: {self.command} {path}")

    def _create(self, asked: dict) -> dict | None:
        user = self._require_user()
        repo_id = f"{asked.get('organization') or user}/{asked['name']}"
        if not repo_id.startswith(f"{user}/"):
            raise ApiError(403, "", f"You don't have the rights to create a model under the namespace of {repo_id}")
        answer = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.hub.repos:
            self._send(409, json.dumps({"error": "You already created this model repo", **answer}).encode(), {})
            return None
        repo = self.hub.repos[repo_id] = Repo(asked.get("visibility") == "private")
        repo.commit("main", {".gitattributes": Blob(GIT_ATTRIBUTES, False)}, "initial commit")
        return answer

    def _validate_yaml(self, content: str) -> dict:
        fields = yaml.safe_load(content.split("---")[1]) if content.startswith("---\n") else {}
        errors = [] if isinstance(fields, dict) else [{"message": "the metadata must be a mapping"}]
        return {"errors": errors, "warnings": []}

    def _model(self, repo_id: str, rest: list[str]) -> dict | list | None:
        repo = self._repo(repo_id)
        action, revision = (rest[0], rest[1] if len(rest) > 1 else "main") if rest else ("revision", "main")
        if action == "revision":
            oid = repo.resolve(revision)
            siblings = [{"rfilename": path} for path in sorted(repo.commits[oid])]
            return {"id": repo_id, "sha": oid, "private": repo.private, "tags": [], "siblings": siblings}
        if action == "refs":
            named = {"branches": repo.branches, "converts": {}, "tags": repo.tags}
            return {
                kind: [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in refs.items()]
                for kind, refs in named.items()
            }
        if action == "tree":
            return self._tree(repo.commits[repo.resolve(revision)], "/".join(rest[2:]))
        if action == "paths-info":
            tree = repo.commits[repo.resolve(revision)]
            return [tree[path].listing(path) for path in json.loads(self.body)["paths"] if path in tree]
        self._require_user()
        if action == "preupload":
            return self._preupload(repo.commits[repo.branch(revision)], json.loads(self.body)["files"])
        if action == "commit":
            return self._commit(repo, repo_id, revision)
        if action in ("branch", "tag"):
            asked = json.loads(self.body)
            refs, name, start = (
                (repo.branches, revision, asked.get("startingPoint", "main"))
                if action == "branch"
                else (repo.tags, asked["tag"], revision)
            )
            if name in refs:
                raise ApiError(409, "", f"Reference already exists: {name}")
            refs[name] = repo.resolve(start)
            return {}
        raise ApiError(404, "", f"no such route: {self.path}")

    def _tree(self, tree: dict[str, Blob], folder: str) -> list[dict]:
        prefix = f"{folder}/" if folder else ""
        paths = [path for path in sorted(tree) if path.startswith(prefix)]
        if not paths:
            raise ApiError(404, "EntryNotFound")
        if self.query.get("recursive") in ("true", "True"):
            return [tree[path].listing(path) for path in paths]
        folders = {path[: path.index("/", len(prefix))] for path in paths if "/" in path[len(prefix) :]}
        files = [tree[path].listing(path) for path in paths if "/" not in path[len(prefix) :]]
        return [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)] + files

    # Push

    def _preupload(self, tree: dict[str, Blob], files: list[dict]) -> dict:
        answers = []
        for asked in files:
            known = tree.get(asked["path"])
            mode = "lfs" if asked["path"].endswith(LFS_SUFFIXES) else "regular"
            answers.append(
                {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known and known.oid}
            )
        return {"files": answers}

    def _batch(self, asked: dict) -> dict:
        self._require_user()
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256"
        objects = []
        for item in asked["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                upload = {"href": f"http://localhost:{self.hub.port}/lfs/{item['oid']}", "header": {}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.endpoint}/lfs-verify"}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def _upload(self, oid: str) -> None:
        size = int(self.headers["Content-Length"])
        data = self.rfile.read(size // 2)
        self.hub.upload_begun.set()
        self.hub.release.wait(60)
        with self.hub.lock:
            dropped, self.hub.drop_uploads = self.hub.drop_uploads > 0, max(self.hub.drop_uploads - 1, 0)
        if dropped:
            raise _Dropped
        data += self.rfile.read(size - len(data))
        if hashlib.sha256(data).hexdigest() != oid or "Authorization" in self.headers:
            raise ApiError(400, "", "not what was announced")
        with self.hub.lock:
            self.hub.objects[oid] = data
        self._send(200, b"", {"ETag": f'"{oid}"'})

    def _verify(self, asked: dict) -> dict:
        self._require_user()
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise ApiError(404, "", "no such object")
        return {}

    def _commit(self, repo: Repo, repo_id: str, branch: str) -> dict:
        """All of it or nothing."""
        if self.hub.drop_commits:
            self.hub.drop_commits -= 1
            raise _Dropped
        tree, message = dict(repo.commits[repo.branch(branch)]), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                tree[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif item["key"] == "lfsFile":
                data = self.hub.objects.get(value["oid"])
                if data is None or len(data) != value["size"]:
                    raise ApiError(400, "", f"{value['path']}: its content was never uploaded")
                tree[value["path"]] = Blob(data, True)
            elif item["key"] == "deletedFile":
                del tree[value["path"]]
            else:
                raise ApiError(400, "", f"unknown operation {item['key']}")
        oid = repo.commit(branch, tree, message)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    # Fetch

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repo = self._repo(repo_id)
        commit = repo.resolve(revision)
        blob = repo.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit}
        if blob is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._send(404, b"Entry not found", headers)
        elif blob.lfs:
            self.hub.objects[blob.oid] = blob.data
            headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(len(blob.data))}
            headers["Location"] = f"http://localhost:{self.hub.port}/cdn/{blob.oid}"
            self._send(302, b"", headers)
        else:
            self._send(200, blob.data, headers | {"ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"})

    def _content_network(self, oid: str) -> None:
        if "Authorization" in self.headers:
            raise ApiError(400, "", "a token was sent to another host")
        data = self.hub.objects[oid]
        if oid in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers, status = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}, 200
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = int(last) + 1 if last else len(data)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            data, status = data[int(first) : end], 206
        self._send(status, data, headers)
