/**
 * How the methods learn the bundled text at equal numbers of trained parameters (Bone r 64, LoRA r 32, and so on), each over several
 * learning rates: a method that moves further at one nominal rate looks faster there, whatever it is worth. Prints the held-out
 * loss of every method at every rate, and writes bench/results/method_curves.svg (all at one rate), method_rates.svg (LoRA's curves
 * over rates beside Bone's) and method_best.svg (held-out loss over rates).
 *
 *     deno task bench:method_curves [--engine auto|cpu|webgpu] [--steps N] [--rates 0.0005,0.002] [--methods bone,lora]
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type EngineChoice, train, type TrainOptions } from "../mod.ts";
import { type Line, plotSvg } from "./plot.ts";

/** One rate for all, which is what the bundled example trains Bone with. */
const COMMON = 2e-3;
const METHODS: Record<string, TrainOptions> = {
  "bone": { boneConfig: { bone_r: 64 } },
  "bat in": { peft: "bat", boneConfig: { bone_r: 64 }, batAxis: "in" },
  "bat out": { peft: "bat", boneConfig: { bone_r: 64 }, batAxis: "out" },
  "lora": { peft: "lora", loraConfig: { lora_r: 32, lora_alpha: 64 } },
  "dora": { peft: "dora", loraConfig: { lora_r: 32, lora_alpha: 64 } },
  "pissa": { peft: "pissa", pissaConfig: { pissa_r: 32 } },
  "full": { peft: "none" },
};

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "auto" },
    steps: { type: "string" },
    rates: { type: "string", default: "0.0005,0.002,0.006,0.02" },
    methods: { type: "string", default: Object.keys(METHODS).join(",") },
  },
});
const rates = values.rates.split(",").map(Number), methods = values.methods.split(",");

interface Run {
  readonly points: [number, number][];
  readonly heldOut: number;
}

const folder = await Deno.makeTempDir({ prefix: "wishbone-curves-" });
async function run(method: string, lrInit: number): Promise<Run> {
  const points: [number, number][] = [];
  const projDir = join(folder, `${method}-${lrInit}`.replaceAll(" ", "-"));
  try {
    const { heldOut } = await train({
      ...METHODS[method],
      ...{ projDir, lrInit, lrFinal: lrInit / 10, trainParts: [], samplePrompt: "", evalSteps: 1e6 },
      ...{ engine: values.engine as EngineChoice },
      ...(values.steps ? { maxSteps: Number(values.steps), epochSteps: Number(values.steps) } : {}),
    }, { onStep: ({ step, smoothedLoss }) => points.push([step, smoothedLoss]) });
    return { points, heldOut: heldOut!.after };
  } catch (error) {
    // A rate that ruins the weights is a result.
    if (!/lower --lr_init/.test((error as Error).message)) throw error;
    return { points, heldOut: NaN };
  }
}

console.log(
  "Held-out loss on the bundled text, nats a byte; 663,552 parameters train but for full and dora's lengths\n",
);
console.log(`method    ${rates.map((rate) => `lr ${rate}`.padStart(11)).join("")}`);
const runs = new Map<string, Run[]>();
const common = Math.max(0, rates.indexOf(COMMON));
const write = (name: string, title: string, lines: Line[], x = "step", log = false) => {
  const losses = lines.flatMap(({ points }) => points.map(([, y]) => y)).sort((a, b) => a - b);
  // A run that went wrong must not flatten all others.
  const range = [losses[0]!, Math.min(losses.at(-1)!, losses[0]! + 0.5)] as const;
  const axes = { x: { label: x, log }, y: { label: "loss, nats a byte", range } };
  Deno.writeTextFileSync(`bench/results/${name}.svg`, plotSvg({ title, ...axes, lines }));
};
/** Plots what is known so far, so that a bench that is ended leaves something. */
function plotAll(): void {
  const known = [...runs.keys()];
  const curves = known.map((name) => ({ name, smooth: true, points: runs.get(name)![common]!.points }));
  write("method_curves", `Training loss, smoothed, every method at lr ${rates[common]}`, curves);
  const sweep = rates.map((rate, i) => ({
    name: `lora, lr ${rate}`,
    smooth: true,
    points: runs.get("lora")?.[i]?.points ?? [],
  }));
  if (runs.has("lora") && runs.has("bone")) {
    const bone = {
      name: `bone, lr ${rates[common]}`,
      smooth: true,
      dashed: true,
      points: runs.get("bone")![common]!.points,
    };
    write("method_rates", "Training loss, smoothed: LoRA over learning rates, beside Bone", [...sweep, bone]);
  }
  if (rates.length > 1) {
    const over = known.map((name) => ({
      name,
      points: runs.get(name)!.flatMap(({ heldOut }, i): [number, number][] =>
        Number.isFinite(heldOut) ? [[rates[i]!, heldOut]] : []
      ),
    })).filter(({ points }) => points.length);
    write("method_best", "Held-out loss over learning rates", over, "learning rate", true);
  }
}

Deno.mkdirSync("bench/results", { recursive: true });
for (const method of methods) {
  const found: Run[] = [];
  for (const rate of rates) found.push(await run(method, rate));
  runs.set(method, found);
  plotAll();
  console.log(`${method.padEnd(10)}${found.map(({ heldOut }) => heldOut.toFixed(4).padStart(11)).join("")}`);
}
await Deno.remove(folder, { recursive: true });
// Dawn keeps the process.
Deno.exit(0);
