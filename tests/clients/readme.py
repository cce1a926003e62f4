#!/usr/bin/env python3
"""Runs the first calls that README.md shows, in Python and Node, against a running service.

    readme.py STUBS GATEWAY [NODE_MODULES]

STUBS is the folder of the generated code, GATEWAY a host and port. Without NODE_MODULES, which contains
@grpc/grpc-js and @grpc/proto-loader, only Python runs.
"""

import os
import re
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def program(language, stubs, gateway):
    """Returns the only block of this language in the README, for this gateway."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        blocks = re.findall(rf"```{language}\n(.*?)```", file.read(), re.S)
    assert len(blocks) == 1, f"README.md has {len(blocks)} blocks of {language}"
    assert "127.0.0.1:50051" in blocks[0], f"the {language} of README.md calls another address"
    return blocks[0].replace("127.0.0.1:50051", gateway).replace("target/stubs", os.path.abspath(stubs))


def run(language, command, environment=None):
    """Runs one program, which must print the place that it finds."""
    environment = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{language}: {done.stderr}"
    assert done.stdout == "2708071440732747189 X-MAX工厂\n", f"{language} printed {done.stdout!r}"
    print(f"README.md, {language}: {done.stdout.strip()}")


def main(stubs, gateway, modules=None):
    run("Python", [sys.executable, "-c", program("python", stubs, gateway)])
    if modules:
        run("Node", ["node", "-e", program("js", stubs, gateway)], {"NODE_PATH": os.path.abspath(modules)})


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: readme.py STUBS GATEWAY [NODE_MODULES]")
    main(*sys.argv[1:])
