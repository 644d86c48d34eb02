// Conversations as a file, and the check of whatever comes from outside: each field is read by its type, the rest dropped.

import { readParameters } from './settings.js';

const FORMAT = 'mindformers-conversations';
const VERSION = 1;
const ID = /^m[0-9a-f]{24}$/;

/** What is not a file of conversations; the message is the key of the words that say why. */
export class ExchangeError extends Error {}

export function exportText(conversations) {
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 2);
}

/**
 * Return the conversations of an exported file.
 *
 * Throws an ExchangeError when the text is not one, or when a conversation in it does not hold together.
 */
export function importText(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new ExchangeError('fileNotJson');
  }
  if (file?.format !== FORMAT || file.version !== VERSION || !Array.isArray(file.conversations)) {
    throw new ExchangeError('fileNotOurs');
  }
  return file.conversations.map(readConversation);
}

/** Return a conversation made of known fields; a parent stands before its children, so there is no circle. */
export function readConversation(value) {
  require(ID.test(value?.id));
  const messages = {};
  for (const [id, message] of Object.entries(value.messages ?? {})) {
    require(ID.test(id) && (message?.parent === null || Object.hasOwn(messages, message?.parent)));
    messages[id] = readMessage(id, message);
  }
  require(value.leaf === null || Object.hasOwn(messages, value.leaf));
  return {
    id: value.id,
    title: textOf(value.title),
    created: numberOf(value.created) ?? 0,
    updated: numberOf(value.updated) ?? 0,
    parameters: readParameters(value.parameters),
    messages,
    leaf: value.leaf,
  };
}

function readMessage(id, message) {
  const common = { id, parent: message.parent, role: message.role, content: textOf(message.content) };
  if (message.role === 'user') return common;
  if (message.role === 'tool') {
    return { ...common, tool_call_id: textOf(message.tool_call_id), skipped: message.skipped === true };
  }
  require(message.role === 'assistant');
  return {
    ...common,
    tool_calls: listOf(message.tool_calls).map((call) => (
      { id: textOf(call?.id), name: textOf(call?.name), arguments: textOf(call?.arguments) })),
    finish: textOf(message.finish),
    model: textOf(message.model),
    usage: message.usage && {
      prompt: numberOf(message.usage.prompt) ?? 0,
      cached: numberOf(message.usage.cached) ?? 0,
      completion: numberOf(message.usage.completion) ?? 0,
    },
    first: numberOf(message.first),
    took: numberOf(message.took),
    error: message.error && { kind: textOf(message.error.kind), text: textOf(message.error.text) },
  };
}

function require(isRight) {
  if (!isRight) throw new ExchangeError('fileDamaged');
}

function textOf(value) {
  return typeof value === 'string' ? value : '';
}

function numberOf(value) {
  return Number.isFinite(value) ? value : null;
}

function listOf(value) {
  return Array.isArray(value) ? value : [];
}
