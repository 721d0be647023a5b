// amqplib against the broker at AMQP_URL. Prints one "ok" line a check.
'use strict';

const assert = require('node:assert/strict');
const readline = require('node:readline/promises');
const { setTimeout: sleep } = require('node:timers/promises');
const amqp = require('amqplib');

const QUEUE = 'check.amqplib';
const typed = (type, value) => ({ '!': type, value });
const HEADERS = {
  bool: true,
  int8: typed('int8', -7),
  uint8: typed('uint8', 250),
  int16: typed('int16', -300),
  uint16: typed('uint16', 65000),
  int32: typed('int32', -70000),
  uint32: typed('uint32', 4294967295),
  int64: typed('int64', -(2 ** 40)),
  float: typed('float', 0.5),
  double: 0.1,
  decimal: typed('decimal', { places: 2, digits: 314 }),
  text: 'h\u00e9llo',
  bytes: Buffer.from([0, 255]),
  time: typed('timestamp', 1700000000),
  table: { deep: { er: 1 } },
  array: [1, 'two', null, [true]],
  void: null,
};
// What amqplib makes of them on reading: plain numbers, except for these two.
const READ = Object.fromEntries(
  Object.entries(HEADERS).map(([name, value]) => [
    name,
    value?.['!'] && !['decimal', 'time'].includes(name) ? value.value : value,
  ]),
);
const OPTIONS = {
  contentType: 'application/json',
  contentEncoding: 'identity',
  headers: HEADERS,
  priority: 3,
  correlationId: 'c-1',
  replyTo: 'nobody',
  expiration: '600000',
  messageId: 'm-1',
  timestamp: 1700000000,
  type: 'greeting',
  userId: 'guest',
  appId: 'check',
};

// A connection with one confirm channel and the deliveries of its consumers.
class Peer {
  async open() {
    return this.use(await amqp.connect(process.env.AMQP_URL));
  }

  async use(connection) {
    this.connection = connection;
    // Without a listener a lost connection would end the program.
    this.connection.on('error', () => {});
    this.closed = new Promise((done) => this.connection.once('close', done));
    this.channel = await this.connection.createConfirmChannel();
    this.channel.on('error', () => {});
    this.deliveries = [];
    this.arrived = () => {};
    return this;
  }

  async consume(queue, options) {
    const { consumerTag } = await this.channel.consume(
      queue,
      (message) => {
        this.deliveries.push(message);
        this.arrived();
      },
      options,
    );
    return consumerTag;
  }

  // The next `count` deliveries, unacknowledged.
  async take(count) {
    const deadline = setTimeout(() => {
      console.error(`only ${this.deliveries.length} of ${count} messages came`);
      process.exit(1);
    }, 10_000);
    while (this.deliveries.length < count) {
      await new Promise((arrived) => (this.arrived = arrived));
    }
    clearTimeout(deadline);
    return this.deliveries.splice(0, count);
  }

  publish(body, options, queue = QUEUE) {
    return new Promise((resolve, reject) => {
      this.channel.sendToQueue(
        queue,
        Buffer.from(body),
        { persistent: true, mandatory: true, ...options },
        (error) => (error ? reject(error) : resolve()),
      );
    });
  }
}

const bodies = (messages) => messages.map((m) => m.content.toString());
const flags = (messages) => messages.map((m) => m.fields.redelivered);
const numbers = (count) => Array.from({ length: count }, (_, n) => String(n));

async function checkContent(peer) {
  const sent = ['', '\0\x01', 'x'.repeat(300_000), 'h\u00e9'];
  for (const body of sent) await peer.publish(body, OPTIONS);
  const tag = await peer.consume(QUEUE);
  const messages = await peer.take(sent.length);
  assert.deepEqual(bodies(messages), sent);
  for (const { fields, properties } of messages) {
    for (const [name, value] of Object.entries({ ...OPTIONS, headers: READ })) {
      assert.deepEqual(properties[name], value, name);
    }
    assert.equal(properties.deliveryMode, 2);
    assert.deepEqual([fields.exchange, fields.routingKey], ['', QUEUE]);
    assert.equal(fields.redelivered, false);
  }
  peer.channel.ack(messages.at(-1), true);
  await peer.channel.cancel(tag);
}

async function checkOrderAndRequeue(peer) {
  const { channel } = peer;
  const sent = numbers(100);
  await Promise.all(sent.map((body) => peer.publish(body)));
  await channel.prefetch(10);
  let tag = await peer.consume(QUEUE);
  const first = await peer.take(10);
  assert.deepEqual(bodies(first), sent.slice(0, 10));
  // Cancelled first, or the acknowledgement would bring the next ones.
  await channel.cancel(tag);
  channel.ack(first[0]);
  channel.reject(first[1], false);
  channel.nack(first.at(-1), true, true);
  await channel.prefetch(0);
  tag = await peer.consume(QUEUE);
  const again = await peer.take(98);
  assert.deepEqual(bodies(again), sent.slice(2));
  assert.deepEqual(flags(again), again.map((_, n) => n < 8));
  channel.ackAll();
  await channel.cancel(tag);
}

async function checkMandatory(peer) {
  const returned = new Promise((resolve) => peer.channel.once('return', resolve));
  await peer.publish('lost?', {}, 'check.nowhere');
  const { fields, content } = await returned;
  assert.equal(content.toString(), 'lost?');
  assert.deepEqual([fields.replyCode, fields.replyText], [312, 'NO_ROUTE']);
  assert.equal(fields.routingKey, 'check.nowhere');
}

