#!/usr/bin/env python3
"""Tests the client packages in clients/, all with the same calls, while gateways and clients are killed.

    packages.py STUBS BINARY LANGUAGE=FOLDER=COMMAND ...

STUBS is a folder with the Python code generated from proto/, BINARY the gateway. The package of the language is
installed in FOLDER, and COMMAND runs a program in FOLDER. Each language has a driver: see driving.py.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed

from driving import Driver, Refused

STUBS, BINARY, *LANGUAGES = sys.argv[1:]
sys.path.insert(0, STUBS)
from wechat.store.v1 import audit_pb2, map_poi_pb2, store_pb2, types_pb2  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SECONDS = 60
IMPORTED = 40
ADD = "/wxa/add_store"
AES_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
# The driver of each package, and the file for the first program in its README.
PROGRAMS = {"python": ("driver.py", "first.py"), "node": ("driver.js", "first.mjs")}
SETTINGS = """
[listen]
grpc = "{0.grpc}"
callback = "{0.callback}"
admin = "{0.admin}"
[state]
url = "sqlite:{1}"
[wechat]
hosts = ["http://{0.wechat}"]
[[accounts]]
app_id = "wx0000000000000001"
kind = "official"
default = true
secret = "official-secret"
callback = {{ token = "callback-token", aes_key = "{2}" }}
"""


class Place:
    """The addresses of a gateway and its simulator."""

    def __init__(self, port):
        self.grpc, self.wechat, self.callback, self.admin = (f"127.0.0.1:{port + n}" for n in range(4))

    def simulator(self, method, path, body=None):
        """Calls the simulator's own interface."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://{self.wechat}/_simulator/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)

    def approve(self, audit_id):
        self.simulator("POST", f"audits/{audit_id}", {"decision": "approve"})

    def sandbox(self, *options):
        addresses = ["--grpc", self.grpc, "--simulator", self.wechat, "--callback", self.callback, "--admin", self.admin]
        return Process(self, "sandbox", *addresses, *options)


# Calls of every RPC run beside the kills, which mostly wait.
CALLED, KILLED = Place(28971), Place(28976)


