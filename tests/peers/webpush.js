// A foreign push service and a foreign sender for tests: web-push-testing and web-push.
//
//   node webpush.js '{}'
//
// Prints {"port": …}, and serves what web-push-testing does (/subscribe, /notify/<hash>,
// /expire-subscription/<hash>, /get-notifications), and beside it:
//
//   POST /vapid-keys                                     a pair as web-push makes it
//   POST /send {"subscription", "payload", "options"}    sent by web-push; gives {"status"}
'use strict';

const http = require('node:http');
const webpush = require('web-push');
const { PushApiModel } = require('web-push-testing/src/PushApiModel.js');
const TestingServer = require('web-push-testing/src/server.js');

console.log = () => {}; // standard output is for lines of JSON

const model = new PushApiModel();
const server = new TestingServer(model, 0);

server._app.post('/vapid-keys', (request, response) => {
  response.send(webpush.generateVAPIDKeys());
});

server._app.post('/send', (request, response) => {
  const { subscription, payload, options } = request.body;
  // By itself it speaks https only.
  const made = webpush.generateRequestDetails(subscription, payload, options);
  const sent = http.request(made.endpoint, { method: made.method, headers: made.headers });
  sent.on('response', (answer) => {
    answer.resume();
    response.send({ status: answer.statusCode });
  });
  sent.on('error', (error) => response.status(502).send({ error: error.message }));
  sent.end(made.body);
});

server.startServer();
server._server.on('listening', () => {
  const { port } = server._server.address();
  model.notifyUrl = `http://127.0.0.1:${port}/notify/`;
  process.stdout.write(JSON.stringify({ port }) + '\n');
});

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
