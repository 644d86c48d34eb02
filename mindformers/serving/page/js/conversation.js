// A conversation is a tree: an answer made anew, or a question edited, stands beside the earlier one, and nothing that
// was said is lost. What is shown is the path from the root to `leaf`.

const TITLE_LENGTH = 60;
const SKIPPED = 'The tool was not run.'; // what the model reads in place of a result

/** Return an id; unlike crypto.randomUUID this also works on a page that came over plain HTTP. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  // The letter keeps it from looking like a number: keys of an object that do are not kept in order.
  return `m${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

export function newConversation(parameters, now = Date.now()) {
  return { id: newId(), title: '', created: now, updated: now, parameters: { ...parameters }, messages: {}, leaf: null };
}

/** Put a message behind `parent` (null: at the beginning) and show it. */
export function addMessage(conversation, message, parent = conversation.leaf, now = Date.now()) {
  const added = { ...message, id: newId(), parent };
  conversation.messages[added.id] = added;
  conversation.leaf = added.id;
  conversation.updated = now;
  return added;
}

/** Take out an answer that failed before its first word, unless the conversation went on behind it. */
export function dropEmpty(conversation, id) {
  const { content, tool_calls: calls } = conversation.messages[id];
  const hasNext = Object.values(conversation.messages).some(({ parent }) => parent === id);
  if (!content && calls.length === 0 && !hasNext) delete conversation.messages[id];
}

/** Return the messages from the first to `leaf`. */
export function pathOf(conversation, leaf = conversation.leaf) {
  const path = [];
  for (let id = leaf; id !== null; id = conversation.messages[id].parent) path.push(conversation.messages[id]);
  return path.reverse();
}

/** Return the versions of a message, itself among them, in the order they were made. */
export function versionsOf(conversation, message) {
  return Object.values(conversation.messages).filter(({ parent, role }) => parent === message.parent && role === message.role);
}

/** Show the version `id` and the latest of what followed it. */
export function showVersion(conversation, id) {
  let leaf = id;
  const messages = Object.values(conversation.messages);
  for (let next = id; next !== undefined; next = messages.findLast(({ parent }) => parent === leaf)?.id) leaf = next;
  conversation.leaf = leaf;
}

/** Return the title given, or the beginning of the first question. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const question = conversation.leaf === null ? '' : pathOf(conversation)[0].content;
  const line = question.trim().split('\n')[0];
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH - 1)}…` : line;
}

/** Return the calls of an answer that were written to their end; one that was cut has no arguments to go by. */
export function callsOf(message) {
  return ['tool_calls', 'stop'].includes(message.finish) ? message.tool_calls : [];
}

/** Return the results that follow an answer directly; a server may give the same ids in every answer. */
export function resultsOf(path, message) {
  const behind = path.slice(path.indexOf(message) + 1);
  const end = behind.findIndex(({ role }) => role !== 'tool');
  return end < 0 ? behind : behind.slice(0, end);
}

/** Return the calls at the end of a path that still wait for a result. */
export function openCalls(path) {
  const last = path.findLast(({ role }) => role !== 'tool');
  if (last?.role !== 'assistant') return [];
  const answered = new Set(resultsOf(path, last).map(({ tool_call_id: id }) => id));
  return callsOf(last).filter(({ id }) => !answered.has(id));
}

export function resultMessage(call, content = null) {
  return { role: 'tool', tool_call_id: call.id, content: content ?? SKIPPED, skipped: content === null };
}

/**
 * Return the messages as the server takes them. Answers that failed before their first word are left out; where questions
 * stand `alone`, so is everything before the last one.
 */
export function requestMessages(path, { system, alone }) {
  const messages = system.trim() ? [{ role: 'system', content: system }] : [];
  const from = alone ? path.findLastIndex(({ role }) => role === 'user') : 0;
  for (const message of path.slice(from)) {
    if (message.role === 'tool') {
      messages.push({ role: 'tool', tool_call_id: message.tool_call_id, content: message.content });
    } else if (message.role === 'user') {
      messages.push({ role: 'user', content: message.content });
    } else if (callsOf(message).length > 0) {
      messages.push({ role: 'assistant', content: message.content || null, tool_calls: callsOf(message).map(requestCall) });
    } else if (message.content) {
      messages.push({ role: 'assistant', content: message.content });
    }
  }
  return messages;
}

function requestCall({ id, name, arguments: text }) {
  return { id, type: 'function', function: { name, arguments: text } };
}
