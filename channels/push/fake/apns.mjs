// Apple's push service to try the hub with, on the HTTP/2 that comes with Node (nghttp2).
//
//     python -m channels.push.fake.apns --port 0 --key-out AuthKey_FAKE123456.p8
//
// prints one line of JSON with its URL when it is ready, takes orders as lines of JSON on standard
// input ({"do": "counts"}, see ORDERS), answers each with a line, and ends by SIGTERM.
//
// It checks what Apple documents: the provider token (ES256, kid, iss, age, how often it changes),
// path, topic, headers, size of the payload; one stream at a time until a token was good.
//
// Sources: Apple's pages "Establishing a token-based connection to APNs", "Sending notification
// requests to APNs", "Handling notification responses from APNs".

import { createPublicKey, generateKeyPairSync, randomUUID, verify } from 'node:crypto'
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import http2 from 'node:http2'
import readline from 'node:readline'
import { parseArgs } from 'node:util'

const TOKEN_LIFE_S = 3600
const SKEW_S = 300 // how far in the future a token may have been issued: the real bound is not told
const UPDATES_S = 1200 // the time in which a provider token may be changed once
const RECORD_MAX = 10_000 // pushes remembered for {"do": "record"}
const VERIFIED_MAX = 1_000 // provider tokens whose signature need not be looked at again
const BODY_MAX = 64 * 1024
const PAYLOAD_MAX = 4096
const PAYLOAD_MAX_VOIP = 5120

const PUSH_TYPES = new Set([
  'alert', 'background', 'complication', 'controls', 'fileprovider', 'liveactivity', 'location',
  'mdm', 'pushtotalk', 'voip', 'widgets',
])
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

const OPTIONS = {
  host: { type: 'string', default: '127.0.0.1' },
  port: { type: 'string', default: '0' },
  'key-out': { type: 'string' }, // write the signing key here, as Apple gives it
  'key-in': { type: 'string' }, // or take this one
  'key-id': { type: 'string', default: 'FAKE123456' },
  'team-id': { type: 'string', default: 'TEAM123456' },
  topic: { type: 'string', default: 'com.example.app' },
  streams: { type: 'string', default: '1000' }, // at once on one connection
  'streams-first': { type: 'string', default: '1' }, // the same, until a token was good
  'latency-ms': { type: 'string', default: '0' },
  updates: { type: 'string', default: '10' }, // provider tokens within UPDATES_S
  'tls-cert': { type: 'string' }, // PEM files: TLS instead of HTTP/2 in the clear
  'tls-key': { type: 'string' },
  'send-date': { type: 'boolean', default: false },
  record: { type: 'string' }, // JSON lines of pushes that were taken
}

function given () {
  try {
    return parseArgs({ options: OPTIONS }).values
  } catch (error) {
    const names = Object.keys(OPTIONS).map(name => `--${name}`).join(' ')
    process.stderr.write(`${error.message}\noptions: ${names}\n`)
    return process.exit(2)
  }
}

const options = given()
const counts = {}
const record = []
const unwritten = []
const devices = new Map() // by device token: how it is answered
const sessions = new Set()
const sockets = new Set()
const held = new Set() // pushes whose answer waits
const planned = { answer: [], reset: [], drop: [] } // what becomes of the next pushes
const verified = new Map() // provider token: when it was issued, in seconds
const issued = [] // when tokens were first seen, in ms, the newest last
let expired = new Set()
let holding = false
let latencyMs = Number(options['latency-ms'])
let streams = Number(options.streams)

const publicKey = makeKey()

function makeKey () {
  if (options['key-in']) return createPublicKey(readFileSync(options['key-in']))
  const made = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  if (options['key-out']) {
    const pem = made.privateKey.export({ type: 'pkcs8', format: 'pem' })
    writeFileSync(options['key-out'], pem, { mode: 0o600 })
  }
  return made.publicKey
}

function count (what) {
  counts[what] = (counts[what] ?? 0) + 1
}

// ---- provider tokens ---------------------------------------------------------------------------

function refusedToken (header) {
  if (!header) return [403, 'MissingProviderToken']
  const token = /^bearer (\S+)$/i.exec(header)?.[1]
  if (token === undefined) return [403, 'InvalidProviderToken']
  if (!verified.has(token)) {
    const issuedAt = issuedAtOf(token)
    if (issuedAt === null) return [403, 'InvalidProviderToken']
    const now = Date.now()
    while (issued.length && issued[0] < now - UPDATES_S * 1000) issued.shift()
    if (issued.length >= Number(options.updates)) return [429, 'TooManyProviderTokenUpdates']
    issued.push(now)
    if (verified.size >= VERIFIED_MAX) verified.clear()
    verified.set(token, issuedAt)
    count('provider_tokens')
  }
  const age = Date.now() / 1000 - verified.get(token)
  if (age < -SKEW_S) return [403, 'InvalidProviderToken']
  if (age > TOKEN_LIFE_S || expired.has(token)) return [403, 'ExpiredProviderToken']
  return null
}

