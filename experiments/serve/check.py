"""Lets SkyPilot's own parser read the service file; needs an environment of its own, as `experiments/spot/check.py`.

/tmp/sky/bin/python experiments/serve/check.py
"""

import sys
from pathlib import Path

import sky  # pyright: ignore[reportMissingImports]
import yaml


def problems(file: Path) -> list[str]:
    """What is wrong with a service file."""
    written = yaml.safe_load(file.read_text())
    port = str(written["service"]["ports"])
    task = sky.Task.from_yaml_config(written, secrets_overrides=[(name, "x") for name in written["secrets"]])
    service, found = task.service, []
    if service is None:
        return ["no service"]
    if service.readiness_path != "/health":
        found.append(f"it is ready when {service.readiness_path} answers, which vLLM does not serve")
    if not service.dynamic_ondemand_fallback:
        found.append("no on-demand machine steps in where spot has none")
    if service.min_replicas < 2:
        found.append("one machine that is taken away takes the service away")
    for resources in task.resources:
        if not resources.use_spot or not resources.accelerators:
            found.append(f"{resources}: no spot machine with an accelerator")
        if port not in (resources.ports or []):
            found.append(f"{resources}: the port of the service is closed")
    return found


if __name__ == "__main__":
    wrong = {file.name: problems(file) for file in sorted(Path(__file__).parent.glob("*.yaml"))}
    for name, found in wrong.items():
        print(f"{name}: {'; '.join(found) or 'ok'}")
    sys.exit(any(wrong.values()))
