// Server-sent events out of a stream of bytes, however they are cut into pieces.

/** Splits text into the data of events; an event may arrive in any number of pieces. */
export class EventReader {
  #rest = '';
  #data = [];

  /** Return the data of the events that `text` completes. */
  feed(text) {
    const events = [];
    // A lone \r at the end may be the first half of \r\n.
    const whole = this.#rest + text;
    const end = whole.endsWith('\r') ? whole.length - 1 : whole.length;
    const lines = whole.slice(0, end).split(/\r\n|\r|\n/);
    this.#rest = lines.pop() + whole.slice(end);
    for (const line of lines) {
      if (line === '' && this.#data.length > 0) events.push(this.#data.splice(0).join('\n'));
      else if (line.startsWith('data:')) this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
    }
    return events;
  }
}

/** Yield the data of each event of a response's body. */
export async function* eventsOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // keeps the first half of a character until the second comes
  const events = new EventReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* events.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // of a stream that is broken already
  }
}