function issuedAtOf (token) {
  try {
    const [head, body, signature] = token.split('.')
    const { alg, kid } = JSON.parse(Buffer.from(head, 'base64url'))
    const { iss, iat } = JSON.parse(Buffer.from(body, 'base64url'))
    if (alg !== 'ES256' || kid !== options['key-id'] || iss !== options['team-id']) return null
    const key = { key: publicKey, dsaEncoding: 'ieee-p1363' }
    const sound = verify('sha256', `${head}.${body}`, key, Buffer.from(signature, 'base64url'))
    return sound && Number.isInteger(iat) ? iat : null
  } catch {
    return null // not a token
  }
}

// ---- one push ----------------------------------------------------------------------------------

function refusedHeaders (headers) {
  if (headers[':method'] !== 'POST') return [405, 'MethodNotAllowed']
  const path = headers[':path']
  if (!path.startsWith('/3/device/')) return [404, 'BadPath']
  const device = path.slice('/3/device/'.length)
  if (device === '') return [400, 'MissingDeviceToken']
  const provider = refusedToken(headers.authorization)
  if (provider) return provider
  if (!/^([0-9a-f]{2}){32,100}$/i.test(device)) return [400, 'BadDeviceToken']
  const type = headers['apns-push-type'] ?? 'alert'
  if (!PUSH_TYPES.has(type)) return [400, 'InvalidPushType']
  const topic = headers['apns-topic']
  if (!topic) return [400, 'MissingTopic']
  if (!/^[A-Za-z0-9.-]{1,255}$/.test(topic)) return [400, 'BadTopic']
  if (topic !== options.topic && !topic.startsWith(options.topic + '.')) {
    return [400, 'TopicDisallowed']
  }
  const id = headers['apns-id']
  if (id !== undefined && !UUID.test(id)) return [400, 'BadMessageId']
  const priority = headers['apns-priority'] ?? '10'
  if (!['10', '5', '1'].includes(priority)) return [400, 'BadPriority']
  if (type === 'background' && priority === '10') return [400, 'BadPriority']
  if (!/^[0-9]{1,12}$/.test(headers['apns-expiration'] ?? '0')) return [400, 'BadExpirationDate']
  if (Buffer.byteLength(headers['apns-collapse-id'] ?? '') > 64) return [400, 'BadCollapseId']
  return null
}

function refusedBody (body, size, type) {
  if (size === 0) return [400, 'PayloadEmpty']
  if (size > (type === 'voip' ? PAYLOAD_MAX_VOIP : PAYLOAD_MAX)) return [413, 'PayloadTooLarge']
  try {
    const read = JSON.parse(body)
    return read !== null && typeof read === 'object' ? null : [400, 'PayloadEmpty']
  } catch {
    return [400, 'PayloadEmpty'] // what Apple says to what is no JSON is not documented
  }
}

function arrived (stream, headers) {
  count('requests')
  const refused = refusedHeaders(headers)
  if (refused && refused[0] === 403) count('provider_tokens_refused')
  else grow(stream.session)
  const chunks = []
  let size = 0
  stream.on('error', () => count('streams_broken'))
  stream.on('data', chunk => {
    size += chunk.length
    if (size <= BODY_MAX) chunks.push(chunk)
  })
  stream.on('end', () => {
    const body = Buffer.concat(chunks).toString()
    const type = headers['apns-push-type'] ?? 'alert'
    const push = { stream, headers, body, id: headers['apns-id'] ?? randomUUID() }
    const wrong = refused ?? refusedBody(body, size, type)
    if (wrong) answer(push, { status: wrong[0], reason: wrong[1] })
    else decide(push)
  })
}

function grow (session) {
  // Apple allows one stream until a request had a good token
  if (!session.trusted) {
    session.trusted = true
    session.settings({ maxConcurrentStreams: streams })
  }
}

function next (kind) {
  const plan = planned[kind][0]
  if (plan && --plan.times <= 0) planned[kind].shift()
  return plan
}

function decide (push) {
  let plan = next('reset')
  if (plan) {
    count('resets')
    if (plan.code !== http2.constants.NGHTTP2_REFUSED_STREAM) take(push)
    push.stream.close(plan.code)
    return
  }
  if (next('drop')) {
    take(push)
    return
  }
  plan = next('answer') ?? devices.get(deviceOf(push))
  if (plan) answer(push, plan)
  else if (holding) held.add(push)
  else if (latencyMs > 0) setTimeout(accept, latencyMs * (0.5 + Math.random()), push)
  else accept(push)
}

function deviceOf (push) {
  return push.headers[':path'].slice('/3/device/'.length).toLowerCase()
}

function accept (push) {
  take(push)
  answer(push, { status: 200 })
}

function take (push) {
  count('taken')
  const fact = {
    at: Date.now(),
    id: push.id,
    device: deviceOf(push),
    topic: push.headers['apns-topic'],
    type: push.headers['apns-push-type'],
    priority: push.headers['apns-priority'],
    expiration: push.headers['apns-expiration'],
    collapse: push.headers['apns-collapse-id'],
    payload: push.body,
  }
  record.push(fact)
  if (record.length > 2 * RECORD_MAX) record.splice(0, RECORD_MAX)
  if (options.record) unwritten.push(JSON.stringify(fact) + '\n')
}

