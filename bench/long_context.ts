/**
 * Memory and speed of a step over one document that gets longer and longer, read in chunks with a carried state:
 * `deno task bench:long_context [--chunk_ctx 512] [--engine auto]`. The bundled model reads the bundled text, from its beginning.
 *
 * @module
 */
import { parseArgs } from "node:util";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { optimizerSettings } from "../training/loop.ts";
import { megabytes, planMemory } from "../training/memory.ts";
import { EXAMPLE, settle } from "../training/options.ts";
import { setUp } from "../training/setup.ts";

const { values } = parseArgs({
  options: { chunk_ctx: { type: "string", default: "512" }, engine: { type: "string", default: "auto" } },
});
const LENGTHS = [1024, 4096, 16_384, 32_768];

const text = Deno.readTextFileSync(EXAMPLE.data).split("\n").filter(Boolean).map((line) =>
  JSON.parse(line).text
)
  .join("\n");
const dataFile = Deno.makeTempFileSync({ suffix: ".txt" });
Deno.writeTextFileSync(dataFile, text.slice(0, LENGTHS.at(-1)));

try {
  for (const [i, ctxLen] of LENGTHS.entries()) {
    const settings = settle({
      dataFile,
      ctxLen,
      microBsz: 1,
      trainType: "infctx",
      chunkCtx: Number(values.chunk_ctx),
      heldOut: 0,
      engine: values.engine as EngineChoice,
    }, () => "unused");
    using setup = await setUp(settings, { onMessage: (message) => i || console.log(message) });
    const { learner, text: { batches } } = setup;
    const planned = planMemory(learner, false).bytes;
    using programs = await learner.programs.load();
    const batch = batches.at(0), started = performance.now();
    programs.accumulate(batch, batch.counted, 0);
    const { loss } = await programs.update(optimizerSettings(settings, 0, 1));
    const seconds = (performance.now() - started) / 1000;
    console.log(
      `${String(batch.counted).padStart(6)} tokens: ${megabytes(planned)} planned, ${
        megabytes(learner.engine.allocatedBytes)
      } held, process ${megabytes(Deno.memoryUsage().rss)}, ${
        Math.round(batch.counted / seconds)
      } tokens/s, loss ${loss.toFixed(4)}`,
    );
  }
} finally {
  Deno.removeSync(dataFile);
}
