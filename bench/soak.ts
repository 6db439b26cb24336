/**
 * Five hundred models loaded and given up in one process, two thousand steps, and a device that is taken away in the middle of a run:
 * what the engine, the device's buffers, the heap and the process hold at first and at last.
 *
 *     deno task bench:soak [--engine cpu,webgpu|deno|dawn] [--loads 500] [--opens 10] [--steps 2000]
 *
 * @module
 */
import { parseArgs } from "node:util";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { dawnProvider } from "../kernels/engines/webgpu/dawn.ts";
import { denoProvider } from "../kernels/engines/webgpu/deno.ts";
import { EXAMPLE } from "../training/options.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "../tests/tiny_model.ts";
import { type Held, loadAndUnload, loseDevice, takeSteps } from "../tests/soak.ts";
import { type Watched, watchGpu } from "../tests/watched_gpu.ts";

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "cpu,webgpu" },
    loads: { type: "string", default: "500" },
    opens: { type: "string", default: "10" },
    steps: { type: "string", default: "2000" },
  },
});
const [loads, opens, steps] = [Number(values.loads), Number(values.opens), Number(values.steps)];

/**
 * Bytes that memory may grow by from a tenth of the way to its end: what allocators and garbage collection leave to chance, and the
 * reports of one or two steps that are on their way.
 */
const SLACK = { engine: 0, device: 1e5, heap: 8e6, resident: 64e6 };
let failures = 0;

/** Collects what is held on the way and prints how it changed. */
function observe(what: string, total: number) {
  let early: Held | undefined, late: Held | undefined;
  const began = performance.now();
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
        if (b - a > SLACK[key]) failures++;
        return `${key} ${(a / 1e6).toFixed(1)} → ${(b / 1e6).toFixed(1)} MB`;
      });
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      console.log(`${total} ${what}: ${cells.join(", ")} (${seconds} s)`);
    },
  };
}

async function soak(choice: EngineChoice, watched: Watched | undefined): Promise<void> {
  const open = async () => (await chooseEngine(choice)).engine;
  const first = await chooseEngine(choice);
  console.log(first.reason);
  for (
    const [what, count, keepEngine] of [["loads on one engine", loads, true], [
      "loads on an engine each",
      opens,
      false,
    ]] as const
  ) {
    let kept = keepEngine ? first.engine : undefined;
    const { seen, print } = observe(`${what}, ${choice}`, count);
    const next = () => {
      const engine = kept;
      kept = undefined;
      return engine ?? open();
    };
    await loadAndUnload(EXAMPLE.model, count, next, { keepEngine, watched }, seen);
    print();
  }
  const folder = Deno.makeTempDirSync({ prefix: "wishbone-soak-" });
  // Small, so that steps are many rather than long.
  const small = {
    loadModel: model,
    dataFile: text,
    engine: choice,
    ctxLen: 16,
    microBsz: 1,
    heldOut: 0,
    samplePrompt: "",
    boneConfig: { bone_r: 4 },
  };
  const { seen, print } = observe(`steps, ${choice}`, steps);
  await takeSteps({ ...small, projDir: `${folder}/run`, saveSteps: 500 }, steps, watched, seen);
  print();
  if (watched) {
    const { message, savedStep, same } = await loseDevice(
      { ...small, projDir: `${folder}/lost` },
      20,
      watched,
    );
    const whole = /the device was lost .*try /.test(message) && savedStep !== undefined && same;
    if (!whole) failures++;
    console.log(`a device destroyed at step 10 of 20, ${choice}: "${message}"`);
    console.log(`step ${savedStep} is saved; resumed, it ends with ${same ? "the same bits" : "other bits"}`);
  }
  Deno.removeSync(folder, { recursive: true });
}

const model = writeTinyModel(newPath("model.safetensors"));
const text = writeDocuments(newPath("text.jsonl"), randomTexts(40, 30));
for (const choice of values.engine.split(",") as EngineChoice[]) {
  if (choice === "cpu") {
    await soak(choice, undefined);
    continue;
  }
  try {
    using watched = watchGpu(await (choice === "dawn" ? dawnProvider : denoProvider).gpu());
    await soak(choice === "webgpu" ? "deno" : choice, watched);
  } catch (error) {
    console.log(`Not on ${choice}: ${(error as Error).message}`);
    if (values.engine === choice) failures++;
  }
}
console.log(failures ? `${failures} of these failed` : "Nothing grew, and nothing was lost");
Deno.exit(failures ? 1 : 0);
