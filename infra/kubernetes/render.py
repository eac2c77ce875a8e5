"""Print the Kubernetes job that a pool's template makes with its defaults, or with variables that are given as JSON.

    python infra/kubernetes/render.py gpu '{"gpus": 4, "shared_memory": "16Gi"}'

Prefect's worker adds labels, its own environment and a name. What comes out can be read, or validated by a tool that
knows Kubernetes' schemas.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.utilities.templating import apply_values


def template(pool: str) -> dict[str, Any]:
    """The base job template of the pool `cpu` or `gpu`."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name(f"{pool}.json").read_text("utf-8"))
    return found


def job(pool: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that the template of a pool makes; `variables` take the place of its defaults."""
    found = template(pool)
    fields = found["variables"]["properties"]
    # Prefect gives every run a name and a command.
    usual = {"name": "run", "command": ["prefect", "flow-run", "execute"]}
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    filled = apply_values(found["job_configuration"]["job_manifest"], usual | defaults | dict(variables))
    # As the worker does: Kubernetes wants variables as a list.
    (container,) = filled["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    return filled


if __name__ == "__main__":
    print(json.dumps(job(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}), indent=2))
