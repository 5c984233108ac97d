// Why something is refused, and the record of what was checked before.

/** Evidence was refused; `reason` is one of docs/attestation.md 4, `steps` are the checks that passed before. */
export class AttestationError extends Error {
  /** @param {string} reason @param {string} sentence @param {object} [seen] what was met, for the page to show */
  constructor(reason, sentence, seen = {}) {
    super(sentence);
    this.name = "AttestationError";
    this.reason = reason;
    this.seen = seen;
    /** @type {string[]} */
    this.steps = [];
  }
}

/** The enclave could not be asked, or what came back is not its answer. */
export class RemoteError extends Error {
  /** @param {string} sentence @param {string} [code] for programs */
  constructor(sentence, code = "remote") {
    super(sentence);
    this.name = "RemoteError";
    this.code = code;
  }
}

/** What the visitor typed cannot be used. */
export class InputError extends Error {
  /** @param {string} sentence */
  constructor(sentence) {
    super(sentence);
    this.name = "InputError";
  }
}
