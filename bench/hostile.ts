/**
 * Large files that mean harm, of each kind that the fuzz's readers know, each read in a process of its own: seconds, and by how much
 * the process grew.
 *
 *     deno task bench:hostile [--sizes 1,8,32] [--only safetensors]
 *
 * @module
 */
import { parseArgs } from "node:util";
import { LARGE } from "../tests/fuzz/large.ts";
import { faultOf, measureLarge } from "../tests/fuzz/measure_large.ts";

const { values } = parseArgs({
  options: { sizes: { type: "string", default: "1,8,32" }, only: { type: "string", default: "" } },
});
/** Milliseconds for a megabyte, and for what is small. */
const A_MEGABYTE = 1000, AT_LEAST = 1000;

const scratch = Deno.makeTempDirSync({ prefix: "wishbone-hostile-" });
let tried = 0, read = 0, faults = 0, slowest = 0, largest = 0;
console.log(
  "reader               what                               MB   grew by   × file        ms   ended",
);
try {
  for (const megabytes of values.sizes.split(",").map(Number)) {
    for (const kind of LARGE.filter(({ reader }) => reader.includes(values.only))) {
      const measured = await measureLarge(kind, megabytes * 1e6, scratch);
      const { size, milliseconds, bytes, ended } = measured;
      const slow = milliseconds > Math.max(AT_LEAST, A_MEGABYTE * size / 1e6) ? "too slow" : undefined;
      const fault = faultOf(measured) ?? slow;
      tried++;
      if (fault) faults++;
      else if (ended === "read") read++;
      slowest = Math.max(slowest, milliseconds / Math.max(1, size / 1e6));
      largest = Math.max(largest, bytes - 4 * size);
      console.log(
        `${kind.reader.padEnd(20)} ${kind.name.padEnd(31)} ${(size / 1e6).toFixed(1).padStart(5)} ` +
          `${(bytes / 1e6).toFixed(1).padStart(6)} MB ${(bytes / size).toFixed(2).padStart(8)} ` +
          `${milliseconds.toFixed(0).padStart(9)}   ${fault ?? ended.replace(/:.*/s, "")}`,
      );
    }
  }
} finally {
  Deno.removeSync(scratch, { recursive: true });
}
console.log(
  `${tried} files, ${read} read, ${tried - read - faults} refused, ${faults} at fault; at most ` +
    `${(largest / 1e6).toFixed(0)} MB beyond four times the file, and ${
      slowest.toFixed(0)
    } ms for a megabyte`,
);
Deno.exit(faults ? 1 : 0);