class Process:
    """A server. It ends with this program."""

    running = []

    def __init__(self, place, *arguments):
        self.place, self.arguments = place, arguments
        self.log = os.path.join(FOLDER, f"log-{arguments[0]}-{len(self.running)}")
        self.start()
        self.running.append(self)

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([BINARY, *self.arguments], stdout=log, stderr=log)

    def end(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait(SECONDS)

    def restart(self):
        """Kills the server, and starts it on the same state."""
        self.end()
        self.start()

    def serves(self, *options):
        command = [BINARY, "healthcheck", "--address", self.place.grpc, *options]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


def until(true, what):
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Language:
    """A client package that is installed in a folder."""

    def __init__(self, argument):
        self.name, folder, command = argument.split("=", 2)
        self.package = os.path.join(ROOT, "clients", self.name)
        driver, first = (os.path.join(folder, program) for program in PROGRAMS[self.name])
        shutil.copy(os.path.join(self.package, "tests", os.path.basename(driver)), driver)
        with open(first, "w", encoding="utf-8") as file:
            file.write(self.first_program())
        self.driver, self.first = [*shlex.split(command), driver], [*shlex.split(command), first]
        self.seen = []

    def first_program(self):
        """Returns the first program that the README of the package shows, for this gateway."""
        with open(os.path.join(self.package, "README.md"), encoding="utf-8") as file:
            text = re.search(r"```(?:python|js)\n(.*?)```", file.read(), re.S)[1]
        assert "127.0.0.1:50051" in text, f"the first program of {self.name} calls another address"
        return text.replace("127.0.0.1:50051", CALLED.grpc)


def story(language):
    """Calls every RPC, then runs the first program."""
    server = CALLED.sandbox()
    until(server.serves, "the sandbox does not start")
    every = [sys.executable, os.path.join(ROOT, "tests/clients/every_rpc.py"), STUBS, CALLED.grpc, f"http://{CALLED.wechat}", *language.driver]
    done = subprocess.run(every, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{language.name}: {done.stdout}{done.stderr}"
    print(f"{language.name}: {done.stdout.strip()}", flush=True)

    CALLED.simulator("POST", "reset", {})
    with subprocess.Popen(language.first, stdout=subprocess.PIPE, text=True) as program:
        line = program.stdout.readline()
        found = re.fullmatch(r"WeChat reviews X-MAX工厂: (\d+)\n", line)
        assert found, f"{language.name}: the first program printed {line!r}"
        CALLED.approve(found[1])
        rest = program.stdout.read()
    assert re.fullmatch(r"store \d+: AUDIT_STATE_APPROVED\n", rest), f"{language.name}: the first program printed {rest!r}"
    print(f"{language.name}: the first program of its README works", flush=True)
    server.end()


def secure(languages):
    """Calls a gateway with TLS as callers with different identities."""
    server = CALLED.sandbox("--secure")

    def folder():
        with open(server.log, encoding="utf-8") as file:
            return re.search(r"^ *files +(\S+)", file.read(), re.M)

    until(folder, "the sandbox names no folder")
    files = folder()[1]
    until(lambda: server.serves("--tls", "--ca", f"{files}/ca.pem"), "the sandbox does not start")
    tls = {"ca_file": f"{files}/ca.pem"}
    certificate = {"certificate_file": f"{files}/client.pem", "key_file": f"{files}/client.key"}
    for language in languages:
        for name, options, rpc, expected in [
            ("a token", {"token_file": f"{files}/reader.token"}, "GetStore", ("NOT_FOUND", "STORE_NOT_FOUND")),
            ("a token of a reader", {"token_file": f"{files}/reader.token"}, "AddStore", ("PERMISSION_DENIED", "PERMISSION_MISSING")),
            ("a wrong token", {"token": "wsg_wrong"}, "GetStore", ("UNAUTHENTICATED", "CALLER_UNKNOWN")),
            ("a client certificate", certificate, "AddStore", ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        ]:
            driver = Driver(language.driver, CALLED.grpc, **tls, **options)
            request = store_pb2.GetStoreRequest(poi_id="1") if rpc == "GetStore" else store_pb2.AddStoreRequest()
            error = driver.call(f"StoreService/{rpc}", request, timeout=20).exception(SECONDS)
            assert isinstance(error, Refused), f"{language.name}, {name}: {error}"
            found = (error.fields.get("code"), error.reason)
            assert found == expected, f"{language.name}, {name}: {error}"
            driver.close()
        print(f"{language.name}: TLS, tokens and a client certificate work", flush=True)
    server.end()


class World:
    """A simulator, a gateway that can be killed, and a driver of each language that watches."""

    def __init__(self, languages):
        self.languages, self.state = languages, os.path.join(FOLDER, "state.db")
        url = f"http://{KILLED.callback}/wechat/callback/{{app_id}}"
        pushes = ["--callback-url", url, "--callback-token", "callback-token", "--callback-aes-key", AES_KEY]
        Process(KILLED, "simulate", "--listen", KILLED.wechat, *pushes)
        settings = os.path.join(FOLDER, "settings.toml")
        with open(settings, "w", encoding="utf-8") as file:
            file.write(SETTINGS.format(KILLED, self.state, AES_KEY))
        self.gateway = Process(KILLED, "serve", "--config", settings)
        until(self.gateway.serves, "the gateway does not start")
        # The gateway is back long before WeChat would give up, but this test need not wait five seconds.
        KILLED.simulator("POST", "settings", {"store_limit": 100_000, "push_retries": 50, "push_retry_pause_ms": 200})
        # A write that a killed gateway had claimed is blocked for five seconds longer than its deadline.
        with open(os.path.join(ROOT, "proto/service_config.json"), encoding="utf-8") as file:
            self.config = file.read().replace('"30s"', '"4s"')
        count = len(languages) * IMPORTED + 100
        self.places = iter(KILLED.simulator("POST", "map_pois", {"count": count})["map_poi_ids"])
        self.numbers = iter(range(1, count))
        for language in languages:
            self.connect(language)

    def connect(self, language):
        """Starts the driver of a language, and watches with it."""
        language.drive = Driver(language.driver, KILLED.grpc, plaintext=True, service_config=self.config)
        language.cursor = os.path.join(FOLDER, f"{language.name}-cursor")
        if os.path.exists(language.cursor):
            language.only_cursor = language.drive.watch(without_ids(language.cursor))
        language.events = language.drive.watch(language.cursor)

    def store(self, reference="", **fields):
        number = next(self.numbers)
        return store_pb2.AddStoreRequest(
            map_poi_id=next(self.places),
            picture_urls=["http://mmbiz.qpic.cn/mmbiz_png/first/0"],
            contact_phone="020-89190388",
            hours={"open": "10:00", "close": "21:30"},
            license_number=f"9144{number:08}",
            client_reference=reference,
            **fields,
        )

    def add(self, language, reference):
        """Submits a new store. The package gives it a request_id."""
        response = language.drive.call("StoreService/AddStore", self.store(reference), timeout=50).result(SECONDS)
        return store_pb2.AddStoreResponse.FromString(response).submission

    def expect(self, references, gaps=0):
        """Waits for these results in each language, and checks that no event came twice."""
        for language in self.languages:
            missing, left = set(references), gaps
            while missing or left:
                event = language.events.get(timeout=SECONDS)
                assert not isinstance(event, Refused), f"{language.name}: {event}"
                event = audit_pb2.AuditEvent.FromString(event)
                if event.HasField("gap"):
                    left -= 1
                    continue
                assert event.client_reference in missing, f"{language.name}: another result, or one twice: {event}"
                assert event.state == types_pb2.AUDIT_STATE_APPROVED, f"{language.name}: {event}"
                missing.remove(event.client_reference)
                language.seen.append(event.event_id)
            assert len(language.seen) == len(set(language.seen)), f"{language.name}: an event came twice"

    def stored(self):
        """Waits until each language has stored all its events, because a kill before that repeats the last one."""

        def has_all(language):
            with open(language.cursor, encoding="ascii") as file:
                ids = {line.rstrip("\n").partition("\t")[2] for line in file}
            return set(language.seen) <= ids

        for language in self.languages:
            until(lambda: has_all(language), f"{language.name}: the events are not stored")

    def nothing_more(self):
        """Checks that no language got an event that was not expected, by a further one that all get."""
        audit = self.add(self.languages[0], f"last-{len(self.languages[0].seen)}")
        KILLED.approve(audit.audit_id)
        self.expect([audit.client_reference])


def without_ids(path):
    """Returns a copy of the file of a watch with the newest cursor only."""
    with open(path, encoding="ascii") as file:
        cursors = [line.partition("\t")[0] for line in file]
    with open(path + "-only", "w", encoding="ascii") as file:
        file.write([cursor for cursor in cursors if cursor][-1] + "\t\n")
    return path + "-only"


def errors(world):
    """All languages find the same details in the same error."""
    found = []
    for language in world.languages:
        error = language.drive.call("StoreService/AddStore", store_pb2.AddStoreRequest(map_poi_id="x")).exception(SECONDS)
        fields = dict(error.fields)
        assert fields.pop("trace_id") and fields.pop("request_id"), f"{language.name}: {error}"
        kind = re.sub("Error$|Exception$", "", fields.pop("type"))
        found.append({**fields, "type": kind})
        assert (kind, fields["code"], fields["fix_by"]) == ("InvalidArgument", "INVALID_ARGUMENT", "caller"), f"{language.name}: {error}"
        assert "map_poi_id" in [field for field, _ in fields["field_violations"]], error
        missing = language.drive.call("StoreService/GetStore", store_pb2.GetStoreRequest(poi_id="1")).exception(SECONDS).fields
        kind = (missing["reason"], missing["localized_message"], missing["request_id"])
        assert kind == ("STORE_NOT_FOUND", "门店不存在", ""), f"{language.name}: {missing}"
    assert all(one == found[0] for one in found), f"the languages differ: {found}"
    print(f"{names(world)}: errors have reason, fix_by and all wrong fields", flush=True)


def imported(world):
    """Imports stores in all languages at once while the gateway is killed three times."""
    KILLED.simulator("DELETE", "journal")
    numbers = {language: itertools.count() for language in world.languages}

    def one(language):
        running.append(threads.submit(world.add, language, f"{language.name}-{next(numbers[language])}"))

    running = []
    # WeChat executes some stores of the first two parts and does not answer. It gets some of the last one too late to
    # execute them, so the gateway sends them again after fifteen seconds.
    with ThreadPoolExecutor(IMPORTED * len(world.languages)) as threads:
        for fault in ["hold", "hold", {"latency": {"ms": 5000}}]:
            KILLED.simulator("POST", "faults", {"path": ADD, "kind": fault, "times": 2 * len(world.languages)})
            for language in (IMPORTED // 4) * world.languages:
                one(language)
            until(lambda: not KILLED.simulator("GET", "faults")["faults"], "the import does not reach the fault")
            world.gateway.restart()
        for language in (IMPORTED - 3 * (IMPORTED // 4)) * world.languages:
            one(language)
        done = [future.result(SECONDS) for future in running]
    assert all(submission.request_id for submission in done), "a write had no request_id"
    calls = KILLED.simulator("GET", f"journal?path={ADD}")["calls"]
    assert len(calls) == len(running), f"{len(calls)} calls at WeChat for {len(running)} stores"
    assert len({submission.submission_id for submission in done}) == len(running), "two stores have the same submission"
    print(f"{names(world)}: {len(running)} stores, three killed gateways, {len(calls)} calls at WeChat", flush=True)


def watched(world):
    """Decides reviews while the gateway is killed twice, then kills the clients."""
    audits = KILLED.simulator("GET", "audits")["audits"]
    third = len(audits) // 3
    for number, audit in enumerate(audits):
        KILLED.approve(audit["audit_id"])
        if number in (third, 2 * third):
            world.gateway.restart()
    world.expect([f"{language.name}-{number}" for language in world.languages for number in range(IMPORTED)])
    until(world.gateway.serves, "the gateway does not start")
    world.stored()
    while_away = world.add(world.languages[0], "while-away")
    for language in world.languages:
        language.drive.kill()
    KILLED.approve(while_away.audit_id)
    for language in world.languages:
        world.connect(language)
    world.expect(["while-away"])
    for language in world.languages:
        # The cursor is enough to continue. The ids only find events that come twice.
        event = language.only_cursor.get(timeout=SECONDS)
        found = audit_pb2.AuditEvent.FromString(event).client_reference
        assert found == "while-away", f"{language.name} does not continue from its cursor but with {found}"
    world.nothing_more()
    print(f"{names(world)}: {len(world.languages[0].seen)} events, killed gateways and clients, each event once", flush=True)


def waited(world):
    """Waits for reviews while the gateway is killed."""
    submissions = [world.add(language, f"wait-{language.name}") for language in world.languages]
    short = [language.drive.wait(submission, timeout=0.5) for language, submission in zip(world.languages, submissions)]
    for language, future in zip(world.languages, short):
        error = future.exception(SECONDS)
        assert error.fields.get("code") == "DEADLINE_EXCEEDED", f"{language.name}: {error}"
    waits = [language.drive.wait(submission) for language, submission in zip(world.languages, submissions)]
    world.gateway.restart()
    for submission in submissions:
        KILLED.approve(submission.audit_id)
    for language, future in zip(world.languages, waits):
        submission = types_pb2.Submission.FromString(future.result(SECONDS))
        assert submission.state == types_pb2.AUDIT_STATE_APPROVED and submission.poi_id, f"{language.name}: {submission}"
    world.expect([submission.client_reference for submission in submissions])
    print(f"{names(world)}: wait_for_review survives a killed gateway", flush=True)


def lost_event(world):
    """Damages an event in the log before the clients receive it. Its submission still has the result."""
    world.stored()
    for language in world.languages:
        language.drive.kill()
    driver = Driver(world.languages[0].driver, KILLED.grpc)
    request = world.store("damaged")
    submission = store_pb2.AddStoreResponse.FromString(driver.call("StoreService/AddStore", request).result(SECONDS)).submission
    waiting = driver.wait(submission)
    KILLED.approve(submission.audit_id)
    waiting.result(SECONDS)
    driver.close()
    world.gateway.end(signal.SIGTERM)
    with sqlite3.connect(world.state) as state:
        newest = "(SELECT max(position) FROM events)"
        state.execute(f"UPDATE events SET message = substr(message, 1, 30) WHERE position = {newest}")
    state.close()
    world.gateway.start()
    for language in world.languages:
        world.connect(language)
    world.expect(["damaged"], gaps=1)
    world.nothing_more()
    print(f"{names(world)}: a damaged event is listed again by its submission", flush=True)


def expired(world):
    """Replaces the log by an empty one, so that the cursors expire, while the clients watch."""
    old = KILLED.simulator("GET", "pushes")["pushes"][-1]["id"]
    world.gateway.end(signal.SIGTERM)
    for suffix in ["", "-wal", "-shm"]:
        if os.path.exists(world.state + suffix):
            os.remove(world.state + suffix)
    world.gateway.start()
    # The same push has the same event_id, even in another log.
    KILLED.simulator("POST", f"pushes/{old}/redeliver", {})
    fresh = world.add(world.languages[0], "after-expiry")
    KILLED.approve(fresh.audit_id)
    world.expect(["after-expiry"])
    world.nothing_more()
    print(f"{names(world)}: an expired cursor loses nothing and repeats nothing", flush=True)


def names(world):
    return ", ".join(language.name for language in world.languages)


def called(languages):
    for language in languages:
        story(language)
    secure(languages)


def killed(languages):
    world = World(languages)
    for part in [errors, imported, watched, waited, lost_event, expired]:
        part(world)
    for language in languages:
        language.drive.close()


def main():
    languages = [Language(argument) for argument in LANGUAGES]
    try:
        with ThreadPoolExecutor() as threads:
            for done in as_completed([threads.submit(called, languages), threads.submit(killed, languages)]):
                done.result()
    except BaseException:
        for process in Process.running:
            process.process.kill()
        for process in Process.running:
            with open(process.log, encoding="utf-8") as log:
                print(process.log, *log.readlines()[-10:], sep="\n", file=sys.stderr)
        raise
    finally:
        for process in Process.running:
            process.process.kill()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as FOLDER:
        main()
