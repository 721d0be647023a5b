// What RabbitMQ adds to AMQP, and the parts of AMQP that few use, by amqplib.
// (It does without transactions.)
//
// Against the broker at AMQP_URL. Prints one "ok" line a check.
'use strict';

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const { Peer, bodies, run } = require('./check_amqplib.js');

const NAME = 'check.amqplib.ext';
const REPLIES = 'amq.rabbitmq.reply-to';

// An empty durable queue; amqplib makes arguments of its options.
async function fresh({ channel }, suffix = '', options = {}) {
  const queue = NAME + suffix;
  await channel.deleteQueue(queue);
  await channel.assertQueue(queue, { durable: true, ...options });
  return queue;
}

async function freshExchange({ channel }, type, suffix, options = {}) {
  const exchange = NAME + suffix;
  await channel.deleteExchange(exchange);
  await channel.assertExchange(exchange, type, { durable: true, ...options });
  return exchange;
}

const deadLettersTo = (queue) => ({
  deadLetterExchange: '',
  deadLetterRoutingKey: queue,
});

// Returns with the confirm; rejects if the broker refuses the message.
function publish({ channel }, exchange, key, body, options) {
  return new Promise((resolve, reject) => {
    channel.publish(
      exchange,
      key,
      Buffer.from(body),
      { persistent: true, ...options },
      (error) => (error ? reject(error) : resolve()),
    );
  });
}

// The queue's next message; waits for it.
async function get({ channel }, queue, options = { noAck: true }) {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const message = await channel.get(queue, options);
    if (message) return message;
    await sleep(10);
  }
  throw new Error(`nothing comes to ${queue}`);
}

// The bodies of all that waits in the queue.
async function drain({ channel }, queue) {
  const found = [];
  for (;;) {
    const message = await channel.get(queue, { noAck: true });
    if (!message) return bodies(found);
    found.push(message);
  }
}

// An entry of the x-death header, without its time.
const death = (queue, reason, count = 1, more = {}) => ({
  count,
  reason,
  queue,
  exchange: '',
  'routing-keys': [queue],
  ...more,
});

// The x-death header without the times.
const deaths = (message) =>
  message.properties.headers['x-death'].map(({ time, ...entry }) => {
    assert.equal(time['!'], 'timestamp');
    return entry;
  });

async function checkDirectReplyTo(peer) {
  const queue = await fresh(peer);
  const tag = await peer.consume(REPLIES, { noAck: true });
  await publish(peer, '', queue, 'hi', { replyTo: REPLIES, correlationId: '42' });
  const server = await new Peer().open();
  const request = await get(server, queue);
  const { replyTo, correlationId } = request.properties;
  assert.ok(replyTo.startsWith(`${REPLIES}.`), replyTo);
  await publish(server, '', replyTo, `re: ${request.content}`, { correlationId });
  const [reply] = await peer.take(1);
  assert.equal(reply.content.toString(), 're: hi');
  assert.equal(reply.properties.correlationId, '42');
  await server.connection.close();
  await peer.channel.cancel(tag);
  await peer.channel.deleteQueue(queue);
}

async function checkDeadLetter(peer) {
  const { channel } = peer;
  const exchange = await freshExchange(peer, 'direct', '.dlx');
  const dead = await fresh(peer, '.dead');
  await channel.bindQueue(dead, exchange, 'dead');
  const queue = await fresh(peer, '', {
    deadLetterExchange: exchange,
    deadLetterRoutingKey: 'dead',
  });
  await publish(peer, '', queue, 'bad', { headers: { kept: 1 } });
  channel.reject(await get(peer, queue, {}), false);
  const message = await get(peer, dead);
  const { fields, properties } = message;
  assert.equal(message.content.toString(), 'bad');
  assert.deepEqual([fields.exchange, fields.routingKey], [exchange, 'dead']);
  assert.deepEqual(deaths(message), [death(queue, 'rejected')]);
  assert.equal(properties.headers.kept, 1);
  assert.equal(properties.headers['x-first-death-reason'], 'rejected');
  assert.equal(properties.headers['x-first-death-queue'], queue);
  assert.equal(properties.headers['x-first-death-exchange'], '');
  for (const name of [queue, dead]) await channel.deleteQueue(name);
  await channel.deleteExchange(exchange);
}

