// Parameters of a request as the user typed them, and what the page itself remembers.

const KEY = 'mindformers/settings';

// An empty field is not sent: the server's own default holds. `alone` is 'on' or empty.
export const NO_PARAMETERS = { system: '', alone: '', temperature: '', top_p: '', max_tokens: '', seed: '', tools: '' };
const DEFAULTS = { theme: 'system', language: 'auto', model: '', parameters: NO_PARAMETERS };

export const NUMBERS = {
  temperature: { least: 0, most: 2, step: 0.1 },
  top_p: { least: 0, most: 1, step: 0.05 },
  max_tokens: { least: 1, most: Number.MAX_SAFE_INTEGER, step: 1 },
  seed: { least: 0, most: Number.MAX_SAFE_INTEGER, step: 1 },
};

/** Return which fields cannot be sent: {field: key of the words that say why}. */
export function faultsOf(parameters) {
  const faults = {};
  for (const [name, range] of Object.entries(NUMBERS)) {
    const text = parameters[name].trim();
    const value = Number(text);
    const isRight = value >= range.least && value <= range.most && (range.step < 1 || Number.isInteger(value));
    if (text && !isRight) faults[name] = range.step < 1 ? 'outOfRange' : 'notWhole';
  }
  const { fault } = readTools(parameters.tools);
  if (fault) faults.tools = fault;
  return faults;
}

/** Return the fields of a request; there must be no faults. The system prompt is one of the messages. */
export function requestFields(parameters) {
  const fields = {};
  for (const name of Object.keys(NUMBERS)) {
    if (parameters[name].trim()) fields[name] = Number(parameters[name]);
  }
  const { tools } = readTools(parameters.tools);
  if (tools.length > 0) fields.tools = tools;
  return fields;
}

/** Read a list of tools in OpenAI's form; a bare {name, description, parameters} is put into it. */
export function readTools(text) {
  if (!text.trim()) return { tools: [], fault: null };
  let list;
  try {
    list = JSON.parse(text);
  } catch {
    return { tools: [], fault: 'notJson' };
  }
  const tools = (Array.isArray(list) ? list : [list]).map((tool) => (
    tool?.type === 'function' ? tool : { type: 'function', function: tool }));
  const areNamed = tools.every((tool) => typeof tool.function?.name === 'string' && tool.function.name);
  return areNamed ? { tools, fault: null } : { tools: [], fault: 'notTools' };
}

/** Return a record of texts with exactly the known parameters, whatever was stored or imported. */
export function readParameters(value) {
  const names = Object.keys(NO_PARAMETERS);
  return Object.fromEntries(names.map((name) => [name, typeof value?.[name] === 'string' ? value[name] : '']));
}

export function loadSettings(storage) {
  let stored;
  try {
    stored = JSON.parse(storage.getItem(KEY)) ?? {};
  } catch {
    stored = {};
  }
  return {
    theme: ['light', 'dark'].includes(stored.theme) ? stored.theme : DEFAULTS.theme,
    language: ['en', 'zh'].includes(stored.language) ? stored.language : DEFAULTS.language,
    model: typeof stored.model === 'string' ? stored.model : DEFAULTS.model,
    parameters: readParameters(stored.parameters),
  };
}

export function saveSettings(storage, settings) {
  try {
    storage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A full storage is told where a conversation cannot be kept; settings last as long as the page.
  }
}
