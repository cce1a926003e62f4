#!/usr/bin/env python3
"""Shows that each alert fires for its fault, that none fires without one, and that the dashboard has data.

    fire.py GATEWAY FOLDER

It starts one gateway with a simulated WeChat for each fault, a healthy one beside them, and a Prometheus that scrapes
all of them. Prometheus uses deploy/prometheus/rules.yaml, with one change: a minute is two seconds, in `for` and in
the ranges of expressions. Each second has a scrape and an evaluation. Thresholds are unchanged. What must be old was made by
an earlier process whose clock was set back with libfaketime. Some worlds have a fault that no alert should report.

At the end, each world's folder has the text of /metrics in metrics.txt.
"""
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import grpc
import yaml

GATEWAY, FOLDER = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules.yaml"
DASHBOARD = DEPLOY / "grafana/wechat-store-gateway.json"
NEARBY = json.loads((DEPLOY.parent / "tests/documented/nearby/addnearbypoi.json").read_text(encoding="utf-8"))["request"]
KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
OFFICIAL, MINI_PROGRAM = "wx0000000000000001", "wx0000000000000002"
EARLIER = {"LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "FAKETIME": "-8d", "DONT_FAKE_MONOTONIC": "1"}
# A disk that does not end a sync while the file HANG exists.
HANGING_DISK = r"""
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void hang(void) {
    while (access(getenv("HANG"), F_OK) == 0) usleep(50000);
}
int fsync(int file) { hang(); return syscall(SYS_fsync, file); }
int fdatasync(int file) { hang(); return syscall(SYS_fdatasync, file); }
"""
PROMETHEUS = 28960
# Below those that the system hands out itself, and beside those of the step `clients`.
FIRST_PORT = 28961
LIMIT = 240
JOB = "wechat-store-gateway-"
stop = threading.Event()
running = []


def start(command, log, **environment):
    process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
    running.append(process)
    return process


def end(process):
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


def http(url, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


def until(what, condition, seconds=30):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            if condition():
                return
        time.sleep(0.1)
    raise AssertionError(f"{what}: not after {seconds} s")


class World:
    """A gateway with its own simulated WeChat."""

    number = 0

    def __init__(self, name, settings="", secret="official-secret", audit=None, listen="", pushed=True):
        self.name = name
        base = FIRST_PORT + 4 * World.number
        World.number += 1
        self.wechat, self.grpc, self.push, self.admin = (f"127.0.0.1:{base + index}" for index in range(4))
        self.folder = FOLDER / name
        self.folder.mkdir(parents=True)
        self.settings = self.folder / "settings.toml"
        callback = f'callback = {{ token = "callback-token", aes_key = "{KEY}" }}' if pushed else ""
        self.settings.write_text(
            f"""
[listen]
grpc = "{self.grpc}"
callback = "{self.push}"
admin = "{self.admin}"
{listen}
[wechat]
hosts = ["http://{self.wechat}"]
[state]
url = "sqlite:{self.folder}/state.db"
{settings}
[[accounts]]
app_id = "{OFFICIAL}"
kind = "official"
default = true
secret = "{secret}"
{callback}
[[accounts]]
app_id = "{MINI_PROGRAM}"
kind = "mini_program"
default = true
secret = "mini-program-secret"
{callback}
"""
        )
        self.log = open(self.folder / "log", "w")
        simulate = [GATEWAY, "simulate", "--listen", self.wechat, "--callback-token", "callback-token"]
        simulate += ["--callback-url", f"http://{self.push}/wechat/callback/{{app_id}}", "--callback-aes-key", KEY]
        if audit is not None:
            simulate += ["--audit-delay", str(audit)]
        self.simulator = start(simulate, self.log)
        until(f"simulator of {name}", lambda: self.control("settings", method="GET"))

    def control(self, path, body=None, method="POST"):
        return http(f"http://{self.wechat}/_simulator/{path}", body, method)

    def serve(self, **environment):
        self.gateway = start([GATEWAY, "serve", "--config", self.settings], self.log, **environment)
        until(f"gateway of {self.name}", lambda: http(f"http://{self.admin}/livez"))

    def call(self, method, **request):
        """Calls a method and returns its exit code."""
        command = [GATEWAY, "call", "--address", self.grpc, method, json.dumps(request)]
        return subprocess.run(command, stdout=self.log, stderr=self.log, timeout=60, check=False).returncode

    def again(self, action, pause):
        """Repeats an action until the end of the test, in the background. It gets the number of each repeat."""

        def repeat():
            number = 0
            while not stop.wait(pause):
                number += 1
                with contextlib.suppress(grpc.RpcError, OSError, sqlite3.Error, StopIteration, subprocess.SubprocessError):
                    action(number)

        threading.Thread(target=repeat, daemon=True).start()

    def method(self, name):
        """Returns a function that calls a method."""
        channel = grpc.insecure_channel(self.grpc)
        return channel.unary_unary(f"/wechat.store.v1.{name}", lambda sent: sent, lambda received: received)

    def read(self, method="StoreService/ListStores", pause=0.1, timeout=30):
        """Calls a method with an empty request until the end of the test."""
        call = self.method(method)
        self.again(lambda _: call(b"", timeout=timeout), pause)
        return self

    def event(self, number, **fields):
        """Lets WeChat push the result of a review that was submitted elsewhere."""
        event = {"Event": "create_map_poi_audit_info", "audit_id": str(900_000 + number), "status": 3, **fields}
        self.control("pushes", {"app_id": OFFICIAL, "event": event})

    def watch(self):
        command = [GATEWAY, "call", "--address", self.grpc, "AuditService/WatchAuditEvents"]
        start([*command, '{"position": "WATCH_POSITION_EARLIEST"}'], self.log)
        return self


def place(number=0, **more):
    picture = "http://mmbiz.qpic.cn/mmbiz_png/a/0?wx_fmt=png"
    return {
        "name": f"place {number}",
        "location": {"longitude": 113.323753357, "latitude": 23.0974903107},
        "districtId": "440105",
        "address": f"street {number}",
        "category": "类目1:类目2",
        "telephones": ["12345678901"],
        "photoUrl": picture,
        "licenseUrl": picture,
        "introduction": "test",
        **more,
    }


def fault(path, kind, **more):
    return {"path": path, "kind": kind, "times": 1_000_000, **more}


# ---- one world for each fault ----


def healthy():
    """Reads, writes, reviews with pushes, and a watcher."""
    world = World("healthy", audit=1)
    world.serve()
    world.read().watch()
    for number in range(3):
        assert world.call("MapPoiService/CreateMapPoi", **place(number)) == 0, "a healthy write"
    # WeChat takes one of these a second, so they wait for one another.
    for _ in range(2):
        world.again(lambda _: world.call("NearbyService/AddNearbyPoi", **NEARBY), 0.1)
    return world


def down():
    """A gateway that has ended."""
    world = World("down")
    world.serve()
    end(world.gateway)
    return world


def unreachable():
    """WeChat does not answer."""
    world = World("unreachable")
    world.serve()
    assert world.call("StoreService/ListStores") == 0, "the gateway has a token"
    end(world.simulator)
    return world.read()


def slow():
    """WeChat needs six seconds, and four of twelve callers wait for a permit."""
    world = World("slow", settings="[limits]\naccount_concurrency = 8")
    world.serve()
    world.control("faults", fault("/wxa/get_store_list", {"latency": {"ms": 6000}}))
    for _ in range(12):
        world.read()
        time.sleep(0.5)
    return world


def secret():
    """The secret is wrong. No account has series of its own, and the other one has a token."""
    world = World("secret", secret="another-secret", settings="[metrics]\naccounts = 0")
    world.serve()
    return world.read().read("NearbyService/ListNearbyPois")


def whitelist():
    """The address is not on the whitelist."""
    world = World("whitelist")
    world.serve()
    message = "invalid ip 203.0.113.7, not in whitelist"
    world.control("faults", fault("/cgi-bin/stable_token", {"errcode": {"errcode": 40164, "errmsg": message}}))
    # The pause after a refusal is a minute for each account.
    world.again(lambda number: number == 1 and world.call("NearbyService/ListNearbyPois"), 5)
    return world.read()


def quota():
    """The quota of a call is spent."""
    world = World("quota")
    world.serve()
    world.control("quota", {"app_id": OFFICIAL, "path": "/wxa/get_store_list", "daily_limit": 1})
    return world.read()


def old():
    """A write has had an unknown outcome, and a review has been open, for eight days. No push came."""
    world = World("old", settings="[audit]\npoll_after_hours = 0")
    world.serve(**EARLIER)
    assert world.call("MapPoiService/CreateMapPoi", **place(1)) == 0, "the review begins"
    world.control("faults", {"path": "/wxa/create_map_poi", "kind": "reset_after"})
    # UNKNOWN
    assert world.call("MapPoiService/CreateMapPoi", **place(2)) == 66, "the outcome is unknown"
    end(world.gateway)
    world.serve()
    return world.read()


def polled():
    """A review has been open for eight days, and no account has a callback."""
    world = World("polled", settings="[audit]\npoll_after_hours = 0", pushed=False)
    world.serve(**EARLIER)
    assert world.call("MapPoiService/CreateMapPoi", **place(1)) == 0, "the review begins"
    end(world.gateway)
    world.serve()
    return world.read()


def recovered():
    """WeChat failed to give a token for a while. Then it gave one, and no call followed."""
    world = World("recovered")
    world.serve()
    world.control("faults", fault("/cgi-bin/stable_token", "html502") | {"times": 3})
    assert world.call("StoreService/ListStores") != 0, "there is no token"
    until("a token", lambda: world.call("StoreService/ListStores") == 0)
    return world


def impatient():
    """Callers give calls less time than WeChat needs, and repeat a write whose outcome is unknown."""
    world = World("impatient")
    world.serve()
    write = {**place(1), "requestId": "0d5f1c3a-5f0e-4d7e-9c55-0a3f5f1c2b6d"}
    world.control("faults", {"path": "/wxa/create_map_poi", "kind": "reset_after"})
    # UNKNOWN. WeChat caused this one, and the caller the others.
    assert world.call("MapPoiService/CreateMapPoi", **place(2)) == 66, "the outcome is unknown"
    world.control("faults", {"path": "/wxa/create_map_poi", "kind": "reset_after"})
    assert world.call("MapPoiService/CreateMapPoi", **write) == 66, "the outcome is unknown"
    world.again(lambda _: world.call("MapPoiService/CreateMapPoi", **write), 0.5)
    world.control("faults", fault("/wxa/get_store_list", {"latency": {"ms": 700}}))
    return world.read(timeout=0.4)


def moved():
    """The file of the state is away for a moment now and then, and each time one call fails."""
    world = World("moved")
    world.serve()
    call, file = world.method("AuditService/ListSubmissions"), world.folder / "state.db"

    def fails():
        try:
            call(b"", timeout=5)
        except grpc.RpcError:
            return True
        return False

    def back():
        return (world.folder / "log").read_text().count("the state file is in place again")

    def move(_):
        before = back()
        file.rename(world.folder / "moved.db")
        until("a failure", fails)
        (world.folder / "moved.db").rename(file)
        until("a state", lambda: back() > before)
        # So that one failure is a small part of the calls.
        for _ in range(30):
            call(b"", timeout=5)

    world.again(move, 5)
    return world


def hung():
    """The disk does not end a sync."""
    world = World("hung")
    library, file = world.folder / "hang.so", world.folder / "hang"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=HANGING_DISK, text=True, check=True)
    world.serve(LD_PRELOAD=str(library), HANG=str(file))
    world.read()
    file.touch()
    # It has no answer before the end of the test.
    threading.Thread(target=world.event, args=(1,), daemon=True).start()
    return world


def state():
    """The file of the state was moved away."""
    world = World("state")
    world.serve()
    (world.folder / "state.db").rename(world.folder / "moved.db")
    return world.read("AuditService/ListSubmissions")


def forged():
    """Pushes have a wrong signature."""
    # Nor do callers prove their identity.
    world = World("forged", settings=f'[[callers]]\nname = "orders"\nrole = "reader"\ntokens = ["{"0" * 64}"]')
    world.serve()
    world.read()
    url = f"http://{world.push}/wechat/callback/{OFFICIAL}?msg_signature=0&timestamp=1&nonce=1"
    world.again(lambda _: http(url, {"Encrypt": "AAAA"}), 0.2)
    return world


def certificate():
    """The certificate expires in three days."""
    pem, key = FOLDER / "certificate.pem", FOLDER / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "3", "-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", pem], check=True, stderr=subprocess.DEVNULL)
    tls = f'tls = {{ certificate = "{pem}", key = "{key}" }}'
    world = World("certificate", listen=tls)
    world.serve()
    return world