// The usual way to try again later: two queues that are each other's place for
// the dead.
async function checkRetry(peer) {
  const { channel } = peer;
  const [work, wait] = [`${NAME}.work`, `${NAME}.wait`];
  await fresh(peer, '.work', deadLettersTo(wait));
  await fresh(peer, '.wait', { messageTtl: 50, ...deadLettersTo(work) });
  const tag = await peer.consume(work);
  await publish(peer, '', work, 'task');
  for (const count of [0, 1, 2]) {
    const [message] = await peer.take(1);
    if (count) {
      // The newest comes first.
      assert.deepEqual(deaths(message), [
        death(wait, 'expired', count),
        death(work, 'rejected', count),
      ]);
    }
    if (count < 2) channel.nack(message, false, false);
    else channel.ack(message);
  }
  await channel.cancel(tag);
  for (const name of [work, wait]) await channel.deleteQueue(name);
}

async function checkTtl(peer) {
  const dead = await fresh(peer, '.dead');
  const options = { messageTtl: 600_000, ...deadLettersTo(dead) };
  const queue = await fresh(peer, '', options);
  // The shorter of the two counts.
  await publish(peer, '', queue, 'brief', { expiration: 50 });
  await publish(peer, '', queue, 'kept', { expiration: 900_000 });
  const message = await get(peer, dead);
  assert.equal(message.content.toString(), 'brief');
  // Or it would expire again.
  assert.equal(message.properties.expiration, undefined);
  const more = { 'original-expiration': '50' };
  assert.deepEqual(deaths(message), [death(queue, 'expired', 1, more)]);
  assert.deepEqual(await drain(peer, queue), ['kept']);
  for (const name of [queue, dead]) await peer.channel.deleteQueue(name);
}

async function checkQueueExpiry(peer) {
  const queue = await fresh(peer, '', { expires: 200 });
  let gone = false;
  peer.channel.once('return', ({ fields }) => (gone = fields.replyCode === 312));
  const deadline = Date.now() + 10_000;
  // To declare it would keep it, even passively.
  while (!gone) {
    assert.ok(Date.now() < deadline, 'the queue stays');
    await publish(peer, '', queue, 'does it exist?', { mandatory: true });
    await sleep(50);
  }
}

async function checkMaxLength(peer) {
  const dead = await fresh(peer, '.dead');
  const options = { maxLength: 3, ...deadLettersTo(dead) };
  let queue = await fresh(peer, '', options);
  for (const body of ['0', '1', '2', '3', '4']) {
    await publish(peer, '', queue, body);
  }
  for (const body of ['0', '1']) {
    const message = await get(peer, dead);
    assert.equal(message.content.toString(), body);
    assert.deepEqual(deaths(message), [death(queue, 'maxlen')]);
  }
  assert.deepEqual(await drain(peer, queue), ['2', '3', '4']);
  queue = await fresh(peer, '', {
    maxLength: 1,
    arguments: { 'x-overflow': 'reject-publish' },
  });
  await publish(peer, '', queue, 'first');
  await assert.rejects(publish(peer, '', queue, 'second'), /nacked/);
  assert.deepEqual(await drain(peer, queue), ['first']);
  for (const name of [queue, dead]) await peer.channel.deleteQueue(name);
}

async function checkPriority(peer) {
  const queue = await fresh(peer, '', { maxPriority: 5 });
  const sent = { a: 1, b: 5, c: 3, d: undefined, e: 5, f: 9, g: 1 };
  for (const [body, priority] of Object.entries(sent)) {
    await publish(peer, '', queue, body, { priority });
  }
  // None is 0, what is above the most is the most, equals keep their order.
  assert.deepEqual(await drain(peer, queue), ['b', 'e', 'f', 'c', 'a', 'g', 'd']);
  await peer.channel.deleteQueue(queue);
}

