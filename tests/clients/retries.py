#!/usr/bin/env python3
"""Lets grpcio and grpc-js retry with the service config, while WeChat and the gateway fail.

    retries.py STUBS BINARY CONFIG [NODE_MODULES]

STUBS and NODE_MODULES are those of readme.py, BINARY is the gateway, CONFIG its service config. No call here
sets a deadline or repeats anything itself. The simulator's journal shows what reached WeChat.
"""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from concurrent.futures import Future, ThreadPoolExecutor

import grpc

STUBS, BINARY, CONFIG = sys.argv[1:4]
sys.path.insert(0, STUBS)
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
GATEWAY, WECHAT = "127.0.0.1:28951", "127.0.0.1:28952"
# Of two gateways that share a Redis.
PAIR, REDIS = [GATEWAY, "127.0.0.1:28961"], "127.0.0.1:28956"
ADD, LIST, CLEAR = "/wxa/add_store", "/wxa/get_store_list", "/cgi-bin/clear_quota"
SECONDS = 60
# Connections are closed with GOAWAY all the time.
SETTINGS = f"""
[listen]
grpc = "%s"
admin = "127.0.0.1:0"
[state]
url = "%s"
# Only a Redis needs one.
keys = ["c3RhdGUta2V5LWZvci10aGUtdGVzdHMtMzItYnl0ZXM="]
[wechat]
hosts = ["http://{WECHAT}"]
[limits]
connection_age_ms = 1000
[[accounts]]
app_id = "wx0000000000000001"
kind = "official"
default = true
secret = "official-secret"
"""


class Python:
    """A client with grpcio. `call` returns what retries.js prints, as a future."""

    name = "grpcio"

    def __init__(self, config, target=GATEWAY):
        # Otherwise the host's name would be the list of addresses, which is not a name.
        options = [("grpc.enable_retries", 1), ("grpc.default_authority", "gateway")]
        if config:
            with open(config, encoding="utf-8") as file:
                options.append(("grpc.service_config", file.read()))
        self.channel = grpc.insecure_channel(target, options=options)
        self.threads = ThreadPoolExecutor(max_workers=16)

    def call(self, rpc, **fields):
        service, method = rpc.split("/")
        family = service.removesuffix("Service").lower()
        messages = importlib.import_module(f"wechat.store.v1.{family}_pb2")
        stub = getattr(importlib.import_module(f"wechat.store.v1.{family}_pb2_grpc"), f"{service}Stub")(self.channel)
        request = getattr(messages, f"{method}Request")(**fields)
        return self.threads.submit(self.end, getattr(stub, method), request)

    @staticmethod
    def end(method, request):
        try:
            return {"code": "OK", "text": "", "recovered": getattr(method(request), "recovered", False)}
        except grpc.RpcError as error:
            details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
            text = f"{error.details()} {details.decode('latin1')}"
            return {"code": error.code().name, "text": text, "recovered": False}

    def close(self):
        self.threads.shutdown()
        self.channel.close()


