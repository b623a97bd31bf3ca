"""A server on loopback that speaks what huggingface_hub asks of the Hub: revisions, trees, files, new repositories and
commits of small files. It keeps every request, and knows private and gated repositories."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.helpers.loopback import Loopback, QuietHandler

TOKEN = "hf_not_a_real_token_0123456789"
Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Hub(Loopback):
    """`HF_ENDPOINT=<url>`; `commit` makes a repository's newest state: `org/name`, or `datasets/org/name`."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.made: list[dict[str, Any]] = []
        """What was asked of new repositories."""
        self.requests: list[str] = []
        self.broken = False
        """Whether it answers 500 to whatever changes something."""
        owner = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                owner.answer(self, b"")

            def do_HEAD(self) -> None:
                owner.answer(self, b"")

            def do_POST(self) -> None:
                owner.answer(self, self.rfile.read(int(self.headers["Content-Length"] or 0)))

        super().__init__(Handler)
        self.url = self.address

    def commit(self, repo: str, files: Files) -> str:
        """Returns the commit."""
        sha = hashlib.sha1(json.dumps([repo, {k: v.hex() for k, v in files.items()}]).encode()).hexdigest()
        states = self.commits.setdefault(repo, {})
        states.pop(sha, None)
        states[sha] = files
        return sha

    def newest(self, repo: str) -> Files:
        return list(self.commits[repo].values())[-1]

    def answer(self, handler: Any, body: bytes) -> None:
        path = unquote(urlsplit(handler.path).path).strip("/")
        self.requests.append(f"{handler.command} {path}")
        signed = handler.headers["Authorization"] == f"Bearer {TOKEN}"
        if handler.command == "POST":
            return self._change(handler, path, json.loads(body.splitlines()[0]), body, signed)
        repo, what, rest = self._parse(path)
        if repo not in self.commits or (repo in self.private and not signed):
            return handler.reply(404 if signed else 401, {"error": "no"}, X_Error_Code="RepoNotFound")
        if repo in self.gated and not signed:
            return handler.reply(403, {"error": "gated"}, X_Error_Code="GatedRepo")
        states = self.commits[repo]
        revision, _, file = rest.partition("/")
        sha = list(states)[-1] if revision in ("", "main") else revision
        if sha not in states:
            return handler.reply(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        match what:
            case "tree":
                return handler.reply(200, [self._entry(name, data) for name, data in states[sha].items()])
            case "resolve":
                if file not in states[sha]:
                    return handler.reply(404, {"error": "no"}, X_Error_Code="EntryNotFound")
                data = states[sha][file]
                return handler.reply(200, data, ETag=f'"{_oid(data)}"', X_Repo_Commit=sha)
            case _:
                pass
        siblings = [{"rfilename": name} for name in states[sha]]
        about = {"id": repo.removeprefix("datasets/"), "sha": sha, "siblings": siblings, "tags": []}
        card = states[sha].get("README.md", b"").decode().split("---")
        return handler.reply(200, about | {"cardData": yaml.safe_load(card[1]) if len(card) > 2 else {}})

    def _parse(self, path: str) -> tuple[str, str, str]:
        """`[api/models/|api/datasets/|datasets/]org/name[/what/rest]`"""
        parts = path.removeprefix("api/").removeprefix("models/").split("/")
        start = 3 if parts[0] == "datasets" else 2
        return "/".join(parts[:start]), "".join(parts[start : start + 1]), "/".join(parts[start + 1 :])

    @staticmethod
    def _entry(name: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}

    def _change(self, handler: Any, path: str, values: dict[str, Any], body: bytes, signed: bool) -> None:
        if not signed:
            return handler.reply(401, {"error": "Invalid username or password."})
        if self.broken:
            return handler.reply(500, {"error": f"oops {TOKEN}"})
        if path == "api/validate-yaml":
            return handler.reply(200, {"errors": [], "warnings": []})
        if path == "api/repos/create":
            repo = f"{values['organization']}/{values['name']}" if values.get("organization") else values["name"]
            if repo in self.commits:
                return handler.reply(409, {"error": "exists", "url": f"{self.url}/{repo}"})
            self.made.append(values)
            self.commit(repo, {})
            return handler.reply(200, {"url": f"{self.url}/{repo}"})
        repo, what, _ = self._parse(path)
        if what == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in values["files"]]
            return handler.reply(200, {"files": files})
        files = dict(self.newest(repo))
        for line in body.splitlines()[1:]:
            value = json.loads(line)["value"]
            files[value["path"]] = base64.b64decode(value["content"])
        sha = self.commit(repo, files)
        return handler.reply(200, {"commitUrl": f"{self.url}/{repo}/commit/{sha}", "commitOid": sha})


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
