// A foreign sender for tests: @parse/node-apn pushes to a server that says it is Apple's.
//
//   node apn.js '{"port": 4433, "key": "AuthKey.p8", "ca": "cert.pem", "devices": ["ab…"], …}'
//
// Prints one line of JSON, {"sent": [device, …], "failed": [{"device", "status", "reason"}, …]}, and
// ends when its standard input does.
'use strict';

const apn = require('@parse/node-apn');
const fs = require('node:fs');

const options = JSON.parse(process.argv[2] || '{}');

async function main() {
  const provider = new apn.Provider({
    token: { key: options.key, keyId: options.key_id, teamId: options.team_id },
    ca: fs.readFileSync(options.ca),
    address: 'localhost',
    port: options.port,
    production: false,
    connectionRetryLimit: 0,
  });
  const note = new apn.Notification();
  note.topic = options.topic;
  note.pushType = 'alert';
  note.expiry = Math.floor(Date.now() / 1000) + 3600;
  note.priority = 10;
  note.collapseId = 'order-7';
  note.id = '11111111-2222-4333-8444-555555555555';
  note.alert = { title: 'Order', body: 'x'.repeat(options.size || 20) };
  const found = await provider.send(note, options.devices);
  const failed = found.failed.map((one) => ({
    device: one.device,
    status: one.status,
    reason: one.response ? one.response.reason : String(one.error && one.error.message),
  }));
  process.stdout.write(
    JSON.stringify({ sent: found.sent.map((one) => one.device), failed }) + '\n'
  );
  await provider.shutdown();
}

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
main().catch((error) => {
  process.stderr.write(String(error) + '\n');
  process.exit(1);
});
