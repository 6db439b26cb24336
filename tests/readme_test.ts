/**
 * The README's example of a method from outside is the code below, and it trains and merges.
 *
 * @module
 */
// README: begin
import { type AdapterMethod, mergeAdapter, ops, registerAdapter, train } from "@wishbone/wishbone";

/** y = W x + B A x, with r rows in A. */
const lowRank: AdapterMethod<{ r: number }> = {
  name: "low_rank",
  configure: ({ r = 8 }) => ({ r: Number(r) }),
  parameters: (site, { r }) => ({
    A: {
      shape: [r, site.in],
      initial: (noise) => Float32Array.from({ length: r * site.in }, () => noise.normal() / r),
    },
    B: { shape: [site.out, r] },
  }),
  forward({ graph, x, base, parameters: { A, B } }) {
    const low = ops.matmul(graph, x, A, { transposeB: true });
    const added = ops.matmul(graph, low, B, { transposeB: true });
    return ops.map(graph, [base(x), added], (y, added) => y.add(added));
  },
  merge({ site, settings: { r }, weight, parameters: { A, B } }) {
    return weight.map((w, at) => {
      const out = Math.floor(at / site.in), column = at % site.in;
      for (let k = 0; k < r; k++) w += B[out * r + k]! * A[k * site.in + column]!;
      return w;
    });
  },
  recognise: ({ A, B }) => A && B && { r: A[0]! },
};
registerAdapter(lowRank);

/** Trains the method's adapter and folds it into the model. */
async function trainAndMerge(model: string, text: string) {
  const { output } = await train({
    loadModel: model,
    dataFile: text,
    projDir: "runs/low_rank",
    peft: "low_rank",
    peftConfig: { r: 4 },
    ctxLen: 64,
    lrInit: 1e-3,
  });
  return await mergeAdapter({ base: model, adapter: output, output: "merged.safetensors" });
}
// README: end
import { ok, strictEqual } from "node:assert/strict";
import { loadAdapter } from "@wishbone/wishbone";
import { MODEL_PATH, temporaryPath } from "./small_model.ts";

const README = new URL("../README.md", import.meta.url), HERE = new URL(import.meta.url);

Deno.test("the README's example of a method is the code of this test", () => {
  const code = Deno.readTextFileSync(HERE).split("// README: begin\n")[1]!.split("// README: end\n")[0]!;
  ok(Deno.readTextFileSync(README).includes(`\`\`\`ts\n${code}\`\`\`\n`), "the README has other code");
});

Deno.test("a method that is registered from outside trains, is recognised and merges", async () => {
  const text = temporaryPath("readme.txt");
  Deno.writeTextFileSync(text, "A METHOD FROM OUTSIDE. ".repeat(40));
  const before = Deno.cwd();
  const folder = temporaryPath("readme");
  Deno.mkdirSync(folder);
  Deno.chdir(folder);
  try {
    const { relativeError, bound } = await trainAndMerge(MODEL_PATH, text);
    ok(relativeError < bound);
    const adapter = await loadAdapter("runs/low_rank/adapter.pth");
    strictEqual(adapter.method.name, "low_rank");
    strictEqual(adapter.settings.r, 4);
    const B = adapter.tensors.get("blocks.1.ffn.key.B")!;
    ok(B.data.some((x) => x !== 0), "B did not train");
  } finally {
    Deno.chdir(before);
  }
});
