/**
 * The norm of the gradient at the start, over ranks: the paper's explanation of why Bone learns faster than LoRA (arXiv 2409.15371).
 * On the bundled model and the first batch of the bundled text; LoRA with alpha = 2 r, as in the paper. Writes
 * bench/results/method_gradients.svg.
 *
 *     deno task bench:method_gradients [--engine cpu|webgpu|auto]
 *
 * @module
 */
import { parseArgs } from "node:util";
import { computeGradients, createAdapter, type EngineChoice, loadModel } from "../mod.ts";
import { linearSites } from "../rwkv/config.ts";
import { readText } from "../training/data/text.ts";
import { EXAMPLE, settle } from "../training/options.ts";
import { plotSvg } from "./plot.ts";

/** They divide the widths of the bundled model, as BAT asks. */
const RANKS = [4, 8, 16, 32, 64, 96];
const METHODS: [string, (r: number) => { peft: string; [setting: string]: unknown }][] = [
  ["Bone", (r) => ({ peft: "bone", r })],
  ["BAT, input blocks", (r) => ({ peft: "bat", r, axis: "in" })],
  ["BAT, output blocks", (r) => ({ peft: "bat", r, axis: "out" })],
  ["PiSSA", (r) => ({ peft: "pissa", r })],
  ["LoRA, alpha 2r", (r) => ({ peft: "lora", r, alpha: 2 * r })],
];

const { values } = parseArgs({ options: { engine: { type: "string", default: "auto" } } });
const model = await loadModel(EXAMPLE.model, { engine: values.engine as EngineChoice });
const settings = settle({}, () => ""), T = settings.ctxLen, B = settings.microBsz;
const { batches } = await readText(settings, model.config.vocabulary, () => {});
const { inputs, targets, mask } = batches.at(0);
const rows = Array.from({ length: B }, (_, b) => b);
const batch = {
  tokens: rows.map((b) => [...inputs.subarray(b * T, (b + 1) * T), targets[(b + 1) * T - 1]!]),
  mask: rows.map((b) => mask.subarray(b * T, (b + 1) * T)),
};
const norm = (gradients: Iterable<Float32Array>) =>
  Math.sqrt([...gradients].reduce((sum, g) => sum + g.reduce((s, x) => s + x * x, 0), 0));

const full = (await computeGradients(model, batch)).gradients;
const sites = linearSites(model.config);
const all = norm(sites.map(({ name }) => full.get(`${name}.weight`)!));
console.log(`Gradient norm over the ${sites.length} linear layers at the start, ${B} rows of ${T} bytes\n`);
console.log(`method               ${RANKS.map((r) => `r ${r}`.padStart(8)).join("")}`);
console.log(`full                 ${RANKS.map(() => all.toFixed(3).padStart(8)).join("")}`);
const lines = [{ name: "full", dashed: true, points: RANKS.map((r) => [r, all] as const) }];
for (const [name, options] of METHODS) {
  const points: [number, number][] = [];
  for (const r of RANKS) {
    const adapter = createAdapter(model, options(r));
    points.push([r, norm((await computeGradients(model, { ...batch, adapter })).gradients.values())]);
  }
  console.log(`${name.padEnd(21)}${points.map(([, y]) => y.toFixed(3).padStart(8)).join("")}`);
  lines.push({ name, dashed: false, points });
}
model.dispose();
Deno.mkdirSync("bench/results", { recursive: true });
Deno.writeTextFileSync(
  "bench/results/method_gradients.svg",
  plotSvg({
    title: "Gradient norm at the start",
    x: { label: "rank r", log: true },
    y: { label: "‖gradient‖ over all linear layers", log: true },
    lines,
  }),
);
// Dawn keeps the process.
Deno.exit(0);
