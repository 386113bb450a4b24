import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { configure, process } from "./rename.js";

const CONFIG = { rename: { msg: "message", text: "message", lvl: "level" } };

/** Runs lines through the rule as the gate would: columns in, columns out. */
function run(lines, config = CONFIG) {
  configure(JSON.stringify(config));
  const events = lines.map((line) => Buffer.from(line));
  let end = 0;
  const ends = Uint32Array.from(events, (event) => (end += event.length));
  const changes = process({ bytes: new Uint8Array(Buffer.concat(events)), ends });
  assert.equal(changes.dropped.length, 0);
  assert.equal(changes.ends.length, changes.replaced.length);
  assert.equal(changes.ends.at(-1) ?? 0, changes.bytes.length);
  changes.replaced.forEach((index, at) => {
    const body = changes.bytes.subarray(changes.ends[at - 1] ?? 0, changes.ends[at]);
    events[index] = Buffer.from(body);
  });
  return { lines: events.map(String), replaced: [...changes.replaced] };
}

test("events of the golden file come out as it says", () => {
  const read = (name) => readFileSync(new URL(`testdata/${name}`, import.meta.url), "utf8");
  const { lines, replaced } = run(read("events.ndjson").trimEnd().split("\n"));
  const told = lines.map((line, at) => `${replaced.includes(at) ? "replaced" : "kept"}\t${line}\n`);
  assert.equal(told.join(""), read("golden"));
});

test("fields get their new names", () => {
  const { lines, replaced } = run([
    '{"lvl":"warn","msg":"a"}\n',
    "not JSON\n",
    '{"other":1}\r\n',
    '{"msg":"b"}\r\n',
  ]);
  assert.deepEqual(replaced, [0, 3]);
  assert.deepEqual(lines, [
    '{"level":"warn","message":"a"}\n',
    "not JSON\n",
    '{"other":1}\r\n',
    '{"message":"b"}\r\n',
  ]);
});

test("everything but the names stays as it was written", () => {
  const { lines } = run(['{ "id": 12345678901234567890, "msg" : "\\u00e9 ü", "2": 1.0, "1": 1e400 }\n']);
  assert.deepEqual(lines, ['{ "id": 12345678901234567890, "message" : "\\u00e9 ü", "2": 1.0, "1": 1e400 }\n']);
});

test("only fields of the outermost object are renamed", () => {
  const { lines } = run(['{"a":{"msg":1},"b":[{"msg":2}],"c":"\\"msg\\": {","msg":"msg"}\n']);
  assert.deepEqual(lines, ['{"a":{"msg":1},"b":[{"msg":2}],"c":"\\"msg\\": {","message":"msg"}\n']);
});

test("a name that is written with escapes is the same name", () => {
  assert.deepEqual(run(['{"\\u006dsg":1}\n']).lines, ['{"message":1}\n']);
});

test("a name that is taken is not given twice", () => {
  const taken = '{"msg":"a","message":"b"}\n';
  assert.deepEqual(run([taken]).lines, [taken]);
  assert.deepEqual(run(['{"text":"a","msg":"b"}\n']).lines, ['{"text":"a","message":"b"}\n']);
});

test("what is no JSON object goes on untouched", () => {
  for (const line of ["\n", "{\n", '{"msg":1\n', '[{"msg":1}]\n', '"msg"\n', '{"msg":1} x\n']) {
    assert.deepEqual(run([line, '{"msg":0}\n']), { lines: [line, '{"message":0}\n'], replaced: [1] });
  }
  configure(JSON.stringify(CONFIG));
  const invalid = Uint8Array.from([...Buffer.from('{"msg":"'), 0xff, ...Buffer.from('"}\n')]);
  assert.equal(process({ bytes: invalid, ends: Uint32Array.of(invalid.length) }).replaced.length, 0);
});

test("names of the language are names like others", () => {
  const { lines } = run(['{"__proto__":1,"constructor":2}\n'], { rename: { constructor: "made_by" } });
  assert.deepEqual(lines, ['{"__proto__":1,"made_by":2}\n']);
  assert.deepEqual(run(['{"x":1}\n'], { rename: { x: "$&" } }).lines, ['{"$&":1}\n']);
});

test("long text is no trouble", () => {
  const text = "x".repeat(1 << 20) + '\\"'.repeat(1 << 16);
  assert.deepEqual(run([`{"msg":"${text}"}\n`]).lines, [`{"message":"${text}"}\n`]);
});

test("a config that means nothing is refused", () => {
  const refusal = (config) => {
    try {
      configure(JSON.stringify(config));
    } catch (error) {
      return error;
    }
  };
  assert.equal(refusal({}), "`rename` is empty or missing; expected new names by old ones");
  assert.equal(refusal({ rename: { a: 1 } }), "`rename.a` is no string; expected the new name");
  assert.equal(refusal({ rename: { a: "b" }, x: 1 }), "`x` is not known; expected `rename`");
});
