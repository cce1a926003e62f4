"""Checks that settings.schema.json and the parser agree.

    settings_schema.py GATEWAY

The example with all its keys must be valid, and both must refuse each wrong file.
"""
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "settings.schema.json").read_text())
ACCOUNT = '[[accounts]]\napp_id = "wx0123456789abcdef"\nkind = "official"\nsecret = "s"\n'
IN_CLOUD = '[[accounts]]\napp_id = "wx0123456789abcdef"\nkind = "mini_program"\n'
TOKENS = [
    '"cloudbase"',
    '"open_interface"',
    '{ cloudbase = "/token" }',
    '{ file = "/token", field = "/data/token" }',
    '{ url = "https://tokens/wx", header = "X-Key: key" }',
    '{ redis_key = "wx", url = "redis://redis:6379/0" }',
]
CALLER = '[[callers]]\nname = "orders"\nrole = "reader"\n'
TOKEN = f'tokens = ["{"0" * 64}"]\n'

GOOD = [
    ACCOUNT,
    'callers = "anyone"\n' + ACCOUNT,
    ACCOUNT + CALLER + TOKEN,
    ACCOUNT + 'callback = { token = "token", mode = "plain" }\n',
    *(IN_CLOUD + f"token = {token}\n" for token in TOKENS),
    IN_CLOUD + 'token = "cloudbase"\ncallback = { mode = "cloud", public_route_closed = true }\n',
    ACCOUNT + "[token_service]\nenabled = true\n",
    ACCOUNT + "[audit]\npoll_after_hours = 1\n",
    ACCOUNT + '[log]\nlevel = "warn,h2=debug"\n',
]
WRONG = [
    "[extra]\n" + ACCOUNT,
    *(f"[{name}]\nextra = 1\n{ACCOUNT}" for name in "listen wechat limits state callback audit log activity token_service".split()),
    "[listen]\ngrpc = 1\n" + ACCOUNT,
    '[listen]\nreflection = "all"\n' + ACCOUNT,
    '[listen]\nplaintext = "yes"\n' + ACCOUNT,
    '[listen.tls]\ncertificate = "/tls.crt"\n' + ACCOUNT,
    '[listen.tls]\ncertificate = "a"\nkey = "b"\nclient_certificates = "maybe"\n' + ACCOUNT,
    '[wechat]\nhosts = "https://api.weixin.qq.com"\n' + ACCOUNT,
    "[wechat]\nhosts = [1]\n" + ACCOUNT,
    '[wechat]\nallow_http = "true"\n' + ACCOUNT,
    '[limits]\ncalls = "many"\n' + ACCOUNT,
    "[limits]\ncalls = -1\n" + ACCOUNT,
    "[limits]\ndrain_ms = 1.5\n" + ACCOUNT,
    "[state]\nretention_days = 0\n" + ACCOUNT,
    '[audit]\npoll_after_hours = "1"\n' + ACCOUNT,
    "[log]\nlevel = 3\n" + ACCOUNT,
    "[activity]\nlog = true\n" + ACCOUNT,
    ACCOUNT.replace("[[accounts]]", "[accounts]"),
    ACCOUNT.replace("wx01", "wx"),
    ACCOUNT.replace("official", "service"),
    ACCOUNT.replace('kind = "official"\n', ""),
    ACCOUNT.replace('secret = "s"\n', ""),
    ACCOUNT.replace('"s"', "5"),
    ACCOUNT.replace('"s"', '{ path = "/secret" }'),
    ACCOUNT + 'token = "new"\n',
    IN_CLOUD + 'token = "stable"\n',
    IN_CLOUD + 'token = { path = "/token" }\n',
    IN_CLOUD + "token = { file = 1 }\n",
    IN_CLOUD + 'token = "cloudbase"\ncallback = { mode = "cloud" }\n',
    ACCOUNT + '[token_service]\nenabled = "yes"\n',
    ACCOUNT + "extra = 1\n",
    ACCOUNT + 'callback = { mode = "plain" }\n',
    ACCOUNT + 'callback = { token = "token", mode = "open" }\n',
    ACCOUNT + 'callback = { token = "token", mode = "plain", forward_to = [{ only = ["text"] }] }\n',
    'callers = "everyone"\n' + ACCOUNT,
    ACCOUNT + CALLER.replace("reader", "owner") + TOKEN,
    ACCOUNT + CALLER.replace('name = "orders"\n', "") + TOKEN,
    ACCOUNT + CALLER + 'tokens = ["short"]\n',
    ACCOUNT + CALLER + 'jwt = [{ issuer = "https://issuer" }]\n',
    ACCOUNT + CALLER + TOKEN + "rate = -1\n",
    ACCOUNT + '[[issuers]]\nissuer = "https://issuer"\naudiences = ["a"]\n',
    ACCOUNT + '[[issuers]]\nissuer = "https://issuer"\naudiences = ["a"]\njwks = "/keys"\n',
]


def uncommented():
    """Returns the example with all its keys, except callers = "anyone"."""
    lines, in_list = [], False
    for line in (ROOT / "settings.example.toml").read_text().splitlines():
        text = line.removeprefix("# ") if line.startswith("# ") else ""
        begins = text.endswith(" = [")
        if in_list or begins or is_toml(text) and text != 'callers = "anyone"':
            in_list = (in_list or begins) and text != "]"
            line = text
        lines.append(line)
    return "\n".join(lines)


def is_toml(text):
    try:
        return bool(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        return False


def keys(schema):
    """Yields the name of each key."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        yield from properties if isinstance(properties, dict) else ()
        for value in schema.values():
            yield from keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys(value)


def refusals(validator, text):
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(tomllib.loads(text))]


def parser_refuses(gateway, text):
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        ended = subprocess.run([gateway, "check", "--config", file.name], capture_output=True, text=True, env={}, check=False)
    if ended.returncode not in (0, 64):
        sys.exit(f"check ended with {ended.returncode}: {ended.stderr}")
    return ended.stderr


def main():
    gateway = sys.argv[1]
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft7Validator(SCHEMA)
    problems = []
    example = uncommented()
    problems += [f"the example is refused: {refusal}" for refusal in refusals(validator, example)]
    refused = parser_refuses(gateway, example)
    problems += [f"the parser refuses a key of the example: {line}" for line in refused.splitlines() if "unknown" in line or "invalid type" in line]
    used = set(all_keys(tomllib.loads(example)))
    problems += [f"the example lacks {key}" for key in sorted(set(keys(SCHEMA)) - used - {"callers"})]
    for text in GOOD:
        if refusal := refusals(validator, text) or parser_refuses(gateway, text):
            problems.append(f"refused a good file: {refusal}\n{text}")
    for text in WRONG:
        if not refusals(validator, text):
            problems.append(f"the schema accepts a wrong file:\n{text}")
        if not parser_refuses(gateway, text):
            problems.append(f"the parser accepts a wrong file:\n{text}")
    print("\n".join(problems) or f"the schema and the parser agree on {len(GOOD)} good and {len(WRONG)} wrong files")
    return 1 if problems else 0


def all_keys(value):
    """Yields the name of each key of a parsed file."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from all_keys(part)


if __name__ == "__main__":
    sys.exit(main())
