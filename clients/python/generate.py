"""Generates the code that git does not have, from proto/. hatchling runs it for each build."""

import re
import shutil
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGE = HERE / "src" / "wechat_store_gateway"
SERVICES = '''"""The services of the gateway, generated from the contract."""

from . import v1
from .calling import Calls, Service

'''


class Generate(BuildHookInterface):
    """Generates everything in a repository. A source distribution has the generated code already."""

    PLUGIN_NAME = "custom"

    def initialize(self, version, build_data):
        if not (ROOT / "proto" / "wechat").is_dir():
            return
        for name in ["LICENSE-MIT", "LICENSE-APACHE"]:
            shutil.copy(ROOT / name, HERE)
        shutil.copy(ROOT / "proto" / "service_config.json", PACKAGE)
        files = compiled()
        (PACKAGE / "v1" / "__init__.py").write_text(messages(files), encoding="utf-8")
        (PACKAGE / "services.py").write_text(services(files), encoding="utf-8")


def compiled():
    """Writes the code of protoc to v1/, and returns the descriptors of the contract."""
    import grpc_tools
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc

    sources = sorted((ROOT / "proto" / "wechat" / "store" / "v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder) / "contract.binpb"
        includes = [f"-I{ROOT / 'proto'}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
        outputs = [f"--python_out={folder}", f"--pyi_out={folder}", f"--descriptor_set_out={descriptors}"]
        if protoc.main(["protoc", *includes, *outputs, "--include_source_info", *map(str, sources)]):
            raise SystemExit("protoc cannot compile the contract")
        shutil.rmtree(PACKAGE / "v1", ignore_errors=True)
        (PACKAGE / "v1").mkdir()
        for path in Path(folder, "wechat", "store", "v1").iterdir():
            # The package `wechat` belongs to others on PyPI, so the code is in a package of ours.
            text = path.read_text(encoding="utf-8").replace("from wechat.store.v1 import", "from wechat_store_gateway.v1 import")
            (PACKAGE / "v1" / path.name).write_text(text, encoding="utf-8")
        return FileDescriptorSet.FromString(descriptors.read_bytes()).file


def messages(files):
    """Returns a module with every message, enum and value of the contract."""
    lines = ['"""The messages and enums of `wechat.store.v1`, generated from the contract."""', ""]
    for file in files:
        names = [message.name for message in file.message_type]
        for enum in file.enum_type:
            names += [enum.name, *(value.name for value in enum.value)]
        module = Path(file.name).stem + "_pb2"
        lines += [f"from .{module} import {name} as {name}" for name in names]
    return "\n".join(lines) + "\n"


def services(files):
    """Returns a module with a class for each service, and `Services`, which has one of each."""
    parts, members = [SERVICES], []
    for file in files:
        comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for number, service in enumerate(file.service):
            parts.append(f"\nclass {service.name}(Service):\n{docstring(comments.get((6, number), ''), 4)}")
            for position, method in enumerate(service.method):
                # Streams belong to `Gateway.watch`.
                if not method.server_streaming:
                    comment = comments.get((6, number, 2, position), "")
                    parts.append(call(f"/{file.package}.{service.name}/{method.name}", method, comment))
            members.append((snake(service.name.removesuffix("Service")), service.name))
    parts.append('\nclass Services:\n    """One of each service."""\n')
    parts.append("\n    def __init__(self, calls: Calls) -> None:\n")
    parts += [f"        self.{member} = {name}(calls)\n" for member, name in members]
    return "\n".join(parts).replace("\n\n        self", "\n        self")


def call(path, method, comment):
    request, response = (name.rsplit(".", 1)[1] for name in (method.input_type, method.output_type))
    return (
        f"    def {snake(method.name)}(\n"
        f"        self, request: v1.{request}, *, timeout: float | None = None\n"
        f"    ) -> v1.{response}:\n"
        f"{docstring(comment, 8)}"
        f'        return self.calls.call("{path}", request, v1.{response}, timeout)\n'
    )


def docstring(comment, indent):
    text = comment.strip().replace("\\", "\\\\").replace('"""', "'''") or "See the contract."
    lines = [line.removeprefix(" ").rstrip() for line in text.split("\n")]
    lines = ['"""' + lines[0], *lines[1:]]
    lines = [*lines, '"""'] if len(lines) > 1 else [lines[0] + '"""']
    return "".join(f"{' ' * indent}{line}".rstrip() + "\n" for line in lines)


def snake(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
