/**
 * The methods as benches compare them, at equal numbers of trained parameters where their shapes allow it, and their runs on the bundled
 * text, kept in a file that grows with every run: one that is cut goes on where it was.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../formats/atomic.ts";
import { train, type TrainOptions } from "../mod.ts";

/** Bone r 64 trains 663,552 numbers of the bundled model; so do all others here but DoRA (its lengths, 10,368 more) and full. */
export const METHODS: Readonly<Record<string, TrainOptions>> = {
  "bone": { boneConfig: { bone_r: 64 } },
  "mini": { boneConfig: { bone_r: 192, bone_mini_r: 96 } },
  "rows": { boneConfig: { bone_r: 64, bone_shards: "rows" } },
  "bat in": { peft: "bat", boneConfig: { bone_r: 64 }, batAxis: "in" },
  "bat out": { peft: "bat", boneConfig: { bone_r: 64 }, batAxis: "out" },
  "lora": { peft: "lora", loraConfig: { lora_r: 32, lora_alpha: 64 } },
  "rslora": { peft: "lora", loraConfig: { lora_r: 32, lora_alpha: 32 }, useRslora: true },
  "lora+": { peft: "lora", loraConfig: { lora_r: 32, lora_alpha: 64 }, loraplusLrRatio: 16 },
  "dora": { peft: "dora", loraConfig: { lora_r: 32, lora_alpha: 64 } },
  "pissa": { peft: "pissa", pissaConfig: { pissa_r: 32 } },
  "full": { peft: "none" },
};

/** A run's place in the sweep. */
export interface Point {
  readonly method: string;
  readonly rate: number;
  readonly seed: number;
}

/** A run that was made. */
export interface Run extends Point {
  /** Held-out loss by step, nats a byte; ends early where the rate ruined the weights. */
  readonly heldOut: readonly (readonly [step: number, loss: number])[];
  /** Smoothed training loss by step. */
  readonly training: readonly (readonly [step: number, loss: number])[];
  /** Whether it went to its last step with finite numbers. */
  readonly finished: boolean;
  readonly seconds: number;
}

/** What all runs of a file have in common. */
export interface Conditions {
  readonly steps: number;
  readonly precision: "auto" | "fp32";
}

/** Held-out loss at the end; NaN where there was none to have. */
export const outcome = ({ finished, heldOut }: Run) => finished ? heldOut.at(-1)![1] : NaN;

/** The runs of a file. */
export class Runs {
  readonly all: Run[];
  engine = "";

  /** @throws Error where the file holds runs under other conditions */
  constructor(readonly path: string, readonly conditions: Conditions) {
    this.all = [];
    if (!existsSync(path)) return;
    const { runs, engine, ...others } = JSON.parse(Deno.readTextFileSync(path));
    if (JSON.stringify(others) !== JSON.stringify(conditions)) {
      throw new Error(`${path} holds runs of ${JSON.stringify(others)}: remove it, or name another --out`);
    }
    this.all = runs;
    this.engine = engine;
  }

  of({ method, rate, seed }: Point): Run | undefined {
    return this.all.find((run) => run.method === method && run.rate === rate && run.seed === seed);
  }

  /** Adds a run and writes all of them. */
  add(run: Run): void {
    this.all.push(run);
    const { conditions, engine, all } = this;
    writeFileAtomic(this.path, JSON.stringify({ ...conditions, engine, runs: all }) + "\n", { force: true });
  }
}

/** Trains at a point of the sweep: cosine from the rate to a tenth of it, ten looks at the held-out text. */
export async function runAt(
  { method, rate, seed }: Point,
  { steps, precision }: Conditions,
  engine: TrainOptions["engine"] & string,
  told: { onEngine(sentence: string): void; onStep(step: number): void },
): Promise<Run> {
  const folder = await Deno.makeTempDir({ prefix: "wishbone-curves-" });
  const projDir = join(folder, "run"), started = performance.now();
  const training: [number, number][] = [];
  let finished = true;
  try {
    await train({
      ...METHODS[method],
      ...{ projDir, lrInit: rate, lrFinal: rate / 10, randomSeed: seed, maxSteps: steps, epochSteps: steps },
      ...{ trainParts: [], samplePrompt: "", evalSteps: Math.ceil(steps / 10), engine, precision },
    }, {
      onMessage: (message) => message.startsWith("Engine") && told.onEngine(message),
      onStep: ({ step, smoothedLoss }) => {
        told.onStep(step);
        training.push([step, Number(smoothedLoss.toFixed(5))]);
      },
    });
  } catch (error) {
    // A rate that ruins the weights is a result.
    if (!/lower --lr_init/.test((error as Error).message)) throw error;
    finished = false;
  }
  const lines = Deno.readTextFileSync(join(projDir, "metrics.jsonl")).trim().split("\n").map((line) =>
    JSON.parse(line)
  );
  const heldOut = lines.flatMap(({ step, heldOutLoss }) =>
    Number.isFinite(heldOutLoss) ? [[step, heldOutLoss]] as [number, number][] : []
  );
  await Deno.remove(folder, { recursive: true });
  const seconds = (performance.now() - started) / 1000;
  return { method, rate, seed, heldOut, training, finished, seconds: Number(seconds.toFixed(2)) };
}