async function checkGet(peer) {
  const { channel } = peer;
  assert.equal(await channel.get(QUEUE), false);
  await peer.publish('one');
  await peer.publish('two');
  let message = await channel.get(QUEUE);
  assert.equal(message.content.toString(), 'one');
  assert.equal(message.fields.messageCount, 1);
  channel.ack(message);
  message = await channel.get(QUEUE, { noAck: true });
  assert.equal(message.content.toString(), 'two');
  assert.equal(message.fields.messageCount, 0);
}

async function checkRpc(peer) {
  const { channel } = peer;
  const { queue } = await channel.assertQueue('', { exclusive: true });
  assert.match(queue, /^amq\.gen-/);
  const tag = await peer.consume(queue, { noAck: true });
  const server = await channel.consume(QUEUE, (request) => {
    const { replyTo, correlationId } = request.properties;
    const body = Buffer.concat([Buffer.from('re: '), request.content]);
    channel.sendToQueue(replyTo, body, { correlationId });
    channel.ack(request);
  });
  await peer.publish('hi', { replyTo: queue, correlationId: '42' });
  const [reply] = await peer.take(1);
  assert.equal(reply.content.toString(), 're: hi');
  assert.equal(reply.properties.correlationId, '42');
  await channel.cancel(tag);
  await channel.cancel(server.consumerTag);
  await channel.deleteQueue(queue);
}

async function checkLostConnection(peer) {
  const sent = numbers(5);
  for (const body of sent) await peer.publish(body);
  await peer.channel.prefetch(2);
  await peer.consume(QUEUE);
  assert.deepEqual(bodies(await peer.take(2)), sent.slice(0, 2));
  // No close, no goodbye: as when the machine is unplugged.
  peer.connection.connection.stream.destroy(new Error('unplugged'));
  await peer.closed;

  peer = await new Peer().open();
  // Nothing says how soon the broker notices.
  const deadline = Date.now() + 20_000;
  while ((await peer.channel.checkQueue(QUEUE)).messageCount < 5) {
    assert.ok(Date.now() < deadline);
  }
  const tag = await peer.consume(QUEUE);
  const again = await peer.take(5);
  assert.deepEqual(bodies(again), sent);
  assert.deepEqual(flags(again), [true, true, false, false, false]);
  peer.channel.ackAll();
  await peer.channel.cancel(tag);
  return peer;
}

// Has the broker stopped ('restart') or killed ('kill') and started again; false
// where that is impossible. The answer comes before the deed.
async function ask(what) {
  const lines = readline.createInterface({ input: process.stdin });
  console.log('CUE', what);
  const { value } = await lines[Symbol.asyncIterator]().next();
  lines.close();
  return value === 'coming';
}

// A new peer, once there is a broker to connect to.
async function reconnect() {
  const deadline = Date.now() + 20_000;
  for (;;) {
    try {
      return await new Peer().open();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(100);
    }
  }
}

async function checkRestart(peer) {
  const sent = numbers(20);
  for (const body of sent) await peer.publish(body, OPTIONS);
  if (!(await ask('restart'))) await peer.connection.close();
  await peer.closed;

  peer = await reconnect();
  const tag = await peer.consume(QUEUE);
  const messages = await peer.take(20);
  assert.deepEqual(bodies(messages), sent);
  for (const { properties } of messages) assert.deepEqual(properties.headers, READ);
  peer.channel.ackAll();
  await peer.channel.cancel(tag);
  return peer;
}

// With the library's own recovery: `setup` runs for each new connection.
async function checkKill(peer) {
  const sent = numbers(20);
  for (const body of sent) await peer.publish(body);
  const lives = [];
  const recovery = {
    initialDelay: 50,
    maxDelay: 200,
    setup: async (connection) => {
      const life = await new Peer().use(connection);
      // All that is taken before the kill stays unacknowledged.
      if (!lives.length) await life.channel.prefetch(5);
      await life.consume(QUEUE);
      lives.push(life);
    },
  };
  const recovering = await amqp.connect(process.env.AMQP_URL, { recovery });
  recovering.on('error', () => {});
  const disconnected = new Promise((done) => recovering.once('disconnect', done));
  assert.deepEqual(bodies(await lives[0].take(5)), sent.slice(0, 5));
  if (!(await ask('kill'))) {
    lives[0].connection.connection.stream.destroy(new Error('as if killed'));
    await peer.connection.close();
  }
  await disconnected;

  const publisher = await recovering.createConfirmChannel();
  publisher.sendToQueue(QUEUE, Buffer.from('and on'), { persistent: true });
  await publisher.waitForConfirms();
  assert.equal(lives.length, 2);
  assert.deepEqual(bodies(await lives[1].take(21)), [...sent, 'and on']);
  lives[1].channel.ackAll();
  // First, or the end of the connection could overtake the acknowledgement.
  await lives[1].channel.close();
  await recovering.close();
  return reconnect();
}

async function main() {
  let peer = await new Peer().open();
  await peer.channel.deleteQueue(QUEUE);
  await peer.channel.assertQueue(QUEUE, { durable: true });
  for (const check of [
    checkContent,
    checkOrderAndRequeue,
    checkMandatory,
    checkGet,
    checkRpc,
    checkLostConnection,
    checkRestart,
    checkKill,
  ]) {
    peer = (await check(peer)) ?? peer;
    console.log('ok', check.name);
  }
  const { messageCount } = await peer.channel.deleteQueue(QUEUE);
  assert.equal(messageCount, 0);
  await peer.connection.close();
}

function run(main) {
  main().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = { Peer, bodies, run };
if (require.main === module) run(main);
