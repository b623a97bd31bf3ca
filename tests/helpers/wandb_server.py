"""A small stand-in of W&B's server: what a client asks to log in, to begin a run and to upload it."""

import json
import re
import threading
from contextlib import suppress
from typing import Any

from tests.helpers.loopback import Loopback, QuietHandler

KEY = "0123456789" * 4


class WandbServer(Loopback):
    """Answers like W&B, or as `fault` says: a status, or `slow`: nothing for as long as it lives."""

    def __init__(self, fault: int | str | None = None):
        server = self
        self.fault = fault
        self.over = threading.Event()
        self.asked: list[str] = []
        """The operations of GraphQL and the paths of files, in order."""
        self.uploaded: list[bytes] = []
        self.views: list[dict[str, Any]] = []
        """Reports and workspaces as they were sent."""
        self.files: dict[str, bytes] = {}
        """What was uploaded of artifacts and of the run's own files, by name."""

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                found = re.search(r"(?:query|mutation)\s+(\w+)", body.decode(errors="replace"))
                operation = found[1] if found and self.path == "/graphql" else self.path
                server.asked.append(operation)
                if server.fault == "slow":
                    server.over.wait()
                    return
                if isinstance(server.fault, int):
                    self.reply(server.fault, {"errors": [{"message": "refused by the stand-in"}]})
                    return
                server.uploaded.append(body)
                if self.path.startswith("/upload/"):
                    server.files[self.path.removeprefix("/upload/")] = body
                variables = {}
                with suppress(ValueError, AttributeError):  # a file, or lines of the history
                    variables = json.loads(body).get("variables") or {}
                if operation == "upsertView":
                    server.views.append(variables)
                self.reply(200, answer(operation, variables, server.address))

            do_GET = do_PUT = do_POST

        super().__init__(Handler)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        super().__exit__()


def answer(operation: str, variables: dict[str, Any], address: str) -> Any:
    """What W&B says to an operation, as far as its client reads it."""
    project = {"id": "P", "name": "vicuna_lit", "entity": {"id": "E", "name": "me"}}
    bucket = {"id": "B", "name": "abc", "displayName": "name", "description": None, "config": "{}", "sweepName": None,
              "project": project, "historyLineCount": 0}  # fmt: skip
    listed = {"id": "P", "name": "vicuna_lit", "entityName": "me", "createdAt": "", "isBenchmark": False, "user": None}
    viewer = {"id": "V", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
    data: dict[str, Any] = {
        "Viewer": {"viewer": viewer},
        "GetDefaultEntity": {"viewer": viewer},
        "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
        "RunResumeStatus": {"model": None},
        "ServerFeaturesQuery": {"serverInfo": {"features": []}},
        "ProjectInternalId": {"project": {"id": "P", "internalId": "7"}},
        "GetProjects": {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": [{"node": listed}]}},
        "upsertView": {"upsertView": {"view": view(variables), "inserted": "id" not in variables}},
    }
    return {"data": data.get(operation) or _upload(operation, variables, address)} if operation[0] != "/" else {}


def view(variables: dict[str, Any]) -> dict[str, Any]:
    """A report or workspace as it is kept."""
    where = {"id": "P", "name": variables.get("projectName"), "entityName": variables.get("entityName")}
    kept = {key: variables.get(key) for key in ("type", "name", "displayName", "description", "spec")}
    return kept | {"id": variables.get("id") or "Vmlldzox", "project": where, "createdAt": None, "updatedAt": None}


def _upload(operation: str, variables: dict[str, Any], address: str) -> dict[str, Any]:
    """Where files go."""

    def place(name: str) -> dict[str, Any]:
        return {"uploadUrl": f"{address}/upload/{name}", "uploadHeaders": []}

    made, files = variables.get("input") or {}, variables.get("files") or []
    artifact = {"id": made.get("clientID"), "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
    nodes = [
        {"storagePath": one["name"], **place(one["name"]), "uploadMultipartUrls": None, "artifact": {"id": "A"}}
        for one in made.get("artifactFiles") or []
    ]
    manifest = {"id": "M", "file": {"id": "F", **place(f"manifest/{variables.get('artifactID')}")}}
    data: dict[str, Any] = {
        "CreateRunFiles": {
            "runID": "B",
            "uploadHeaders": [],
            "files": [{"name": name} | place(name) for name in files],
        },
        "CreateArtifact": {"artifact": artifact},
        "CreateArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}},
        "CreateArtifactManifest": {"artifactManifest": manifest},
        "UpdateArtifactManifest": {"artifactManifest": manifest},
        "CommitArtifact": {"artifact": {"id": variables.get("artifactID"), "digest": "d"}},
        "UseArtifact": {"artifact": {"id": "A"}},
    }
    return {operation[0].lower() + operation[1:]: data[operation]} if operation in data else {}


def environment(address: str) -> dict[str, str]:
    """What a client needs to ask it and nobody else."""
    return {"WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "WANDB_HTTP_TIMEOUT": "2", "NETRC": "/dev/null"}