def settings():
    """The new settings have an error."""
    world = World("settings")
    world.serve()
    world.settings.write_text(world.settings.read_text() + "\n[limits]\ncallers_rate = 1\n")
    return world.read()


def refused():
    """WeChat refuses the token, and returns the same one again."""
    world = World("refused")
    world.serve()
    world.control("faults", fault("/wxa/get_store_list", {"errcode": {"errcode": 40001, "errmsg": "invalid credential"}}))
    return world.read()


def activity():
    """The file of the activity log cannot be written."""
    world = World("activity", settings='[activity]\nlog = "/dev/full"')
    world.serve()
    assert world.call("MapPoiService/CreateMapPoi", **place(1)) == 0, "the write is executed"
    world.again(lambda number: world.call("MapPoiService/CreateMapPoi", **place(number)), 2)
    return world


def late():
    """Pushes arrive ten minutes after their events."""
    world = World("late")
    world.serve()
    world.again(lambda number: world.event(number, CreateTime=int(time.time()) - 600), 0.3)
    return world


def unread():
    """A watcher does not read 2,000 events."""
    world = World("unread")
    world.serve()
    for number in range(2000):
        world.event(number, name="x" * 1000)
    # The client would otherwise take more and more before it is read.
    channel = grpc.insecure_channel(world.grpc, [("grpc.http2.bdp_probe", 0)])
    watch = channel.unary_stream("/wechat.store.v1.AuditService/WatchAuditEvents", lambda sent: sent, lambda got: got)
    watches = []

    def begin(_):
        # WATCH_POSITION_EARLIEST. The gateway ends a watch that is not read for long.
        watches.append(watch(b"\x18\x01"))
        next(watches[-1])

    world.again(begin, 3)
    return world


