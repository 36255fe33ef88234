"""Check a bill of materials: `make sbom` runs it over dist/sbom.json.

The file has to be CycloneDX by CycloneDX's own schema, and to list what requirements/runtime.txt pins for this platform, at
those versions, and the gateway: nothing less and nothing more.
"""

import json
import re
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gateway

ROOT = Path(__file__).parents[2]


def main() -> int:
    """0 when the bill is right; else each problem on a line."""
    text = Path(sys.argv[1]).read_text()
    problems = differences(text, (ROOT / "requirements/runtime.txt").read_text())
    version = SchemaVersion.from_version(json.loads(text)["specVersion"])
    invalid = JsonStrictValidator(version).validate_str(text)
    if invalid is not None:
        problems.append(f"not CycloneDX {version.to_version()}: {invalid.data.message}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{sys.argv[1]}: CycloneDX {version.to_version()}, {len(json.loads(text)['components'])} components")
    return 1 if problems else 0


def differences(bill: str, pinned: str) -> list[str]:
    """How a bill's components differ from the pinned requirements and the gateway itself."""
    document = json.loads(bill)
    listed = {
        (canonicalize_name(one["name"]), one["version"])
        for one in [document["metadata"]["component"], *document["components"]]
    }
    requirements = [Requirement(text) for text in re.findall(r"^([\w.-]+==[^\\\n]+)", pinned, re.MULTILINE)]
    expected = {("modelarts-gateway", gateway.__version__)} | {
        (canonicalize_name(one.name), next(iter(one.specifier)).version)
        for one in requirements
        if one.marker is None or one.marker.evaluate()
    }
    return [f"missing: {name} {version}" for name, version in sorted(expected - listed)] + [
        f"not shipped: {name} {version}" for name, version in sorted(listed - expected)
    ]


if __name__ == "__main__":
    sys.exit(main())
