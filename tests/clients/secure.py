#!/usr/bin/env python3
"""Calls a gateway with TLS as callers with different identities, with foreign clients.

    secure.py STUBS GATEWAY FOLDER [NODE_MODULES]

STUBS and NODE_MODULES are those of readme.py. GATEWAY is the host and port of `sandbox --secure`, FOLDER the
folder that it prints. The programs in docs/security.md run as they are there.
"""

import os
import re
import subprocess
import sys
import tempfile
import time

import grpc

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
STUBS, GATEWAY, FOLDER = sys.argv[1:4]
READ = "/wechat.store.v1.MerchantService/ListCategories"
WRITE = "/wechat.store.v1.StoreService/AddStore"


def program(language):
    """Returns the only block of this language in the document, for this gateway and its files."""
    with open(os.path.join(ROOT, "docs", "security.md"), encoding="utf-8") as file:
        blocks = re.findall(rf"```{language}\n(.*?)```", file.read(), re.S)
    assert len(blocks) == 1, f"docs/security.md has {len(blocks)} blocks of {language}"
    block = blocks[0]
    for documented, here in [
        ("127.0.0.1:50051", GATEWAY),
        ("target/stubs", os.path.abspath(STUBS)),
        ('"ca.pem"', f'"{FOLDER}/ca.pem"'),
        ('"reader.token"', f'"{FOLDER}/reader.token"'),
    ]:
        assert documented in block or language == "js", f"{documented} is not in the {language} program"
        block = block.replace(documented, here)
    return block


def run(language, command, environment=None):
    """Runs one program, which must print the place that it finds."""
    environment = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{language}: {done.stderr}"
    assert done.stdout == "2708071440732747189 X-MAX工厂\n", f"{language} printed {done.stdout!r}"
    print(f"docs/security.md, {language}: {done.stdout.strip()}")


def content(name):
    with open(os.path.join(FOLDER, name), "rb") as file:
        return file.read()


def code(credentials, path):
    """Returns the status code of a call with an empty request."""
    with grpc.secure_channel(GATEWAY, credentials) as channel:
        try:
            channel.unary_unary(path)(b"", timeout=20)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def identities():
    tls = grpc.ssl_channel_credentials(content("ca.pem"))
    certified = grpc.ssl_channel_credentials(content("ca.pem"), content("client.key"), content("client.pem"))
    token = grpc.access_token_call_credentials(content("reader.token").decode().strip())
    reader = grpc.composite_channel_credentials(tls, token)
    wrong = grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials("wsg_wrong"))
    foreign = grpc.ssl_channel_credentials(content("client.pem"))
    for name, credentials, path, expected in [
        ("a reader's token reads", reader, READ, "OK"),
        ("a reader's token does not write", reader, WRITE, "PERMISSION_DENIED"),
        ("a client certificate reads", certified, READ, "OK"),
        # The request is empty.
        ("a client certificate of a writer writes", certified, WRITE, "INVALID_ARGUMENT"),
        ("no token", tls, READ, "UNAUTHENTICATED"),
        ("a wrong token", wrong, READ, "UNAUTHENTICATED"),
        ("another CA", foreign, READ, "UNAVAILABLE"),
    ]:
        found = code(credentials, path)
        assert found == getattr(grpc.StatusCode, expected), f"{name}: {found}"
        print(f"grpcio: {name}: {expected}")


def versions():
    """Connects with each version of TLS. The client must be willing to use the old one."""
    for version, accepted in [("1_3", True), ("1_2", True), ("1_1", False)]:
        command = ["openssl", "s_client", "-connect", GATEWAY, f"-tls{version}", "-alpn", "h2", "-brief"]
        command += ["-CAfile", os.path.join(FOLDER, "ca.pem"), "-verify_return_error"]
        command += ["-cipher", "DEFAULT:@SECLEVEL=0"] if version != "1_3" else []
        done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True, timeout=60)
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == accepted, f"TLS {version}: {output}"
        # The server itself refuses the old version, not the client.
        assert accepted or "SSL alert number" in output, f"TLS {version}: {output}"
        print(f"openssl: TLS {version.replace('_', '.')} is {'accepted' if accepted else 'refused'}")


def follows():
    """Runs examples/python with a client certificate and with a token, until it has stored a cursor."""
    example = os.path.join(ROOT, "examples", "python", "follow_audits.py")
    proofs = [{"CERT": "client.pem", "KEY": "client.key"}, {"TOKEN": "reader.token"}]
    for proof in proofs:
        files = {f"WECHAT_STORE_GATEWAY_{name}_FILE": os.path.join(FOLDER, file) for name, file in proof.items()}
        files["WECHAT_STORE_GATEWAY_CA_FILE"] = os.path.join(FOLDER, "ca.pem")
        environment = {**os.environ, **files, "PYTHONPATH": STUBS}
        with tempfile.TemporaryDirectory() as folder:
            with subprocess.Popen([sys.executable, example, GATEWAY, folder], env=environment) as process:
                end = time.monotonic() + 60
                while not os.path.exists(os.path.join(folder, "cursor")):
                    assert process.poll() is None and time.monotonic() < end, f"{proof}: no cursor"
                    time.sleep(0.05)
                process.kill()
        print(f"examples/python: watches with {', '.join(proof.values())}")


if __name__ == "__main__":
    identities()
    versions()
    follows()
    run("python", [sys.executable, "-c", program("python")])
    if len(sys.argv) > 4:
        run("js", ["node", "-e", program("js")], {"NODE_PATH": os.path.abspath(sys.argv[4])})
