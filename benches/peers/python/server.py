"""GetStore by one request to the upstream: no validation, token, retry, limit, deadline, trace or log.

python server.py STUBS LISTEN UPSTREAM TOKEN
"""

import asyncio
import sys

import aiohttp
import grpc

stubs, listen, upstream, token = sys.argv[1:]
sys.path.insert(0, stubs)

from wechat.store.v1 import store_pb2, store_pb2_grpc, types_pb2  # noqa: E402


class Store(store_pb2_grpc.StoreServiceServicer):
    def __init__(self, session):
        self.session = session
        self.url = f"{upstream}/wxa/get_store_info?access_token={token}"

    async def GetStore(self, request, context):
        async with self.session.post(self.url, json={"poi_id": request.poi_id}) as response:
            info = (await response.json())["business"]["base_info"]
        opens, closes = info["open_time"].split("-")
        return store_pb2.GetStoreResponse(
            store=store_pb2.Store(
                poi_id=info["poi_id"],
                name=info["business_name"],
                province=info["province"],
                city=info["city"],
                district=info["district"],
                address=info["address"],
                location=types_pb2.LatLng(latitude=info["latitude"], longitude=info["longitude"]),
                contact_phone=info["telephone"],
                hours=types_pb2.OpeningHours(open=opens, close=closes, text=info["open_time"]),
                picture_urls=[photo["photo_url"] for photo in info["photo_list"]],
                license_number=info["qualification_num"],
                company_name=info["qualification_name"],
                state=types_pb2.AUDIT_STATE_IN_REVIEW
                if info["status"] == 2
                else types_pb2.AUDIT_STATE_APPROVED,
                wechat_status=info["status"],
            )
        )


async def main():
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector) as session:
        server = grpc.aio.server()
        store_pb2_grpc.add_StoreServiceServicer_to_server(Store(session), server)
        server.add_insecure_port(listen)
        await server.start()
        await server.wait_for_termination()


asyncio.run(main())
