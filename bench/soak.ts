/**
 * Five hundred models loaded and given up in one process, and two thousand steps: what the engine, the heap and the process hold
 * at first and at last.
 *
 *     deno task bench:soak [loads] [steps]
 *
 * @module
 */
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import type { Engine } from "../kernels/engine.ts";
import { EXAMPLE } from "../training/options.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "../tests/tiny_model.ts";
import { type Held, loadAndUnload, takeSteps } from "../tests/soak.ts";

const [loads = "500", steps = "2000"] = Deno.args;
/** Bytes that memory may grow by from a tenth of the way to its end: what allocators and garbage collection leave to chance. */
const SLACK = { engine: 0, heap: 8e6, resident: 64e6 };
let grew = 0;

/** Collects what is held on the way and prints how it changed. */
function watch(what: string, total: number) {
  let early: Held | undefined, late: Held | undefined;
  return {
    seen: (done: number, held: Held) => {
      // What is made once is made by then.
      if (!early || done <= total / 10) early = held;
      late = held;
    },
    print: () => {
      if (!early || !late) return;
      const cells = (Object.keys(SLACK) as (keyof Held)[]).map((key) => {
        const [a, b] = [early![key], late![key]];
        if (b - a > SLACK[key]) grew++;
        return `${key} ${(a / 1e6).toFixed(1)} → ${(b / 1e6).toFixed(1)} MB`;
      });
      console.log(`${what}: ${cells.join(", ")}`);
    },
  };
}

async function loading(what: string, open: () => Engine | Promise<Engine>, keepEngine: boolean) {
  const { seen, print } = watch(`${loads} loads, ${what}`, Number(loads));
  await loadAndUnload(EXAMPLE.model, Number(loads), open, { keepEngine }, seen);
  print();
}

await loading("one cpu engine", () => new CpuEngine(), true);
await loading("a cpu engine each", () => new CpuEngine(), false);
// Small, so that steps are many rather than long.
const model = writeTinyModel(newPath("model.safetensors"));
const text = writeDocuments(newPath("text.jsonl"), randomTexts(40, 30));
let gpu: Engine | undefined;
try {
  gpu = (await chooseEngine("webgpu")).engine;
} catch (error) {
  console.log(`Not on webgpu: ${(error as Error).message}`);
}
if (gpu) await loading(`one webgpu engine, ${gpu.description}`, () => gpu!, true);

for (const engine of gpu ? ["cpu", "webgpu"] as const : ["cpu"] as const) {
  const folder = Deno.makeTempDirSync({ prefix: "wishbone-soak-" });
  const { seen, print } = watch(`${steps} steps, ${engine}`, Number(steps));
  await takeSteps(
    {
      loadModel: model,
      dataFile: text,
      engine,
      ctxLen: 16,
      microBsz: 1,
      heldOut: 0,
      samplePrompt: "",
      projDir: `${folder}/run`,
      saveSteps: 500,
      boneConfig: { bone_r: 4 },
    },
    Number(steps),
    seen,
  );
  print();
  Deno.removeSync(folder, { recursive: true });
}
console.log(grew ? `${grew} of these grew` : "None of these grew");
Deno.exit(grew ? 1 : 0);
