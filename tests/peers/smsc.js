// A foreign SMSC for tests: node-smpp behind a few scripted habits.
//
//   node smsc.js '{"password": "secret", "throttle_every": 3, "delay_ms": 5, "receipts": true}'
//
// Prints a line of JSON for each thing that happens ({"port": …} first), takes lines of JSON on
// standard input ({"mo": {"from", "to", "text"}}), and ends when that ends.
'use strict';

const readline = require('node:readline');
const smpp = require('smpp');

const options = JSON.parse(process.argv[2] || '{}');
const sessions = new Set();
let taken = 0;
let seen = 0;

function tell(event) {
  process.stdout.write(JSON.stringify(event) + '\n');
}

function bind(session, pdu) {
  if (pdu.system_id !== 'tact' || pdu.password !== options.password) {
    tell({ refused: pdu.command });
    session.send(pdu.response({ command_status: smpp.ESME_RINVPASWD }));
    session.close();
    return;
  }
  tell({ bound: pdu.command, version: pdu.interface_version });
  session.receives = pdu.command !== 'bind_transmitter';
  session.send(pdu.response({ system_id: 'node' }));
}

function receipt(pdu, id) {
  for (const session of sessions) {
    if (!session.receives) continue;
    session.deliver_sm(
      {
        source_addr: pdu.destination_addr,
        destination_addr: pdu.source_addr,
        esm_class: 4,
        short_message:
          `id:${id} sub:001 dlvrd:001 submit date:2611211200 done date:2611211201 ` +
          'stat:DELIVRD err:000 text:',
      },
      (answer) => tell({ confirmed: id, status: answer.command_status }),
    );
    return;
  }
}

function submit(session, pdu) {
  seen += 1;
  const text = pdu.short_message;
  tell({
    submit: {
      source: pdu.source_addr,
      dest: pdu.destination_addr,
      dest_ton: pdu.dest_addr_ton,
      esm_class: pdu.esm_class,
      data_coding: pdu.data_coding,
      registered: pdu.registered_delivery,
      validity: String(pdu.validity_period ? new Date(pdu.validity_period).toISOString() : ''),
      udh: text.udh ? Buffer.concat([].concat(text.udh)).toString('hex') : '',
      text: typeof text.message === 'string' ? text.message : '',
      payload: typeof text.message === 'string' ? '' : Buffer.from(text.message || []).toString('hex'),
      sar: [pdu.sar_msg_ref_num, pdu.sar_total_segments, pdu.sar_segment_seqnum],
    },
  });
  if (options.throttle_every && seen % options.throttle_every === 0) {
    session.send(pdu.response({ command_status: smpp.ESME_RTHROTTLED }));
    return;
  }
  taken += 1;
  const id = `n${taken}`;
  setTimeout(() => {
    session.send(pdu.response({ message_id: id }));
    if (options.receipts && pdu.registered_delivery) receipt(pdu, id);
  }, options.delay_ms || 0);
}

const server = smpp.createServer((session) => {
  sessions.add(session);
  for (const command of ['bind_transceiver', 'bind_transmitter', 'bind_receiver']) {
    session.on(command, (pdu) => bind(session, pdu));
  }
  session.on('submit_sm', (pdu) => submit(session, pdu));
  session.on('enquire_link', (pdu) => {
    tell({ enquired: true });
    session.send(pdu.response());
  });
  session.on('unbind', (pdu) => {
    tell({ unbound: true });
    session.send(pdu.response());
    session.close();
  });
  session.on('error', () => sessions.delete(session));
  session.on('close', () => sessions.delete(session));
});

server.listen(0, '127.0.0.1', () => tell({ port: server.address().port }));

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const { mo } = JSON.parse(line);
  for (const session of sessions) {
    session.deliver_sm(
      {
        source_addr_ton: 1,
        source_addr: mo.from,
        destination_addr: mo.to,
        short_message: mo.text,
      },
      (answer) => tell({ confirmed: 'mo', status: answer.command_status }),
    );
    return;
  }
});
lines.on('close', () => process.exit(0));