async function checkExchangeBinding(peer) {
  const { channel } = peer;
  const source = await freshExchange(peer, 'topic', '.source');
  const target = await freshExchange(peer, 'fanout', '.target');
  const queue = await fresh(peer);
  await channel.bindExchange(target, source, 'log.#');
  await channel.bindQueue(queue, target, '');
  await publish(peer, source, 'log.error', 'one');
  await publish(peer, source, 'other', 'none');
  const message = await get(peer, queue);
  assert.equal(message.content.toString(), 'one');
  assert.equal(message.fields.exchange, source);
  await channel.unbindExchange(target, source, 'log.#');
  await publish(peer, source, 'log.error', 'none');
  assert.deepEqual(await drain(peer, queue), []);
  await channel.deleteQueue(queue);
  for (const name of [target, source]) await channel.deleteExchange(name);
}

async function checkHeadersExchange(peer) {
  const { channel } = peer;
  const exchange = await freshExchange(peer, 'headers', '.headers');
  const queue = await fresh(peer);
  const wanted = { kind: 'report', pages: 3 };
  for (const [match, found] of [
    ['all', ['both']],
    ['any', ['both', 'kind', 'pages']],
  ]) {
    const binding = { 'x-match': match, ...wanted };
    await channel.bindQueue(queue, exchange, '', binding);
    for (const [body, headers] of [
      ['both', { ...wanted, more: true }],
      ['kind', { kind: 'report', pages: 4 }],
      ['pages', { pages: 3 }],
      ['neither', { kind: 'log' }],
      ['nothing', undefined],
    ]) {
      await publish(peer, exchange, '', body, { headers });
    }
    assert.deepEqual(await drain(peer, queue), found, match);
    await channel.unbindQueue(queue, exchange, '', binding);
  }
  await channel.deleteQueue(queue);
  await channel.deleteExchange(exchange);
}

async function checkAlternateExchange(peer) {
  const { channel } = peer;
  const rest = await freshExchange(peer, 'fanout', '.rest');
  const options = { alternateExchange: rest };
  const exchange = await freshExchange(peer, 'direct', '.first', options);
  const queue = await fresh(peer);
  const other = await fresh(peer, '.other');
  await channel.bindQueue(queue, exchange, 'known');
  await channel.bindQueue(other, rest, '');
  const returned = [];
  const keep = (message) => returned.push(message);
  channel.on('return', keep);
  await publish(peer, exchange, 'known', 'one', { mandatory: true });
  await publish(peer, exchange, 'unknown', 'two', { mandatory: true });
  assert.deepEqual(await drain(peer, queue), ['one']);
  const message = await get(peer, other);
  assert.equal(message.content.toString(), 'two');
  assert.equal(message.fields.exchange, exchange);
  assert.deepEqual(returned, []);
  channel.off('return', keep);
  for (const name of [queue, other]) await channel.deleteQueue(name);
  for (const name of [exchange, rest]) await channel.deleteExchange(name);
}

async function checkCancelNotify(peer) {
  const queue = await fresh(peer);
  const other = await peer.connection.createChannel();
  const cancelled = new Promise((resolve) => other.consume(queue, resolve));
  // Answered after the consumer is there.
  await other.checkQueue(queue);
  await peer.channel.deleteQueue(queue);
  const late = sleep(10_000, 'no word of it', { ref: false });
  assert.equal(await Promise.race([cancelled, late]), null);
  // Only the consumer is gone.
  await other.assertQueue('', { exclusive: true });
  await other.close();
}

async function main() {
  const peer = await new Peer().open();
  for (const check of [
    checkDirectReplyTo,
    checkDeadLetter,
    checkRetry,
    checkTtl,
    checkQueueExpiry,
    checkMaxLength,
    checkPriority,
    checkExchangeBinding,
    checkHeadersExchange,
    checkAlternateExchange,
    checkCancelNotify,
  ]) {
    await check(peer);
    console.log('ok', check.name);
  }
  await peer.connection.close();
}

run(main);
