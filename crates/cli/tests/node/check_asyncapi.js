// Checks an AsyncAPI document, whose file is the argument, with AsyncAPI's own parser: it knows the
// specification's schema and rules, and follows every reference. Prints the operations it has read.
'use strict';

const { readFileSync } = require('node:fs');
const { Parser } = require('@asyncapi/parser');

const ERROR = 0; // of the severities: the others are advice

async function main() {
  const text = readFileSync(process.argv[2], 'utf8');
  const { document, diagnostics } = await new Parser().parse(text);
  const errors = diagnostics.filter(({ severity }) => severity === ERROR);
  for (const { path, message } of errors) console.error(`${path.join('.')}: ${message}`);
  if (errors.length > 0 || !document) process.exit(1);
  for (const operation of document.operations().all()) {
    const messages = operation.messages().all();
    const names = messages.map((message) => `${message.name()}:${message.contentType() ?? ''}`);
    console.log([operation.action(), operation.id(), ...names].join(' '));
  }
}

main();
