#!/usr/bin/env python3
"""Runs examples/python/follow_audits.py, kills it, and sees that it misses nothing.

    follow.py STUBS GATEWAY SIMULATOR

STUBS, GATEWAY and SIMULATOR are those of every_rpc.py.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from queue import Queue

import grpc

STUBS, GATEWAY, SIMULATOR = sys.argv[1:4]
sys.path.insert(0, STUBS)
map_poi = importlib.import_module("wechat.store.v1.map_poi_pb2")
map_poi_grpc = importlib.import_module("wechat.store.v1.map_poi_pb2_grpc")

EXAMPLE = os.path.join(os.path.dirname(__file__), "../../examples/python/follow_audits.py")
channel = grpc.insecure_channel(GATEWAY)


def reviewed(reference):
    """Submits something, and lets it pass."""
    request = map_poi.CreateMapPoiRequest(
        client_reference=reference,
        name="巷口小馆",
        district_id="440105",
        address="新港中路123号",
        location={"latitude": 23.09, "longitude": 113.32},
        category="美食:中餐厅",
        telephones=["020-89190388"],
        photo_url="http://mmbiz.qpic.cn/a/0",
        license_url="http://mmbiz.qpic.cn/b/0",
        introduction="馄饨",
    )
    created = map_poi_grpc.MapPoiServiceStub(channel).CreateMapPoi(request, timeout=20)
    path = f"{SIMULATOR}/_simulator/audits/{created.submission.audit_id}"
    urllib.request.urlopen(path, json.dumps({"decision": "approve"}).encode(), timeout=20).close()


class Follower:
    """The example, and what it prints about our shops."""

    def __init__(self, folder):
        command = [sys.executable, EXAMPLE, GATEWAY, folder]
        environment = os.environ | {"PYTHONPATH": STUBS}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        self.folder = folder
        self.events = Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            event = json.loads(line)
            if event.get("clientReference", "").startswith("followed-"):
                self.events.put((event["clientReference"], event["eventId"]))

    def next(self):
        """Returns the reference of the next event, after the example recorded the event as handled. A kill
        before that repeats the event, as the example documents."""
        reference, event_id = self.events.get(timeout=20)
        for _ in range(200):
            with open(os.path.join(self.folder, "handled"), encoding="ascii") as file:
                if event_id in file.read().split():
                    return reference
            time.sleep(0.1)
        raise AssertionError(f"{reference} was not recorded as handled")

    def killed(self):
        self.process.kill()
        self.process.wait()


with tempfile.TemporaryDirectory() as folder:
    first = Follower(folder)
    try:
        reviewed("followed-1")
        assert first.next() == "followed-1"
    finally:
        first.killed()
    reviewed("followed-2")
    second = Follower(folder)
    try:
        assert second.next() == "followed-2"
        reviewed("followed-3")
        assert second.next() == "followed-3"
    finally:
        second.killed()
    assert first.events.empty() and second.events.empty()
print("the example in examples/python missed nothing and repeated nothing")
