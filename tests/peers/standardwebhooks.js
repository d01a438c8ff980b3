// A foreign reader and sender of signed webhooks: standardwebhooks behind lines of JSON.
//
//   node standardwebhooks.js '{"secret": "whsec_…"}'
//
// Listens on a port of its own, verifies what is posted to it, answers 204 or 401, and prints
// {"url": …} first, then {"verified": body} or {"refused": message} for each. Takes lines on
// standard input: {"post": url, "id": …, "body": text} posts it signed, and prints {"posted": status}.
// Ends when standard input does.
'use strict';

const http = require('node:http');
const readline = require('node:readline');
const { Webhook } = require('standardwebhooks');

const webhook = new Webhook(JSON.parse(process.argv[2]).secret);

function tell(event) {
  process.stdout.write(JSON.stringify(event) + '\n');
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    let status = 204;
    try {
      tell({ verified: webhook.verify(Buffer.concat(chunks).toString(), request.headers) });
    } catch (error) {
      status = 401;
      tell({ refused: error.message });
    }
    response.writeHead(status).end();
  });
});

async function obey(line) {
  const { post, id, body } = JSON.parse(line);
  const now = new Date();
  const headers = {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
    'webhook-signature': webhook.sign(id, now, body),
  };
  const response = await fetch(post, { method: 'POST', body, headers });
  tell({ posted: { status: response.status, body: await response.text() } });
}

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => obey(line).catch((error) => tell({ failed: String(error.cause || error) })));
lines.on('close', () => process.exit(0));
server.listen(0, '127.0.0.1', () => tell({ url: `http://127.0.0.1:${server.address().port}/push` }));
