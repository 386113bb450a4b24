// A rule in JavaScript: gives fields of JSON events other names. See README.md.

/** New names by old ones, in the order of the config. */
let names = new Map();

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** A string, with the colon behind it if it is the name of a field; or a bracket. */
const TOKEN = /("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[{}[\]]/g;

/** Takes the rule's config. A string that is thrown is the error that the publisher is shown. */
export function configure(config) {
  const { rename, ...unknown } = JSON.parse(config);
  for (const key in unknown) throw `\`${key}\` is not known; expected \`rename\``;
  names = new Map(Object.entries(rename ?? {}));
  if (names.size === 0) throw "`rename` is empty or missing; expected new names by old ones";
  for (const [from, to] of names) {
    if (typeof to !== "string") throw `\`rename.${from}\` is no string; expected the new name`;
  }
}

/** Takes a batch as columns, and answers with the events that changed. */
export function process({ bytes, ends }) {
  const replaced = [];
  const bodies = [];
  let start = 0;
  ends.forEach((end, index) => {
    const body = renamed(bytes.subarray(start, end));
    start = end;
    if (body === undefined) return;
    replaced.push(index);
    bodies.push(body);
  });
  return { dropped: new Uint32Array(), replaced: new Uint32Array(replaced), ...columns(bodies) };
}

/** Returns the new body of an event, or nothing if it stays as it is. */
function renamed(body) {
  if (body[0] !== 0x7b /* { */) return undefined;
  let text, event;
  try {
    text = decoder.decode(body);
    event = JSON.parse(text);
  } catch {
    return undefined; // No JSON after all.
  }
  const taken = new Set(Object.keys(event));
  const wanted = new Map();
  for (const [from, to] of names) {
    if (!taken.has(from) || taken.has(to)) continue;
    wanted.set(from, to);
    taken.add(to);
  }
  return wanted.size === 0 ? undefined : encoder.encode(withNames(text, wanted));
}

/**
 * Changes names in the text and copies the rest: `JSON.stringify` of what was parsed would round
 * numbers beyond 2^53 and put the fields into another order.
 */
function withNames(text, wanted) {
  let depth = 0;
  return text.replace(TOKEN, (token, string, colon) => {
    if (token === "{" || token === "[") depth += 1;
    if (token === "}" || token === "]") depth -= 1;
    const to = depth === 1 && colon !== undefined && wanted.get(JSON.parse(string));
    return typeof to === "string" ? JSON.stringify(to) + colon : token;
  });
}

/** Puts bodies end to end. */
function columns(bodies) {
  let length = 0;
  const ends = Uint32Array.from(bodies, (body) => (length += body.length));
  const bytes = new Uint8Array(length);
  bodies.forEach((body, at) => bytes.set(body, ends[at] - body.length));
  return { bytes, ends };
}
