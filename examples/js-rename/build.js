// Makes a component of rename.js: `node build.js [FILE]`.
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { componentize } from "@bytecodealliance/componentize-js";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const { component } = await componentize({
  sourcePath: here("rename.js"),
  witPath: here("../../guest-sdk/wit"),
  worldName: "processor",
  // What is left asks for nothing but what the world has: the gate offers neither a network nor a
  // console, and a rule that reads no clock and no random numbers can be tested by its output.
  disableFeatures: ["stdio", "random", "clocks", "http", "fetch-event"],
});
await writeFile(process.argv[2] ?? here("js-rename.wasm"), component);
