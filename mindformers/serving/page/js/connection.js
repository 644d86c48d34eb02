// Whether the server is there, and which models it has.

const AGAIN = 3000; // milliseconds until an absent server is asked again

/** Event: `change`. `state` is connecting, ready, away or needsKey. */
export class Connection extends EventTarget {
  #api;
  #timer = 0;
  #asked = 0;
  state = 'connecting';
  models = [];

  constructor(api) {
    super();
    this.#api = api;
  }

  /** Ask the server for its models; while it is away this repeats itself. */
  async check() {
    clearTimeout(this.#timer);
    this.#asked += 1;
    const asked = this.#asked;
    let state = 'ready';
    let { models } = this;
    try {
      models = await this.#api.models();
    } catch (error) {
      state = error.kind === 'key' ? 'needsKey' : 'away';
    }
    if (asked !== this.#asked) return; // a later question has been asked meanwhile, with another key
    this.models = models;
    this.note(state);
  }

  /** Take over what a request has found. */
  note(state) {
    clearTimeout(this.#timer);
    if (state === 'away') this.#timer = setTimeout(() => this.check(), AGAIN);
    this.state = state;
    this.dispatchEvent(new Event('change'));
  }
}
