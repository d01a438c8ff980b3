// A foreign sender and reader of WeCom's callbacks: @wecom/crypto behind lines of JSON.
//
//   node wecom_crypto.js '{"token": "…", "key": "…", "corp": "…"}'
//
// Prints {"ready": true} first. Takes lines of JSON on standard input and prints one for each:
//   {"post": url, "message": xml}  posts it encrypted and signed        {"posted": {status, body}}
//   {"check": url, "echo": text}   checks a URL as WeCom does           {"checked": {status, body}}
//   {"open": text, "timestamp": …, "nonce": …}  decrypts and signs      {"opened": {message, id,
//                                                                        signature} or {error}}
// Ends when standard input does.
'use strict';

const readline = require('node:readline');
const { decrypt, encrypt, getSignature } = require('@wecom/crypto');

const { token, key, corp } = JSON.parse(process.argv[2]);

function tell(event) {
  process.stdout.write(JSON.stringify(event) + '\n');
}

function signed(url, encrypted, more = {}) {
  const timestamp = Math.floor(Date.now() / 1000);
  const nonce = String(Math.floor(Math.random() * 1e9));
  const target = new URL(url);
  const query = { msg_signature: getSignature(token, timestamp, nonce, encrypted), timestamp, nonce };
  for (const [name, value] of Object.entries({ ...query, ...more })) {
    target.searchParams.set(name, value);
  }
  return target;
}

async function answer(url, options) {
  const response = await fetch(url, options);
  return { status: response.status, body: await response.text() };
}

async function obey(line) {
  const command = JSON.parse(line);
  if ('post' in command) {
    const encrypted = encrypt(key, command.message, corp);
    const body =
      `<xml><ToUserName><![CDATA[${corp}]]></ToUserName><AgentID><![CDATA[1000002]]></AgentID>` +
      `<Encrypt><![CDATA[${encrypted}]]></Encrypt></xml>`;
    const headers = { 'content-type': 'text/xml' };
    const url = signed(command.post, encrypted);
    tell({ posted: await answer(url, { method: 'POST', body, headers }) });
  } else if ('check' in command) {
    const encrypted = encrypt(key, command.echo, corp);
    tell({ checked: await answer(signed(command.check, encrypted, { echostr: encrypted })) });
  } else {
    try {
      const { message, id } = decrypt(key, command.open);
      const signature = getSignature(token, command.timestamp, command.nonce, command.open);
      tell({ opened: { message, id, signature } });
    } catch (error) {
      tell({ opened: { error: error.message } });
    }
  }
}

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => obey(line).catch((error) => tell({ failed: String(error.cause || error) })));
lines.on('close', () => process.exit(0));
tell({ ready: true });