function answer (push, plan) {
  count(plan.status)
  if (push.stream.destroyed) return
  const headers = { ':status': plan.status, 'apns-id': push.id }
  if (plan.retry_after !== undefined) headers['retry-after'] = String(plan.retry_after)
  const sendDate = options['send-date']
  if (plan.status === 200) {
    push.stream.respond(headers, { endStream: true, sendDate })
    return
  }
  const said = { reason: plan.reason }
  if (plan.timestamp !== undefined) said.timestamp = plan.timestamp
  push.stream.respond(headers, { sendDate })
  push.stream.end(plan.body ?? JSON.stringify(said) + ' '.repeat(plan.pad ?? 0))
}

// ---- the server --------------------------------------------------------------------------------

const settings = {
  settings: { maxConcurrentStreams: Number(options['streams-first']), enablePush: false },
  maxSessionMemory: 200,
}
const server = options['tls-cert']
  ? http2.createSecureServer({
    ...settings,
    cert: readFileSync(options['tls-cert']),
    key: readFileSync(options['tls-key']),
  })
  : http2.createServer(settings)

server.on('session', session => {
  count('connections')
  sessions.add(session)
  session.on('ping', () => count('pings'))
  session.on('error', () => count('connections_broken'))
  session.on('close', () => sessions.delete(session))
})
server.on('stream', arrived)
server.on('connection', socket => {
  sockets.add(socket)
  socket.on('close', () => sockets.delete(socket))
})
server.on('sessionError', () => count('connections_broken'))
server.on('tlsClientError', () => count('tls_refused'))

// ---- orders ------------------------------------------------------------------------------------

const ORDERS = {
  // {"do": "device", "token", "status", "reason", "timestamp"}: how pushes to it are answered
  device: order => order.status ? devices.set(order.token, order) : devices.delete(order.token),
  // {"do": "answer", "times", "status", "reason", "retry_after", "body", "pad"}: the next pushes
  answer: order => planned.answer.push({ times: 1, ...order }),
  // {"do": "reset", "times", "code"}: the next streams are reset; taken, unless the code is 7
  reset: order => planned.reset.push({ times: 1, code: 7, ...order }),
  // {"do": "drop", "times"}: the next pushes are taken and never answered
  drop: order => planned.drop.push({ times: 1, ...order }),
  // {"do": "hold"}: pushes wait, neither taken nor answered, until {"do": "release"}
  hold: () => { holding = true },
  release: () => {
    holding = false
    for (const push of held) accept(push)
    held.clear()
  },
  held: () => held.size,
  // {"do": "goaway", "last", "code", "reason"}: GOAWAY on every connection; held pushes on streams
  // above `last` are thrown away, as it says
  goaway: order => {
    const said = order.reason ? Buffer.from(JSON.stringify({ reason: order.reason })) : undefined
    for (const session of sessions) session.goaway(order.code ?? 0, order.last ?? 0, said)
    for (const push of held) if (order.last && push.stream.id > order.last) held.delete(push)
  },
  // {"do": "cut"}: every connection is reset; what was held counts as taken
  cut: () => {
    for (const push of held) take(push)
    held.clear()
    for (const socket of sockets) socket.resetAndDestroy()
  },
  // {"do": "settings", "streams"}: another limit, at once
  settings: order => {
    streams = order.streams
    for (const session of sessions) session.settings({ maxConcurrentStreams: streams })
  },
  latency: order => { latencyMs = order.ms },
  // {"do": "expire"}: the provider tokens seen so far are too old
  expire: () => { expired = new Set(verified.keys()) },
  counts: () => counts,
  record: () => record.slice(-RECORD_MAX),
  connections: () => sessions.size,
}

function tell (event) {
  process.stdout.write(JSON.stringify(event) + '\n')
}

function flush () {
  if (unwritten.length) appendFileSync(options.record, unwritten.splice(0).join(''))
}

readline.createInterface({ input: process.stdin }).on('line', line => {
  let order
  try {
    order = JSON.parse(line)
  } catch {
    order = null // answered below
  }
  const act = Object.hasOwn(ORDERS, order?.do) ? ORDERS[order.do] : undefined
  if (act === undefined) return tell({ error: 'order not understood' })
  const found = act(order)
  const plain = typeof found === 'number' || Array.isArray(found) || found === counts
  return tell({ done: plain ? found : true })
})

function stop () {
  flush()
  tell({ counts })
  process.exit(0)
}

process.on('SIGTERM', stop)
process.on('SIGINT', stop)
if (options.record) setInterval(flush, 200)

server.listen(Number(options.port), options.host, () => {
  const { port } = server.address()
  const scheme = options['tls-cert'] ? 'https' : 'http'
  const host = options['tls-cert'] ? 'localhost' : options.host
  tell({
    port,
    url: `${scheme}://${host}:${port}`,
    key_id: options['key-id'],
    team_id: options['team-id'],
    topic: options.topic,
  })
})