def locked():
    """Another program locks the file of the state for 0.4 s at a time."""
    world = World("locked", audit=1)
    world.serve()

    def lock(_):
        with contextlib.closing(sqlite3.connect(world.folder / "state.db", timeout=5, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            time.sleep(0.4)
            file.execute("ROLLBACK")

    world.again(lock, 0.02)
    world.again(world.event, 0.1)
    return world


# Each world with the alerts that its fault must cause, and with a question mark those that it can cause. No other may fire.
WORLDS = {
    healthy: [],
    down: ["GatewayDown"],
    unreachable: ["CallsFail"],
    slow: ["CallsSlow"],
    secret: ["TokenRequestsRefused", "TokenMissing"],
    whitelist: ["TokenRequestsRefused", "TokenMissing"],
    refused: ["TokenRefused", "CallsFail"],
    quota: ["QuotaSpent"],
    old: ["WriteUnknown", "ReviewsOverdue", "PushesMissing"],
    polled: ["ReviewsOverdue"],
    recovered: [],
    impatient: ["WriteUnknown"],
    moved: [],
    state: ["StateFailing", "CallsFail"],
    hung: ["StateFailing", "StateSlow?", "PushesRefused?", "CallsFail?"],
    locked: ["StateSlow", "StateFailing?", "PushesRefused?", "EventsLate?"],
    forged: ["PushesRefused"],
    # These write much, so a busy disk shows here first.
    late: ["EventsLate", "StateSlow?"],
    unread: ["WatchersLate", "StateSlow?"],
    certificate: ["CertificateExpires"],
    settings: ["SettingsRefused"],
    activity: ["ActivityLogFails"],
}


# ---- Prometheus ----


def shortened(rules):
    """Returns the rules with two seconds in place of each minute."""
    minutes = re.sub(r"(\[|\bfor: |\boffset )(\d+)m\b", lambda found: f"{found[1]}{2 * int(found[2])}s", rules)
    left = re.search(r"(\[|\bfor: |\boffset )\d+(?!s)[a-z]", minutes)
    assert not left, f"the rules have a duration that is not in minutes: {left[0]}"
    return minutes


def prometheus(worlds):
    folder = FOLDER / "prometheus"
    folder.mkdir()
    (folder / "rules.yaml").write_text(shortened(RULES.read_text(encoding="utf-8")))
    # Each world is a job, because the processes of one job share a state.
    jobs = [{"job_name": JOB + world.name, "static_configs": [{"targets": [world.admin]}]} for world in worlds]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    start([*command, f"--web.listen-address=127.0.0.1:{PROMETHEUS}"], open(folder / "log", "w"))
    until("Prometheus", lambda: http(f"http://127.0.0.1:{PROMETHEUS}/-/ready"))


def query(path):
    return json.loads(http(f"http://127.0.0.1:{PROMETHEUS}/api/v1/{path}"))["data"]


def firing():
    """Returns the alerts that fire now, as pairs of world and alert."""
    alerts = (alert for alert in query("alerts")["alerts"] if alert["state"] == "firing")
    return {(alert["labels"].get("job", "").removeprefix(JOB), alert["labels"]["alertname"]) for alert in alerts}


def without_data():
    """Yields the panels of the dashboard whose queries find nothing in these worlds."""
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            expression = re.sub(r"\$\w+", ".*", target["expr"].replace("$__rate_interval", "20s").replace("$__range", "1m"))
            if not query("query?" + urllib.parse.urlencode({"query": expression}))["result"]:
                yield f"the dashboard's {panel['title']} shows nothing: {expression}"


def described(alert):
    return f"{alert[1]} in the world {alert[0]}"


def main():
    worlds = {make(): alerts for make, alerts in WORLDS.items()}
    possible = {(world.name, alert.rstrip("?")) for world, alerts in worlds.items() for alert in alerts}
    expected = {(world.name, alert) for world, alerts in worlds.items() for alert in alerts if not alert.endswith("?")}
    names = set(re.findall(r"alert: (\w+)", RULES.read_text(encoding="utf-8")))
    left = names - {alert for _, alert in expected}
    assert not left, f"no world makes these alerts fire: {', '.join(sorted(left))}"
    prometheus(worlds)
    # Prometheus begins to scrape after some seconds, and the two minutes of GatewayDown are four seconds here.
    until("the first scrapes", lambda: query("query?query=up")["result"] and ("", "GatewayDown") not in firing())
    started, seen = time.monotonic(), set()
    while not expected <= seen and time.monotonic() < started + LIMIT:
        time.sleep(0.5)
        seen |= firing()
    wrong = [f"did not fire: {described(alert)}" for alert in sorted(expected - seen)]
    wrong += [f"fired without its fault: {described(alert)}" for alert in sorted(seen - possible)]
    broken = [rule for group in query("rules")["groups"] for rule in group["rules"] if rule["health"] != "ok"]
    wrong += [f"{rule['name']}: {rule.get('lastError')}" for rule in broken]
    wrong += without_data()
    for world in worlds:
        with contextlib.suppress(OSError):
            (world.folder / "metrics.txt").write_bytes(http(f"http://{world.admin}/metrics"))
    print("\n".join(wrong) or f"{len(names)} alerts fired in {len(worlds)} worlds, and none without its fault")
    return 1 if wrong else 0


try:
    status = main()
finally:
    stop.set()
    for process in running:
        if process.poll() is None:
            process.kill()
sys.exit(status)