class Node:
    """A client with grpc-js, in a process of its own."""

    name = "grpc-js"

    def __init__(self, config, target=GATEWAY):
        command = ["node", os.path.join(ROOT, "tests/clients/retries.js"), target] + ([config] if config else [])
        environment = {**os.environ, "NODE_PATH": os.path.abspath(sys.argv[4])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        self.ids, self.ends = itertools.count(), {}
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            end = json.loads(line)
            self.ends.pop(end.pop("id")).set_result(end)

    def call(self, rpc, **fields):
        future, number = Future(), next(self.ids)
        self.ends[number] = future
        self.process.stdin.write(json.dumps({"id": number, "rpc": rpc, "request": fields}) + "\n")
        self.process.stdin.flush()
        return future

    def close(self):
        self.process.stdin.close()
        self.process.wait(SECONDS)


class Process:
    """A server."""

    running = []

    def __init__(self, *arguments):
        self.arguments = arguments
        self.start()
        self.running.append(self)

    def start(self):
        with open(os.path.join(FOLDER, "log"), "ab") as output:
            self.process = subprocess.Popen(self.arguments, stdout=output, stderr=output)

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


class Gateway(Process):
    """A gateway that serves."""

    def __init__(self, address, state):
        self.address = address
        settings = os.path.join(FOLDER, f"settings-{address}-{state[:5]}.toml")
        with open(settings, "w", encoding="utf-8") as file:
            file.write(SETTINGS % (address, state))
        super().__init__(BINARY, "serve", "--config", settings)

    def start(self):
        super().start()
        until(self.serves, "it does not start")

    def serves(self):
        command = [BINARY, "healthcheck", "--address", self.address]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


def simulator(method, path, body=None):
    """Calls the simulator's own interface."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"http://{WECHAT}/_simulator/{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        return json.load(response)


def fail(path, kind, times=1):
    """Lets the next calls of a path fail, and forgets the calls so far."""
    simulator("DELETE", "journal")
    simulator("POST", "faults", {"path": path, "kind": kind, "times": times})


def sent(path):
    return len(simulator("GET", f"journal?path={path}")["calls"])


def until(true, what):
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


PLACES = iter(())
NUMBERS = itertools.count(1)


def add_store(client, named=True):
    """Submits a new store. Without a name, the gateway cannot recognize a repeat."""
    return client.call(
        "StoreService/AddStore",
        map_poi_id=next(PLACES),
        picture_urls=["http://mmbiz.qpic.cn/mmbiz_png/first/0"],
        contact_phone="020-89190388",
        hours={"open": "10:00", "close": "21:30"},
        license_number=f"9144{next(NUMBERS):08}",
        request_id=str(uuid.uuid4()) if named else "",
    )


def expect(what, future, code, path=None, calls=None, text=""):
    """Checks the end of a call, and how often WeChat got it."""
    end = future.result(SECONDS)
    assert end["code"] == code and text in end["text"], f"{what}: {end}"
    reached = "" if path is None else f", {sent(path)} calls at WeChat"
    assert path is None or sent(path) == calls, f"{what}: {end}{reached} instead of {calls}"
    print(f"{what}: {code}{reached}", flush=True)


def wechat_fails(client, plain, throttled):
    name = client.name
    # The gateway makes three attempts of its own.
    fail(LIST, "reset_before", 3)
    expect(f"{name}, WeChat is lost, no config", plain.call("StoreService/ListStores"), "UNAVAILABLE", LIST, 3)
    fail(LIST, "reset_before", 3)
    expect(f"{name}, WeChat is lost", client.call("StoreService/ListStores"), "OK", LIST, 4)

    # The gateway asks for a pause of a second. The config's own first pause is much shorter.
    fail(LIST, {"errcode": {"errcode": -1}}, 3)
    began = time.monotonic()
    expect(f"{name}, WeChat is busy", client.call("StoreService/ListStores"), "OK", LIST, 4)
    assert time.monotonic() - began >= 1, "the client did not wait as the gateway asked"

    # A library that waited for this would report that the deadline passed.
    rpc, path, fields = throttled
    fail(path, {"throttle": {"retry_after": "3600"}})
    expect(f"{name}, WeChat asks for an hour", client.call(rpc, **fields), "UNAVAILABLE", path, 1)

    refused = {"status": {"code": 403}}
    fail(ADD, refused)
    expect(f"{name}, a write", add_store(client), "OK", ADD, 2)
    fail(ADD, refused)
    expect(f"{name}, a write without request_id", add_store(client, False), "UNAVAILABLE", ADD, 1)
    fail(CLEAR, refused)
    clear = client.call("AccountService/ClearQuota", request_id=str(uuid.uuid4()))
    expect(f"{name}, a write for operators", clear, "UNAVAILABLE", CLEAR, 1)


def gateway_is_killed(clients, gateway):
    """Kills the gateway while WeChat executes four stores, and starts it again."""
    fail(ADD, "hold", 2 * len(clients))
    stores = [(client, add_store(client), add_store(client, False)) for client in clients]
    until(lambda: sent(ADD) == 2 * len(clients), "the stores do not reach WeChat")
    gateway.end(signal.SIGKILL)
    gateway.start()
    for client, named, nameless in stores:
        what = f"{client.name}, a killed gateway, without request_id"
        expect(what, nameless, "UNKNOWN", ADD, 2 * len(clients), "OUTCOME_UNKNOWN")
        expect(f"{client.name}, a killed gateway", named, "OK", ADD, 2 * len(clients))
        assert named.result()["recovered"], "the gateway found out that the store was added"


def gateways_restart(what, clients, gateways):
    """Restarts each gateway twice while the clients call them."""
    simulator("DELETE", "journal")
    stop, ends = threading.Event(), []

    def load(client):
        while not stop.is_set():
            ends.append((client.name, "read", client.call("StoreService/ListStores").result(SECONDS)))
            ends.append((client.name, "write", add_store(client).result(SECONDS)))

    with ThreadPoolExecutor() as threads:
        loads = [threads.submit(load, client) for client in clients for _ in range(4)]
        try:
            for gateway in 2 * gateways:
                progress(ends)
                assert gateway.end(signal.SIGTERM) == 0
                gateway.start()
            progress(ends)
        finally:
            stop.set()
        for done in loads:
            done.result(SECONDS)
    failed = [end for end in ends if end[2]["code"] != "OK"]
    assert not failed, f"{len(failed)} of {len(ends)} failed: {failed[:3]}"
    writes = sum(what == "write" for _, what, _ in ends)
    assert sent(ADD) == writes, f"{sent(ADD)} calls at WeChat for {writes} writes"
    print(f"{what}: all of {len(ends)} calls are OK, WeChat got each of {writes} writes once")


def progress(ends):
    """Waits for fifty further calls."""
    goal = len(ends) + 50
    until(lambda: len(ends) >= goal, f"only {len(ends)} calls")


def main():
    global PLACES
    try:
        Process(BINARY, "simulate", "--listen", WECHAT)
        gateway = Gateway(GATEWAY, f"sqlite:{FOLDER}/state.db")
        simulator("POST", "settings", {"store_limit": 100_000})
        PLACES = iter(simulator("POST", "map_pois", {"count": 20_000})["map_poi_ids"])
        kinds = [(Python, ("MerchantService/GetMerchantAudit", "/wxa/get_merchant_audit_info", {}))]
        if len(sys.argv) > 4:
            kinds.append((Node, ("CardService/GetStoreCard", "/card/storewxa/get", {"poi_id": "1"})))
        clients = [kind(CONFIG) for kind, _ in kinds]
        for client, (kind, throttled) in zip(clients, kinds):
            plain = kind(None)
            wechat_fails(client, plain, throttled)
            plain.close()
        gateway_is_killed(clients, gateway)
        gateways_restart("two restarts of one gateway", clients, [gateway])
        gateway.end(signal.SIGTERM)

        host, port = REDIS.split(":")
        Process("redis-server", "--bind", host, "--port", port, "--save", "", "--dir", FOLDER)
        pair = [Gateway(address, f"redis://{REDIS}") for address in PAIR]
        both = [kind(CONFIG, f"ipv4:{','.join(PAIR)}") for kind, _ in kinds]
        gateways_restart("two restarts of each of two", both, pair)
        for client in clients + both:
            client.close()
    except BaseException:
        with open(os.path.join(FOLDER, "log"), encoding="utf-8") as log:
            print(*log.readlines()[-20:], file=sys.stderr)
        raise
    finally:
        for process in Process.running:
            process.process.kill()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as FOLDER:
        main()
