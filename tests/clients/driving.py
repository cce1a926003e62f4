"""Runs a driver: a program in any language that makes calls with its client package.

A driver gets the address of the gateway and the options of `connect` as JSON. It reads commands from standard
input, and prints their results. Each line is a JSON object, and messages are in base64. The commands:

    {"id": 1, "do": "call", "rpc": "StoreService/GetStore", "request": "…", "timeout": 20}
    {"id": 2, "do": "watch", "file": "/tmp/cursor"}
    {"id": 3, "do": "wait", "submission": "…", "timeout": 20}

A result has the `id` of its command, and `response`, `event` or `error`. A watch has many.
"""

import base64
import itertools
import json
import queue
import subprocess
import threading
from concurrent.futures import Future

import grpc


class Refused(Exception):
    """An error of a client package. `fields` is what the driver found in it."""

    def __init__(self, fields):
        super().__init__(json.dumps(fields, ensure_ascii=False))
        self.fields, self.reason = fields, fields.get("reason")

    def code(self):
        return grpc.StatusCode[self.fields["code"]]


class Driver:
    """A process with one connection."""

    def __init__(self, command, address, **options):
        command = [*command, address, json.dumps(options or {"plaintext": True})]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ids, self.results, self.writing = itertools.count(1), {}, threading.Lock()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            fields = json.loads(line)
            self.results[fields["id"]](fields)
        for result in list(self.results.values()):
            result({"error": {"message": "the driver has ended"}})

    def command(self, result, **fields):
        with self.writing:
            number = next(self.ids)
            self.results[number] = result
            self.process.stdin.write(json.dumps({"id": number, **fields}) + "\n")
            self.process.stdin.flush()

    def future(self, **fields):
        future = Future()

        def result(found):
            if future.done():
                return
            if "error" in found:
                future.set_exception(Refused(found["error"]))
            else:
                future.set_result(base64.b64decode(found["response"]))

        self.command(result, **fields)
        return future

    def call(self, rpc, request, timeout=None):
        """Returns the response as a future of bytes, or of `Refused`."""
        return self.future(do="call", rpc=rpc, request=text(request), **optional(timeout))

    def wait(self, submission, timeout=None):
        """Returns the decided submission as a future of bytes, or of `Refused`."""
        return self.future(do="wait", submission=text(submission), **optional(timeout))

    def watch(self, file):
        """Returns a queue of the events as bytes. The error that ends the watch is in it, too."""
        events = queue.Queue()

        def result(found):
            events.put(Refused(found["error"]) if "error" in found else base64.b64decode(found["event"]))

        self.command(result, do="watch", file=file)
        return events

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)


def text(message):
    return base64.b64encode(message.SerializeToString()).decode()


def optional(timeout):
    return {} if timeout is None else {"timeout": timeout}
