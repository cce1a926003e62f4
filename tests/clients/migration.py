#!/usr/bin/env python3
"""Runs examples/migration against a sandbox: with a wrong sheet, with a list that is not whole, killed,
with a store that WeChat refuses, and to its end.

    migration.py PROGRAM GATEWAY SIMULATOR
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

PROGRAM, GATEWAY, SIMULATOR = sys.argv[1:]
EXAMPLE = os.path.join(os.path.dirname(__file__), "../../examples/migration")
SHEET = os.path.join(EXAMPLE, "sheet.csv")
ADD = "/wxa/add_store"
LIST = "/cgi-bin/poi/getpoilist"


def simulator(path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{SIMULATOR}/_simulator/{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def added():
    return [call["body"]["poi_id"] for call in simulator(f"journal?path={ADD}")["calls"]]


def command(sheet, folder, wait):
    script = os.path.join(EXAMPLE, "migrate.py")
    arguments = [sheet, folder, "--gateway", PROGRAM, "--address", GATEWAY, "--wait", str(wait)]
    return [sys.executable, script, *arguments]


def migrate(code, sheet, folder, wait):
    done = subprocess.run(command(sheet, folder, wait), text=True, capture_output=True, timeout=60)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def main(folder):
    with open(os.path.join(EXAMPLE, "legacy_stores.json"), encoding="utf-8") as file:
        legacy = json.load(file)
    simulator("legacy_stores", legacy)
    simulator("settings", {"audit_delay_seconds": None})
    wanted = [store["poi_id"] for store in legacy["stores"] if store.get("upgrade_status") != 4]

    # The script reports a sheet without one of the stores before it sends anything.
    with open(SHEET, encoding="utf-8") as file:
        lines = file.read().splitlines()
    short = os.path.join(folder, "short.csv")
    with open(short, "w", encoding="utf-8") as file:
        file.write("\n".join(line for line in lines if not line.startswith("271262103")))
    told = migrate(2, short, os.path.join(folder, "short"), 0)
    assert "271262103 (渔港茶餐厅): no row" in told and not added(), told

    # A list of which WeChat counts more than it gives is no reason to send anything.
    listed = [{"base_info": store} for store in legacy["stores"][:2]]
    body = {"errcode": 0, "business_list": listed, "total_count": len(legacy["stores"])}
    simulator("faults", {"path": LIST, "kind": {"replace": {"body": body}}, "times": 0})
    told = migrate(1, SHEET, os.path.join(folder, "cut"), 0)
    assert "WECHAT_BAD_REPLY" in told and not added(), told
    simulator("faults", {}, "DELETE")

    # Killed in the middle, and all that it started.
    work = os.path.join(folder, "work")
    simulator("faults", {"path": ADD, "kind": {"latency": {"ms": 300}}, "times": 4})
    killed = subprocess.Popen(
        command(SHEET, work, 0), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not added():
        assert killed.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()

    told = migrate(1, SHEET, work, 0)
    assert "still reviews" in told, told
    assert sorted(added()) == sorted(wanted), "each once"

    # WeChat refuses one store. The next round sends it again with the same texts.
    audits = [audit for audit in simulator("audits")["audits"] if audit["state"] == "pending"]
    assert len(audits) == len(wanted), audits
    simulator(f"audits/{audits[0]['audit_id']}", {"decision": "reject", "reason": "资质不清晰"})
    for audit in audits[1:]:
        simulator(f"audits/{audit['audit_id']}", {"decision": "approve"})
    simulator("settings", {"audit_delay_seconds": 0.3})
    told = migrate(0, SHEET, work, 30)
    assert f"complete: {len(wanted)} stores are migrated" in told, told
    assert len(added()) == len(wanted) + 1, added()
    account = next(a for a in simulator("accounts")["accounts"] if a["kind"] == "official")
    assert account["stores"] == len(wanted), account

    # A second start changes nothing.
    migrate(0, SHEET, work, 0)
    assert len(added()) == len(wanted) + 1, added()
    print(f"migration: {len(wanted)} stores, 2 rounds")


with tempfile.TemporaryDirectory() as folder:
    main(folder)
