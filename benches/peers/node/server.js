// GetStore by one request to the upstream: no validation, token, retry, limit, deadline, trace or log.
// node server.js PROTO_FOLDER LISTEN UPSTREAM TOKEN
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const { Pool } = require('undici');

const [protos, listen, upstream, token] = process.argv.slice(2);
const definition = loader.loadSync('wechat/store/v1/store.proto', {
  includeDirs: [protos],
  keepCase: true,
});
const { StoreService } = grpc.loadPackageDefinition(definition).wechat.store.v1;
const pool = new Pool(upstream, { connections: 64 });
const path = `/wxa/get_store_info?access_token=${token}`;
const headers = { 'content-type': 'application/json' };

async function getStore(poi_id) {
  const { body } = await pool.request({
    path, method: 'POST', headers, body: JSON.stringify({ poi_id }),
  });
  const info = (await body.json()).business.base_info;
  const [open, close] = info.open_time.split('-');
  return {
    store: {
      poi_id: info.poi_id,
      name: info.business_name,
      province: info.province,
      city: info.city,
      district: info.district,
      address: info.address,
      location: { latitude: info.latitude, longitude: info.longitude },
      contact_phone: info.telephone,
      hours: { open, close, text: info.open_time },
      picture_urls: info.photo_list.map((photo) => photo.photo_url),
      license_number: info.qualification_num,
      company_name: info.qualification_name,
      state: info.status === 2 ? 'AUDIT_STATE_IN_REVIEW' : 'AUDIT_STATE_APPROVED',
      wechat_status: info.status,
    },
  };
}

const server = new grpc.Server();
server.addService(StoreService.service, {
  GetStore(call, answer) {
    getStore(call.request.poi_id).then(
      (response) => answer(null, response),
      (error) => answer({ code: grpc.status.UNAVAILABLE, message: error.message }),
    );
  },
});
server.bindAsync(listen, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
