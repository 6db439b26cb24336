/**
 * Whether products of f16 operands with f32 sums learn as products in f32 do: the bundled example, the same seed, both ways. Prints
 * how far the smoothed losses differ, and writes bench/results/precision.svg.
 *
 *     deno task bench:precision [--engine webgpu|dawn] [--steps 300]
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type EngineChoice, train } from "../mod.ts";
import { type Line, plotSvg } from "./plot.ts";

const { values } = parseArgs({
  options: { engine: { type: "string", default: "webgpu" }, steps: { type: "string", default: "300" } },
});
const steps = Number(values.steps);

/** Share of the newest loss in the smoothed one. */
const NEWEST = 0.1;

const folder = await Deno.makeTempDir({ prefix: "wishbone-precision-" });
async function curve(precision: "auto" | "fp32"): Promise<{ losses: number[]; heldOut: number | undefined }> {
  const losses: number[] = [];
  const { heldOut } = await train({
    engine: values.engine as EngineChoice,
    precision,
    projDir: join(folder, precision),
    epochCount: Math.ceil(steps / 100),
    maxSteps: steps,
    samplePrompt: "",
    evalSteps: 1e6,
  }, {
    onMessage: (message) => message.startsWith("Engine") && console.log(message),
    onStep: ({ loss }) => losses.push(loss),
  });
  return { losses, heldOut: heldOut?.after };
}

const smoothed = (losses: readonly number[]) => {
  let mean = losses[0]!;
  return losses.map((loss) => mean += NEWEST * (loss - mean));
};

try {
  const exact = await curve("fp32"), fast = await curve("auto");
  const [a, b] = [smoothed(exact.losses), smoothed(fast.losses)];
  const apart = a.map((loss, i) => Math.abs(b[i]! - loss) / loss), most = Math.max(...apart);
  console.log(
    `\nSteps: ${a.length}. Held-out loss: fp32 ${exact.heldOut?.toFixed(4)}, auto ${
      fast.heldOut?.toFixed(4)
    }`,
  );
  console.log(
    `Smoothed losses differ by ${(100 * most).toFixed(3)} % at most, ${
      (100 * apart.at(-1)!).toFixed(3)
    } % at the end`,
  );
  const line = (name: string, losses: readonly number[], more: Partial<Line> = {}): Line => ({
    ...{ name, points: losses.map((loss, i) => [i + 1, loss]), smooth: true },
    ...more,
  });
  const path = new URL("results/precision.svg", import.meta.url);
  Deno.mkdirSync(new URL("results/", import.meta.url), { recursive: true });
  Deno.writeTextFileSync(
    path,
    plotSvg({
      ...{ title: "Smoothed loss of the bundled example", x: { label: "step" }, y: { label: "loss" } },
      lines: [line("f32", a), line("f16, f32 sums", b, { dashed: true })],
    }),
  );
} finally {
  await Deno.remove(folder, { recursive: true });
}
// Dawn keeps the process.
Deno.exit(0);
