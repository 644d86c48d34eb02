// The server's interface as the page uses it, and its errors in six kinds.

import { eventsOf } from './sse.js';

const LONGEST_WAIT = 60; // seconds; a server that asks for more is not waited for

/**
 * What went wrong: `away` (nobody answers), `key` (401), `busy` (429, 503; `retryAfter` seconds), `refused` (other 4xx),
 * `failed` (5xx, or an error in the stream), `cut` (the stream ended before the answer did).
 */
export class ApiError extends Error {
  constructor(kind, message = '', retryAfter = null) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

export class Api {
  #base;
  #key;

  /** `base` is the address of the page; `key` a function that gives the API key, or an empty text. */
  constructor(base, key) {
    this.#base = base;
    this.#key = key;
  }

  /** Return the ids of the models. */
  async models() {
    const response = await this.#request('v1/models');
    return ((await response.json()).data ?? []).map(({ id }) => id);
  }

  /** Yield the chunks of an answer until it has ended; throws an ApiError, or what `signal` was aborted with. */
  async* chat(fields, signal) {
    const body = JSON.stringify({ ...fields, stream: true, stream_options: { include_usage: true } });
    const response = await this.#request('v1/chat/completions', { method: 'POST', body, signal });
    try {
      for await (const data of eventsOf(response.body)) {
        if (data === '[DONE]') return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError('failed', messageOf(chunk));
        yield chunk;
      }
    } catch (error) {
      if (error instanceof ApiError || signal.aborted) throw error;
      throw new ApiError('cut', error.message);
    }
    throw new ApiError('cut');
  }

  async #request(path, options = {}) {
    const headers = { Accept: 'application/json' };
    if (options.body) headers['Content-Type'] = 'application/json';
    if (this.#key()) headers.Authorization = `Bearer ${this.#key()}`;
    let response;
    try {
      response = await fetch(new URL(path, this.#base), { ...options, headers, cache: 'no-store' });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ApiError('away', error.message);
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }
}

async function errorOf(response) {
  const { status } = response;
  const text = await response.text().catch(() => '');
  const message = messageOf(parsed(text)) || `${status} ${response.statusText}`;
  if (status === 401) return new ApiError('key', message);
  if (status === 429 || status === 503) return new ApiError('busy', message, secondsOf(response.headers.get('Retry-After')));
  return new ApiError(status < 500 ? 'refused' : 'failed', message);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function messageOf(body) {
  const message = body?.error?.message ?? body?.error;
  return typeof message === 'string' ? message : '';
}

/** Read a Retry-After in seconds; a date, nonsense or too long a wait is null. */
function secondsOf(header) {
  const seconds = Number.parseFloat(header);
  return seconds >= 0 && seconds <= LONGEST_WAIT ? seconds : null;
}
