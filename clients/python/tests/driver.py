"""Makes the calls that tests/clients/packages.py writes to standard input, with the installed package.

    driver.py ADDRESS OPTIONS

OPTIONS is a JSON object with the options of `connect`. A line of the input is a command, and a line of the output
belongs to the command with the same `id`. Both are JSON. Messages are in base64.
"""

import base64
import json
import re
import sys
import threading

from wechat_store_gateway import FileCursorStore, GatewayError, connect, v1

output = threading.Lock()


def answer(command, **fields):
    with output:
        print(json.dumps({"id": command["id"], **fields}), flush=True)


def parsed(message, text):
    return message.FromString(base64.b64decode(text))


def packed(message):
    return base64.b64encode(message.SerializeToString()).decode()


def snake(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def call(gateway, command):
    service, method = command["rpc"].split("/")
    request = parsed(getattr(v1, f"{method}Request"), command["request"])
    rpc = getattr(getattr(gateway, snake(service.removesuffix("Service"))), snake(method))
    answer(command, response=packed(rpc(request, timeout=command.get("timeout"))))


def watch(gateway, command):
    for event in gateway.watch(FileCursorStore(command["file"]), kinds=command.get("kinds", [])):
        answer(command, event=packed(event))


def wait(gateway, command):
    submission = parsed(v1.Submission, command["submission"])
    answer(command, response=packed(gateway.wait_for_review(submission, timeout=command.get("timeout"))))


def run(gateway, command):
    try:
        {"call": call, "watch": watch, "wait": wait}[command["do"]](gateway, command)
    except GatewayError as error:
        fields = [[violation.field, violation.description] for violation in error.field_violations]
        same = ["reason", "message", "localized_message", "fix_by", "metadata", "retry_after", "trace_id", "request_id"]
        found = {name: getattr(error, name) for name in same}
        answer(command, error={"type": type(error).__name__, "code": error.code.name, "field_violations": fields, **found})
    except Exception as error:  # The test shows it.
        answer(command, error={"type": type(error).__name__, "message": str(error)})
        raise


def main(address, options):
    with connect(address, **json.loads(options)) as gateway:
        threads = []
        for line in sys.stdin:
            threads.append(threading.Thread(target=run, args=(gateway, json.loads(line)), daemon=True))
            threads[-1].start()


if __name__ == "__main__":
    main(*sys.argv[1:])
