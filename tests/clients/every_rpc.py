#!/usr/bin/env python3
"""Calls every RPC of a running gateway with a generated client and checks what comes back.

    every_rpc.py STUBS GATEWAY SIMULATOR [DRIVER ...]

STUBS is a folder with the Python code generated from proto/, GATEWAY a host and port, SIMULATOR the
URL of the simulator behind it. Exits with 0 only if every RPC of the contract was called. DRIVER is the
command of a program that makes the calls with a client package: see driving.py.

First comes a story in which the calls depend on each other. Then come WeChat's own examples in
tests/documented: all reads, and the writes that the story does not call. So a new RPC needs no code here.
"""

import importlib
import json
import struct
import sys
import tempfile
import urllib.request
import uuid
import zlib
from pathlib import Path

import grpc
from google.protobuf import json_format

from driving import Driver, Refused

STUBS, GATEWAY, SIMULATOR, *DRIVER = sys.argv[1:]
sys.path.insert(0, STUBS)

FAMILIES = sorted(p.name.removesuffix("_pb2_grpc.py") for p in Path(STUBS, "wechat/store/v1").glob("*_pb2_grpc.py"))
PB = {}
SERVICES = {}
for family in FAMILIES:
    PB[family] = importlib.import_module(f"wechat.store.v1.{family}_pb2")
    stubs = importlib.import_module(f"wechat.store.v1.{family}_pb2_grpc")
    for name in PB[family].DESCRIPTOR.services_by_name:
        SERVICES[name] = getattr(stubs, f"{name}Stub")
types = importlib.import_module("wechat.store.v1.types_pb2")

