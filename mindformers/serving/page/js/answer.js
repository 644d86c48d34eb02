// An answer while it grows: chunks of the stream become one message.

const LEAST_MEASURED = 250; // milliseconds; what comes quicker comes in one piece

/** Return an answer of which nothing has come. `finish` is empty until it has ended. */
export function newAnswer(model) {
  return { role: 'assistant', content: '', tool_calls: [], finish: '', model, usage: null, first: null, took: null, error: null };
}

/**
 * Take one chunk of `/v1/chat/completions`.
 *
 * Args: `elapsed` is milliseconds since the request was sent. Returns whether there was anything to show.
 */
export function takeChunk(answer, chunk, elapsed) {
  if (chunk.usage) answer.usage = readUsage(chunk.usage);
  if (chunk.model) answer.model = chunk.model;
  const choice = chunk.choices?.[0];
  if (!choice) return Boolean(chunk.usage);
  const { content, tool_calls: calls = [] } = choice.delta ?? {};
  if (content) answer.content += content;
  for (const call of calls ?? []) takeCall(answer, call);
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  const isNew = Boolean(content) || (calls?.length ?? 0) > 0;
  if (isNew) answer.first ??= elapsed;
  return isNew || Boolean(choice.finish_reason);
}

/** The first delta of a call has its id and name; the others add to its arguments. */
function takeCall(answer, delta) {
  const index = delta.index ?? 0;
  let call = answer.tool_calls.find((known) => known.index === index);
  if (!call) {
    call = { index, id: `call_${index}`, name: '', arguments: '' };
    answer.tool_calls.push(call);
  }
  if (delta.id) call.id = delta.id;
  if (delta.function?.name) call.name = delta.function.name;
  call.arguments += delta.function?.arguments ?? '';
}

function readUsage(usage) {
  return {
    prompt: usage.prompt_tokens ?? 0,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
    completion: usage.completion_tokens ?? 0,
  };
}

/** Return tokens a second behind the first one; null where too little time passed to tell. */
export function speedOf({ usage, first, took }) {
  if (!usage || first === null || took === null || took - first < LEAST_MEASURED) return null;
  return (Math.max(usage.completion - 1, 0) * 1000) / (took - first);
}

/**
 * Split what a model wrote into its thought and its answer, as GLM-Z1 and others write them.
 *
 * The prompt of some ends with `<think>`, so their text has the end of the thought alone. `isThinking`: it has not ended.
 */
export function splitThought(content) {
  const text = content.trimStart();
  const isMarked = text.startsWith('<think>');
  const end = text.indexOf('</think>');
  if (end < 0) return isMarked ? { thought: text.slice(7), answer: '', isThinking: true } : { thought: '', answer: text, isThinking: false };
  return { thought: text.slice(isMarked ? 7 : 0, end).trim(), answer: text.slice(end + 8).trimStart(), isThinking: false };
}

/** Return JSON as one reads it; a text that is not JSON (yet) as it is. */
export function prettyJson(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