every = {
    f"{service.name}/{method.name}"
    for module in PB.values()
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
called = set()
channel = grpc.insecure_channel(GATEWAY)
driver = Driver(DRIVER, GATEWAY) if DRIVER else None
OFFICIAL = "wx0000000000000001"


def call(rpc, timeout=20, **fields):
    """Calls `Service/Method` and answers its response."""
    response = send(rpc, message(rpc, "Request")(**fields), timeout)
    called.add(rpc)
    return response


def message(rpc, suffix):
    service, method = rpc.split("/")
    module = next(m for m in PB.values() if service in m.DESCRIPTOR.services_by_name)
    return getattr(module, method + suffix)


def send(rpc, request, timeout=20):
    if driver:
        return message(rpc, "Response").FromString(driver.call(rpc, request, timeout).result())
    service, method = rpc.split("/")
    return getattr(SERVICES[service](channel), method)(request, timeout=timeout)


def refused(rpc, reason, **fields):
    """Calls and expects a failure with this reason."""
    try:
        call(rpc, **fields)
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
        assert reason.encode() in details, f"{rpc}: {error.code()} {error.details()}"
        return error
    except Refused as error:
        assert error.reason == reason, f"{rpc}: {error}"
        return error
    raise AssertionError(f"{rpc}: expected {reason}")


def simulator(path, body, method="POST"):
    """Turns one of the simulator's knobs."""
    request = urllib.request.Request(
        f"{SIMULATOR}/_simulator/{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
        method=method,
    )
    return json.load(urllib.request.urlopen(request, timeout=20))


def approve(submission):
    return simulator(f"audits/{submission.audit_id}", {"decision": "approve"})


def png():
    """A picture of one red pixel."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def request_id():
    return str(uuid.uuid4())


def merchant():
    simulator("merchant", {"app_id": OFFICIAL, "exists": False})
    categories = call("MerchantService/ListCategories").categories
    second = next(c for c in categories if c.level == 2 and not c.sensitive)
    avatar = call("MediaService/UploadTemporaryImage", content=png(), request_id=request_id())
    assert avatar.expire_time.seconds - avatar.create_time.seconds == 3 * 24 * 3600
    applied = call(
        "MerchantService/ApplyMerchant",
        client_reference="brand-1",
        first_category_id=second.parent_id,
        second_category_id=second.id,
        avatar_media_id=avatar.media_id,
        name="巷口小馆",
        introduction="家常菜",
    ).submission
    assert applied.state == types.AUDIT_STATE_AWAITING_ADMIN and applied.audit_id == ""
    audit = call("MerchantService/GetMerchantAudit")
    simulator(f"audits/{audit.audit_id}", {"decision": "approve"})
    audit = call("MerchantService/GetMerchantAudit")
    assert audit.state == types.AUDIT_STATE_APPROVED and audit.wechat_status == 1
    call("MerchantService/UpdateMerchant", introduction="家常菜,十年老店")


def place():
    provinces = call("MapPoiService/ListDistricts")
    assert provinces.total_size == 34 and provinces.districts[0].child_count > 0
    match = call("MapPoiService/ResolveDistrict", names=["广东", "海珠区"]).matches
    assert [m.district.id for m in match] == ["440105"]
    district = match[0].district.id
    found = call("MapPoiService/SearchMapPois", district_id=district, keyword="工厂").pois
    assert len(found[0].map_poi_id) == 19
    picture = call("MediaService/UploadImage", content=png()).url
    made = call(
        "MapPoiService/CreateMapPoi",
        client_reference="shop-2",
        name="巷口小馆(新港店)",
        district_id=district,
        address="新港中路397号",
        location={"latitude": 23.0974903107, "longitude": 113.323753357},
        category="美食:中餐厅",
        telephones=["020-89190388", "13800138000"],
        photo_url=picture,
        license_url=picture,
        introduction="家常菜",
    ).submission
    assert made.kind == types.SUBMISSION_KIND_MAP_POI and made.client_reference == "shop-2"
    approve(made)
    new = call("MapPoiService/SearchMapPois", district_id=district, keyword="巷口小馆").pois
    return found[0].map_poi_id, new[0].map_poi_id, picture


def migrate(map_poi_id, picture):
    old = [{"upgrade_status": 0}, {"upgrade_status": 4}]
    simulator("legacy_stores", {"app_id": OFFICIAL, "stores": old})
    listed = call("StoreService/ListLegacyStores", page_size=10).stores
    pending, forbidden = sorted(listed, key=lambda store: store.wechat_upgrade_status)
    got = call("StoreService/GetLegacyStore", legacy_poi_id=pending.legacy_poi_id).store
    assert (got.legacy_poi_id, got.name) == (pending.legacy_poi_id, pending.name)
    progress = call("StoreService/GetUpgradeProgress")
    assert not progress.complete and progress.pending_count == progress.forbidden_count == 1
    refused("StoreService/AddStore", "UPGRADE_REQUIRED", **store(map_poi_id, picture, "1"))
    call("StoreService/DeleteLegacyStore", legacy_poi_id=forbidden.legacy_poi_id)
    fields = store(map_poi_id, picture, "1") | {"legacy_poi_id": pending.legacy_poi_id}
    approve(call("StoreService/AddStore", **fields).submission)
    assert call("StoreService/GetUpgradeProgress").complete


def store(map_poi_id, picture, license_number):
    return {
        "client_reference": "shop-" + license_number,
        "request_id": request_id(),
        "map_poi_id": map_poi_id,
        "picture_urls": [picture],
        "contact_phone": "020-89190388",
        "hours": {"open": "10:00", "close": "21:30"},
        "license_number": "91440105MA59" + license_number,
    }


def stores(map_poi_id, picture):
    checked = call("StoreService/AddStore", validate_only=True, **store(map_poi_id, picture, "2"))
    assert not checked.HasField("submission")
    approve(call("StoreService/AddStore", **store(map_poi_id, picture, "2")).submission)
    refused("StoreService/AddStore", "STORE_ALREADY_BOUND", **store(map_poi_id, picture, "2"))
    listed = call("StoreService/ListStores", page_size=1)
    ids = [s.poi_id for s in listed.stores]
    while listed.next_page_token:
        listed = call("StoreService/ListStores", page_size=1, page_token=listed.next_page_token)
        ids += [s.poi_id for s in listed.stores]
    assert len(ids) == len(set(ids)) == listed.total_size == 2, ids
    poi_id = ids[-1]
    updated = call("StoreService/UpdateStore", poi_id=poi_id, hours={"open": "08:00", "close": "23:00"})
    assert updated.contact_phone == "020-89190388" and not updated.HasField("submission")
    got = call("StoreService/GetStore", poi_id=poi_id).store
    assert (got.hours.open, got.state) == ("08:00", types.AUDIT_STATE_APPROVED)
    assert call("CardService/GetStoreCard", poi_id=poi_id).card_id == ""
    call("CardService/SetStoreCard", poi_id=poi_id, card_id="pabcedfg1234567hijklmn")
    assert call("CardService/GetStoreCard", poi_id=poi_id).card_id == "pabcedfg1234567hijklmn"
    delete(poi_id)
    refused("StoreService/GetStore", "STORE_NOT_FOUND", poi_id=poi_id)


def delete(poi_id):
    """Deletes a store, loses the reply and every look, and says what became of it."""
    name = request_id()
    simulator("faults", {"path": "/wxa/del_store", "kind": "reset_after"})
    simulator("faults", {"path": "/wxa/get_store_info", "kind": "html502", "times": 0})
    # A client package would repeat the call in a longer time.
    refused("StoreService/DeleteStore", "OUTCOME_UNKNOWN", timeout=3, poi_id=poi_id, request_id=name)
    write = call("WriteService/GetWrite", write_request_id=name).write
    unknown = PB["write"].WRITE_STATE_UNKNOWN
    assert write.state == unknown and write.method == "StoreService/DeleteStore"
    assert list(call("WriteService/ListWrites", states=[unknown]).writes) == [write]
    executed = PB["write"].WRITE_RESOLUTION_EXECUTED
    assert call("WriteService/ResolveWrite", write_id=write.write_id, resolution=executed).write == write
    assert call("StoreService/DeleteStore", poi_id=poi_id, request_id=name).recovered
    simulator("faults", {}, method="DELETE")


def nearby(map_poi_id, picture):
    nearby_pb = PB["nearby"]
    profile = {
        "name": "巷口小馆",
        "map_poi_id": map_poi_id,
        "address": "广东省广州市海珠区新港中路397号",
        "picture_urls": [picture],
        "contact_phone": "020-89190388",
        "hours": {"open": "10:00", "close": "21:30"},
        "company_name": "深圳市腾讯计算机系统有限公司",
        "license_number": "156718193518281",
        "service_labels": [
            {
                "kind": nearby_pb.NEARBY_SERVICE_KIND_DELIVERY,
                "app_id": "wx0000000000000002",
                "path": "pages/index",
                "description": "满减",
            }
        ],
    }
    qualification = call("MediaService/UploadTemporaryImage", app_id="wx0000000000000002", content=png())
    profile["qualification_media_ids"] = [qualification.media_id]
    added = call("NearbyService/AddNearbyPoi", client_reference="shop-9", profile=profile)
    approve(added.submission)
    listed = call("NearbyService/ListNearbyPois")
    assert listed.pois[0].state == types.AUDIT_STATE_APPROVED and listed.pois[0].visible
    nearby_poi_id = listed.pois[0].nearby_poi_id
    simulator("clock", {"advance_seconds": 2})
    profile["contact_phone"] = "020-89190389"
    replaced = call("NearbyService/ReplaceNearbyPoi", nearby_poi_id=nearby_poi_id, profile=profile)
    approve(replaced.submission)
    refused("NearbyService/DeleteNearbyPoi", "NEARBY_POI_VISIBLE", nearby_poi_id=nearby_poi_id)
    call("NearbyService/SetNearbyPoiVisibility", nearby_poi_id=nearby_poi_id, visible=False)
    call("NearbyService/DeleteNearbyPoi", nearby_poi_id=nearby_poi_id)
    assert not call("NearbyService/ListNearbyPois").pois


def watched():
    """Yields the events of the log."""
    audit_pb = PB["audit"]
    if driver:
        with tempfile.TemporaryDirectory() as folder:
            events = driver.watch(f"{folder}/cursor")
            while True:
                yield audit_pb.AuditEvent.FromString(events.get(timeout=20))
    request = audit_pb.WatchAuditEventsRequest(position=audit_pb.WATCH_POSITION_EARLIEST)
    watch = SERVICES["AuditService"](channel).WatchAuditEvents(request, timeout=20)
    assert not next(watch).HasField("event"), "first where the stream starts"
    yield from (response.event for response in watch if response.HasField("event"))


def audits():
    """What was decided above arrived by push, and is in the log."""
    audit_pb = PB["audit"]
    watch, seen, wanted = watched(), [], {"shop-1", "shop-2", "shop-9"}
    while not wanted <= {event.client_reference for event in seen}:
        seen.append(next(watch))
    watch.close()
    called.add("AuditService/WatchAuditEvents")
    event = next(event for event in seen if event.kind == types.SUBMISSION_KIND_STORE)
    assert (event.client_reference, event.state) == ("shop-1", types.AUDIT_STATE_APPROVED)
    assert event.store.poi_id and event.wechat_event == "add_store_audit_info"
    assert event.origin == audit_pb.EVENT_ORIGIN_PUSHED and event.wechat_message

    listed = call("AuditService/ListAuditEvents", kinds=[types.SUBMISSION_KIND_STORE], page_size=1)
    assert list(listed.events) == [event] and listed.next_page_token
    got = call("AuditService/GetSubmission", submission_id=event.submission_id).submission
    assert (got.state, got.poi_id) == (types.AUDIT_STATE_APPROVED, event.store.poi_id)
    assert got.event_id == event.event_id
    pending = [types.AUDIT_STATE_AWAITING_ADMIN, types.AUDIT_STATE_IN_REVIEW]
    unknown = "6f1f3f6e-9d3c-4a8e-8f6b-0d0c1b2a3948"
    refused("AuditService/GetSubmission", "SUBMISSION_NOT_FOUND", submission_id=unknown)
    waiting = call(
        "MapPoiService/CreateMapPoi",
        client_reference="shop-10",
        name="巷口小馆(待审店)",
        district_id="440105",
        address="新港中路399号",
        location={"latitude": 23.0974903107, "longitude": 113.323753357},
        category="美食:中餐厅",
        telephones=["020-89190388"],
        photo_url="http://mmbiz.qpic.cn/mmbiz_png/first/0",
        license_url="http://mmbiz.qpic.cn/mmbiz_png/first/0",
        introduction="家常菜",
    ).submission
    open_ones = call("AuditService/ListSubmissions", states=pending).submissions
    assert waiting.submission_id in [one.submission_id for one in open_ones]
    assert event.submission_id not in [one.submission_id for one in open_ones]


def accounts():
    official = next(a for a in call("AccountService/ListAccounts").accounts if a.app_id == OFFICIAL)
    assert official.token.present and official.receives_pushes
    backlog = call("AccountService/GetAccount", app_id=OFFICIAL).backlog
    assert backlog.open_submission_count > 0 and backlog.oldest_submission_id


def platforms():
    """The sandbox has one platform, which no account has authorized yet. The other gateway has none."""
    link = {"redirect_uri": "https://shop.example.com"}
    found = call("AccountService/ListPlatforms").platforms
    if found:
        (platform,) = found
        call("AccountService/StartTicketPush", app_id=platform.app_id)
        made = call("AccountService/CreateAuthorizationLink", **link)
        assert platform.app_id in made.url and made.HasField("expire_time")
        assert not call("AccountService/ListAuthorizers").authorizers
    else:
        for rpc, fields in [("StartTicketPush", {}), ("CreateAuthorizationLink", link), ("ListAuthorizers", {})]:
            refused(f"AccountService/{rpc}", "PLATFORM_UNKNOWN", **fields)
            called.add(f"AccountService/{rpc}")
    refused("AccountService/GetAuthorizer", "ACCOUNT_UNKNOWN", app_id="wx00000000000000d1")
    called.add("AccountService/GetAuthorizer")
    # An operator must allow it first.
    refused("TokenService/GetAccessToken", "METHOD_UNKNOWN", app_id=OFFICIAL)
    called.add("TokenService/GetAccessToken")


def documented():
    """Lets WeChat answer with its own examples, and compares the responses with those in the examples."""
    # The gateway keeps these two tables for a day, so it does not call WeChat again.
    cached = {"MapPoiService/ListDistricts", "MerchantService/ListCategories"}
    for file in sorted(Path(__file__).parent.parent.glob("documented/*/*.json")):
        example = json.loads(file.read_text(encoding="utf-8"))
        rpc = example.get("rpc")
        reads = rpc and rpc.split("/")[1].startswith(("Get", "List", "Search", "Resolve"))
        if not rpc or rpc in cached or rpc in called and not reads:
            continue
        simulator("faults", {"path": example["path"], "kind": {"replace": {"body": example["reply"]}}})
        request = json_format.ParseDict(example["request"], message(rpc, "Request")())
        response = json_format.MessageToDict(send(rpc, request))
        # Opaque.
        response.pop("nextPageToken", None)
        for own in ["appId", "submissionId", "createTime", "resubmitAfter", "traceId"]:
            response.get("submission", {}).pop(own, None)
        assert response == example["response"], f"{file}: {response}"
        called.add(rpc)


def main():
    merchant()
    found, made, picture = place()
    migrate(found, picture)
    stores(made, picture)
    nearby(made, picture)
    audits()
    accounts()
    platforms()
    documented()
    wrong = refused("StoreService/GetStore", "INVALID_REQUEST")
    assert wrong.code() == grpc.StatusCode.INVALID_ARGUMENT
    missing = every - called
    assert not missing, f"never called: {sorted(missing)}"
    if driver:
        driver.close()
    print(f"called all {len(every)} RPCs of {GATEWAY}")


main()
